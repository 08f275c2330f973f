"""Run converters and runtimes without their chatter, and without what they change in the process."""

from __future__ import annotations

import ctypes
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, log lines and progress bars inside the block; exceptions are raised as usual.

    Afterwards, signal handlers run on the stack on which they ran before (see `_same_signal_stack`).
    """
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        _same_signal_stack(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack after the block.

    OpenVINO's CPU plugin sets one for each `Core` and unmaps it when the `Core` goes. It puts back the previous stack,
    which another `Core` may have unmapped; then the next signal that Python handles, such as the end of a child
    process, crashes the process (OpenVINO 2026.4).
    """
    if sys.platform == "win32":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = ctypes.create_string_buffer(64)  # a stack_t, which is at most 24 bytes long
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)
