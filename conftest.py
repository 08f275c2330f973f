"""Ctrl-C works in every test: however pytest was started, and whatever a library did to signals in an earlier test."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")


def _signals() -> str:
    """The masks of blocked, ignored and caught signals of this process, where the system tells."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return " ".join(line for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt")))


def _caught(signals: str) -> bool:
    bit = 1 << (signal.SIGINT - 1)
    masks = dict(zip(signals.split()[::2], (int(mask, 16) for mask in signals.split()[1::2]), strict=True))
    return not masks or bool(masks["SigCgt:"] & bit and not masks["SigBlk:"] & bit)


def _listen() -> None:
    # A background job of a shell inherits that SIGINT is ignored; a library may block it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


_listen()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Restore the handler of SIGINT, and report that an earlier test changed it."""
    handler, signals = signal.getsignal(signal.SIGINT), _signals()
    if handler is not signal.default_int_handler or not _caught(signals):
        print(f"SIGINT was changed before {item.nodeid}: {handler}, {signals}", file=sys.__stderr__, flush=True)
    _listen()
