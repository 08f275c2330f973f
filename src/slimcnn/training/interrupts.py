"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_noted() -> Iterator[threading.Event]:
    """Within the block a first Ctrl-C only sets the event, so that no step is cut in half; a second one raises.

    Outside of the main thread, and where somebody else handles Ctrl-C already, nothing changes.

    >>> with interrupts_noted() as asked:
    ...     signal.raise_signal(signal.SIGINT)
    ...     asked.is_set()
    True
    """
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
