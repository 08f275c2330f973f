"""What is compared of two networks' answers to the same input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.execution import call_model, counted


@contextmanager
def locked_outputs(model: nn.Module, graph: ChannelGraph) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of layers that keep all their channels, if the network is a detector.

    Thresholds and non-maximum suppression let boxes appear and vanish; the heads' outputs before them are comparable.
    """
    seen: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                key = name
                while key in seen:  # a head that runs once for each level of a pyramid
                    key += "'"
                seen[key] = output.clone()

        return record

    locked = Counter[str]()
    for lock in graph.locked:  # a layer may be locked in parts, each with a reason of its own
        locked[lock.layer] += lock.channels
    whole = {lock.layer for lock in graph.locked if locked[lock.layer] == lock.of} if graph.selects else set()
    handles = [
        module.register_forward_hook(recorder(name))
        for name, module in model.named_modules()
        if name in whole and not any(module.children())
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def compared_outputs(model: nn.Module, x: Any, graph: ChannelGraph) -> list[Tensor]:
    """Run a network; return its outputs that count, or those of its heads if it is a detector.

    >>> import torch
    >>> from slimcnn.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1))
    >>> len(compared_outputs(net, torch.zeros(1, 3, 2, 2), trace(net, torch.zeros(1, 3, 2, 2))))
    1
    """
    with locked_outputs(model, graph) as seen:
        outputs = counted(call_model(model, x), graph.output)
    fitting = [one for one in seen.values() if len(one) == len(x)]
    return fitting or outputs


CONSTANT = 1e-12
"""Share of the largest variance of an output up to which another one is constant, and does not count."""


class OutputError:
    """The mean squared difference between the outputs of two networks, added up over batches.

    Of several outputs k with the variances v_k, every one counts the same, whatever its scale: the offsets of boxes as
    much as the scores of classes.

        mean_k(v_k) · mean_k(MSE_k / v_k)

    For one output, this is its MSE. Of several, constant ones do not count.

    >>> error = OutputError()
    >>> error.add([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 2.0])])
    >>> error.value
    2.0
    >>> small, large = torch.tensor([0.0, 2.0]), torch.tensor([0.0, 200.0])
    >>> one, other = OutputError(), OutputError()
    >>> one.add([small + 1, large], [small, large])
    >>> other.add([small, large + 100], [small, large])
    >>> one.value == other.value
    True
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Add the outputs for a batch."""
        sums = []
        for one, other in zip(outputs, expected, strict=True):
            y = other.double()
            numbers = (y.new_tensor(y.numel()), (one.double() - y).square().sum(), y.sum(), y.square().sum())
            sums.append(torch.stack(numbers))
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums

    @property
    def value(self) -> float:
        """The error of all batches; 0 if there are none."""
        filled = [one for one in self._sums if one[0]]
        if not filled:
            return 0.0
        n, squares, total, power = torch.stack([one.cpu() for one in filled]).T
        error, variance = squares / n, (power / n - (total / n) ** 2).clamp(min=0)
        counts = variance > CONSTANT * variance.max()
        if len(filled) == 1 or not counts.any():
            return float(error.mean())
        return float(variance[counts].mean() * (error[counts] / variance[counts]).mean())
