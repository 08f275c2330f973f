"""How long work tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Show:
    """Two ways to tell: a line of text, and a count. Silent by default.

    >>> told = []
    >>> Show(progress=lambda *count: told.append(count)).counting("tracing")(1, 2)
    >>> told
    [('tracing', 1, 2)]
    """

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    """(what, done, in all)."""

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Give the function (done, in all) that library calls report to."""

        def count(done: int, total: int) -> None:
            self.progress(what, done, total)

        return count


SILENT = Show()
