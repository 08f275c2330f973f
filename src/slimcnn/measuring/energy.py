"""Energy per call from the RAPL counters of Intel and AMD processors on Linux."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

RAPL = Path("/sys/class/powercap")
"""The Linux folder of the counters, with one subfolder per processor package, such as intel-rapl:0."""


def packages(root: Path = RAPL) -> tuple[Path, ...]:
    """List the counters of processor packages; the counter of a package includes its parts (cores, memory)."""
    if not root.is_dir():
        return ()
    return tuple(one for one in sorted(root.glob("intel-rapl:*")) if one.name.count(":") == 1 and _is_package(one))


def why_no_energy(root: Path = RAPL) -> str:
    """Return why energy cannot be measured on this machine, or an empty string.

    >>> why_no_energy(Path("/nowhere"))
    'this machine has no readable energy counters (no RAPL)'
    """
    found = packages(root)
    if not found:
        return "this machine has no readable energy counters (no RAPL)"
    try:
        for one in found:
            _microjoules(one)
    except (OSError, ValueError):
        return f"the energy counters in {root} cannot be read: this user has no permission"
    return ""


def energy(call: Callable[[], object], *, seconds: float = 1.0, root: Path = RAPL) -> float | None:
    """Measure the energy of a call in joules: the counter increase over back-to-back calls, divided by their number.

    The counters cover the whole package, including idle power and other programs.

    Args:
        call: the function to measure; it runs at least once.
        seconds: how long to repeat the call; the counters are updated about once per millisecond.
        root: the folder of the counters.

    Returns:
        joules, or None if there are no readable counters (see `why_no_energy`).
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
    """Return the microjoules since `before`; the counter wraps around to 0 after its maximum."""
    now = _microjoules(folder)
    return now - before if now >= before else now - before + int((folder / "max_energy_range_uj").read_text("utf-8"))
