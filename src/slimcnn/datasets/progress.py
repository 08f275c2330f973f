"""A terminal progress bar for work that takes more than a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Yield a function that advances a progress bar, which appears after one second, on a terminal only.

    `total=None` means work of unknown length: the bar is then a pulse.

    >>> with progress("counting", total=3) as advance:
    ...     for _ in range(3):
    ...         advance(1)
    """
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task(description, total=total)
    began = monotonic()

    def advance(amount: float) -> None:
        bar.update(task, advance=amount)
        if console.is_terminal and not bar.live.is_started and monotonic() - began > 1:
            # Older versions of rich allow one bar at a time: if another bar is active, this one is not shown.
            with suppress(LiveError):
                bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
