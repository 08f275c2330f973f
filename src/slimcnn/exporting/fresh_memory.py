"""Run an exported file in a fresh process and measure its memory.

This file is a script, not a module of the package: `python -P fresh_memory.py job.json`. Needs numpy and the runtime.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

CALLS = 3


def main(job: dict[str, Any]) -> None:
    """Run the probe, a one-layer network that loads libraries and thread pools; then measure the file."""
    for name in job["blocked"]:
        sys.modules[name] = None  # type: ignore[assignment] # importing it raises ImportError
    spec = importlib.util.spec_from_file_location("reader", job["reader"])
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    with np.load(job["inputs"]) as held:
        probed, asked = held["probe"], held["model"]
    reader.open_model(job["probe"], job["threads"])(probed)
    gc.collect()
    with suppress(OSError, AttributeError):  # return freed memory to the system (glibc only)
        ctypes.CDLL(None).malloc_trim(0)
    before = _now()
    predict = reader.open_model(job["model"], job["threads"])
    for _ in range(CALLS):
        predict(asked)
    peak = _peak()
    Path(job["outputs"]).write_text(json.dumps({"peak": peak, "above": max(peak - before, 0)}), encoding="utf-8")


def _now() -> int:
    """Return the resident bytes now, and reset the peak where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    """Return the peak of resident bytes so far."""
    try:
        return _status("VmHWM")
    except OSError:
        import resource  # not available on Windows

        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
