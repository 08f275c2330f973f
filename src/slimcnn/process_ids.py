"""Process names that let another process check whether a process still runs."""

from __future__ import annotations

import os
import re
import secrets
from functools import cache
from pathlib import Path
from platform import node

PATTERN = r"(?P<number>\d+)-(?P<start>\d+)(?:-(?P<token>[0-9a-f]+))?@(?P<host>.+)"
"""Regular expression of the names that `this_process` returns."""

_NAME = re.compile(PATTERN)


def this_process() -> str:
    """Return the name of this process: process ID, start time, random token and host.

    Start time and token distinguish it from other processes with the same ID: in a container, the main process is
    always number 1. The start time is 0 where the system does not report it.

    >>> is_running(this_process()), is_running("1-2@another-host"), is_running("not a process")
    (True, None, None)
    """
    number = os.getpid()
    return f"{number}-{_start_of(number)}-{_token_of(number)}@{node()}"


def is_running(process: str) -> bool | None:
    """Return whether a process named by `this_process` still runs; None if this host cannot know.

    A zombie (killed, but not yet waited for by its parent) does not run.
    """
    found = _NAME.fullmatch(process)
    if found is None or found["host"] != node() or os.name != "posix":
        return None
    number = int(found["number"])
    if number == os.getpid():
        return process == this_process()  # else an earlier process had the number of this one
    try:
        os.kill(number, 0)
    except PermissionError:
        pass  # runs as another user
    except (ProcessLookupError, OverflowError):
        return False
    state, start = _stat_of(number)
    return state != "Z" and (start == 0 or int(found["start"]) in (0, start))


@cache
def _token_of(number: int) -> str:
    """Return a token drawn once per process; a forked child has another number, so it draws another one."""
    return secrets.token_hex(4)


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
