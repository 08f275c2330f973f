"""Optimizations of `trace`: everything here only saves time.

`off()` disables them; the graph is the same either way (tests/laws/test_fast.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on = ContextVar("fast", default=True)


def is_on() -> bool:
    """Return whether the optimizations are enabled."""
    return _on.get()


@contextmanager
def off() -> Iterator[None]:
    """Disable the optimizations inside this block.

    >>> with off():
    ...     is_on()
    False
    """
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)
