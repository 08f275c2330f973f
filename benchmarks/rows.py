"""Helpers of the benchmarks: compare a figure with its target, measure a row once, describe the environment."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slimcnn.files import write_text
from slimcnn.measuring import environment


def meets_target(what: str, found: float, target: float) -> bool:
    """Print a figure and its upper limit; return whether the limit is met."""
    good = found <= target
    print(f"{'ok  ' if good else 'MISS'}  {what}: {found:.3g} (target: at most {target:g})", flush=True)
    return good


def measured(path: Path, function: Callable[[], dict], *shown: str) -> None:
    """Measure a row and write it to `path`, unless the file exists; print the entries `shown`."""
    if path.exists():
        return
    began = time.perf_counter()
    found = function() | {"seconds": time.perf_counter() - began, "environment": environment()}
    write_text(path, json.dumps(found, indent=1) + "\n")
    print(path.stem, {name: found.get(name) for name in shown}, flush=True)


def spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def environment_lines(found: Sequence[dict]) -> list[str]:
    """Return the environments and commits of the rows, as lines of a page."""
    known = sorted({json.dumps(one["environment"] | {"commit": ""}, sort_keys=True) for one in found})
    commits = sorted({one["environment"]["commit"] for one in found})
    return ["Measured on:", *(f"- `{place}`" for place in known), f"- commits: {', '.join(commits)}", ""]
