"""Metrics of torchmetrics as meters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from slimcnn.errors import DataError
from slimcnn.measuring.metric import Metric
from slimcnn.tasks.task import finite

INSTALL = "pip install 'slimcnn[tasks]'"


def torchmetric(name: str, *arguments: Any, **options: Any) -> Any:
    """Make a metric of torchmetrics by its qualified name; its import takes seconds, so that it is done here.

    Raises:
        DataError: torchmetrics is missing, or a package that the metric needs.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(f"torchmetrics.{module}".rstrip(".")), attribute)
        return found(*arguments, **options)
    except ModuleNotFoundError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the metric {attribute} needs a package that is missing ({reason}): {INSTALL}") from error


class TorchMetric:
    """A metric of torchmetrics, fed with the outputs of a network.

    Counting happens on the CPU. In several processes, torchmetrics sums the counts of all of them.
    """

    def __init__(
        self, metric: Metric, counter: Any, arguments: Callable[[Any, Tensor, Tensor], tuple[Any, ...]],
        factor: float = 1.0, key: str = "",
    ) -> None:  # fmt: skip
        self._metric, self._counter, self._arguments = metric, counter, arguments
        self._factor, self._key = factor, key

    def update(self, output: Any, x: Tensor, y: Tensor) -> None:
        """Add a batch."""
        self._counter.update(*_on_cpu(self._arguments(output, x, y)))

    def value(self) -> float:
        """Return the metric in its unit; `DataError` if it is not a number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # classes without examples do not count
            found = self._counter.compute()
        found = found[self._key] if self._key else found
        number = float(found)
        return finite(self._metric, number * self._factor if number >= 0 else float("nan"))  # -1: nothing to find


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(one) for name, one in value.items()}
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value
