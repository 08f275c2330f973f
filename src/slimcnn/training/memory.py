"""Keep freed memory in the allocator."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for reuse; return whether it accepted the settings.

    A training step on a CPU frees its activations and allocates the same amounts in the next step. By default glibc
    returns them to the system and gets new pages, each of which costs a page fault (20,000 per step of ResNet-20).
    The settings hold until the process ends. Without glibc, this does nothing.
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
