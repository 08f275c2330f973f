"""Garbage collection holds still for a moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Put Python's search for reference cycles off until the block ends.

    A trace makes many small objects and drops them again, none in cycles.  Each full collection that they set off would
    walk through all that PyTorch holds: 0.2 s, about as long as the trace.

    >>> with uncollected():
    ...     gc.isenabled()
    False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
