"""Energy of calls, where the processor counts it: Intel's and AMD's RAPL, as Linux shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

RAPL = Path("/sys/class/powercap")
"""Where Linux shows the counters: one folder a processor package, such as intel-rapl:0."""


def packages(root: Path = RAPL) -> tuple[Path, ...]:
    """List the counters of whole processor packages; parts of a package (cores, memory) are inside its number."""
    if not root.is_dir():
        return ()
    return tuple(one for one in sorted(root.glob("intel-rapl:*")) if one.name.count(":") == 1 and _is_package(one))


def why_no_energy(root: Path = RAPL) -> str:
    """Say why energy cannot be measured here; empty where it can.

    >>> why_no_energy(Path("/nowhere"))
    'this machine shows no energy counters (no RAPL)'
    """
    found = packages(root)
    if not found:
        return "this machine shows no energy counters (no RAPL)"
    try:
        for one in found:
            _microjoules(one)
    except (OSError, ValueError):
        return f"the energy counters in {root} cannot be read by this user"
    return ""


def energy(call: Callable[[], object], *, seconds: float = 1.0, root: Path = RAPL) -> float | None:
    """Joules of one call: the growth of the counters over back-to-back calls, divided by their number.

    The whole package counts, with what it draws while idle and what other programs do meanwhile.

    Args:
        call: what is measured; it runs at least once.
        seconds: for how long it is repeated; the counters tick about once in a millisecond.
        root: where the counters are.

    Returns:
        joules, or None where there are no counters or they cannot be read (see `why_no_energy`).
    """
    if why_no_energy(root):
        return None
    counters = packages(root)
    before = [_microjoules(one) for one in counters]
    calls, end = 0, time.perf_counter() + seconds
    while calls == 0 or time.perf_counter() < end:
        call()
        calls += 1
    used = sum(_grown(one, start) for one, start in zip(counters, before, strict=True))
    return used / 1e6 / calls


def _is_package(folder: Path) -> bool:
    try:
        return (folder / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _microjoules(folder: Path) -> int:
    return int((folder / "energy_uj").read_text(encoding="utf-8"))


def _grown(folder: Path, before: int) -> int:
    """Microjoules since `before`; the counter begins again at 0 behind its highest value."""
    now = _microjoules(folder)
    return now - before if now >= before else now - before + int((folder / "max_energy_range_uj").read_text("utf-8"))
