"""Tests of Ctrl-C must not depend on how they were started: a shell's background jobs inherit that it is ignored."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
