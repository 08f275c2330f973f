"""Process names that let another process check whether a process still runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from platform import node

_NAME = re.compile(r"(?P<number>\d+)-(?P<start>\d+)@(?P<host>.+)")


def this_process() -> str:
    """Return the name of this process: process ID, start time and host.

    The start time distinguishes it from a later process with the same ID; it is 0 where the system does not report it.

    >>> is_running(this_process()), is_running("1-2@another-host"), is_running("not a process")
    (True, None, None)
    """
    return f"{os.getpid()}-{_start_of(os.getpid())}@{node()}"


def is_running(process: str) -> bool | None:
    """Return whether a process named by `this_process` still runs; None if this host cannot know.

    A zombie (killed, but not yet waited for by its parent) does not run.
    """
    found = _NAME.fullmatch(process)
    if found is None or found["host"] != node() or os.name != "posix":
        return None
    number = int(found["number"])
    try:
        os.kill(number, 0)
    except PermissionError:
        pass  # runs as another user
    except (ProcessLookupError, OverflowError):
        return False
    state, start = _stat_of(number)
    return state != "Z" and (start == 0 or int(found["start"]) in (0, start))


def _start_of(number: int) -> int:
    return _stat_of(number)[1]


def _stat_of(number: int) -> tuple[str, int]:
    """Return the state of a process and its start time in clock ticks since boot; "?" and 0 outside Linux."""
    try:
        # The process name may contain spaces; the third and later fields follow its closing parenthesis.
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "?", 0
