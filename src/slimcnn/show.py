"""Progress reports of long operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

WARNING = "WARNING: "
"""Prefix of a line that is shown in red."""

EVERY_SECONDS = 30.0
"""How often progress is a line where the output is no terminal."""


@dataclass(frozen=True)
class Show:
    """Progress callbacks: for lines of text, for counts, for metrics. Silent by default.

    >>> calls = []
    >>> Show(progress=lambda *count: calls.append(count)).counting("tracing")(1, 2)
    >>> calls
    [('tracing', 1, 2)]
    """

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    """(what, done, total)."""
    log: Callable[[Mapping[str, float]], None] = lambda _: None
    """The metrics of an epoch, after each that this call trains; see `Epoch.scalars`."""

    def warn(self, text: str) -> None:
        """Show a line that must not be overlooked.

        >>> Show(say=print).warn("train lowered validation top-1")
        WARNING: train lowered validation top-1
        """
        self.say(WARNING + text)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Return a progress callback (done, total) for library calls."""

        def count(done: int, total: int) -> None:
            self.progress(what, done, total)

        return count


SILENT = Show()


@contextmanager
def watched(quiet: bool = False) -> Iterator[Show]:
    """Show lines and a progress bar on stderr or in a notebook."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(MofNCompleteColumn):
        """Nothing instead of 0/? where nobody counts."""

        def render(self, task: Task) -> Text:
            return super().render(task) if task.total is not None else Text("")

    console = Console(stderr=True, quiet=quiet, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), Count(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as bars:
        working = bars.add_task("working", total=None)
        counting = bars.add_task("", total=1, visible=False)

        def say(text: str) -> None:
            console.print(text, markup=False, style="bold red" if text.startswith(WARNING) else None)

        told = time.monotonic()

        def progress(what: str, done: int, total: int) -> None:
            nonlocal told
            if not console.is_terminal and time.monotonic() - told > EVERY_SECONDS:  # a log file has no bar
                console.print(f"  {what}: {done} of {total}", markup=False)
                told = time.monotonic()
            bars.update(counting, description=what, completed=done, total=total, visible=done < total)
            bars.update(working, visible=done == total)

        yield Show(say=say, progress=progress)
