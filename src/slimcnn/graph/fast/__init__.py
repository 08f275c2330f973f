"""Shortcuts of `trace`: everything here saves time only, and a reader may skip it.

`off()` turns them all off; the graph is the same either way (tests/laws/test_fast.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on = ContextVar("fast", default=True)


def is_on() -> bool:
    """Ask whether the shortcuts are taken."""
    return _on.get()


@contextmanager
def off() -> Iterator[None]:
    """Trace the plain way until the block ends.

    >>> with off():
    ...     is_on()
    False
    """
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)
