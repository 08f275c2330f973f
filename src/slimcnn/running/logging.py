"""Loggers for `on_epoch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from slimcnn.errors import RecipeError


def tensorboard(folder: Path | str) -> Callable[[Mapping[str, float]], None]:
    """Return a function that writes the metrics of an epoch to a folder for `tensorboard --logdir`.

    Pass it as `on_epoch` to `slimcnn.run` or `slimcnn.chain`, or call it with `epoch.scalars()` in a loop over
    `slimcnn.fit`. A run that goes on after an interruption goes on in the same curves.

    Raises:
        RecipeError: the package tensorboard is not installed, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RecipeError("TensorBoard's files need the package tensorboard: pip install tensorboard") from None
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise RecipeError(f"cannot write to the TensorBoard folder {folder}: {error.strerror}") from None

    def log(scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(scalars["epoch"]))
        writer.flush()

    return log
