"""The cost of giving memory back."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed for the next step, and say whether it listened.

    A training step on a CPU frees its activations and asks for the same amounts in the next step.  glibc hands them
    to the system and gets them back as fresh pages, each of which costs a page fault (20,000 per step of ResNet-20).
    This makes it keep them, for the whole process and its whole life. Does nothing where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limits = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20))
    answers = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in limits]
    return answers == [1, 1, 1]
