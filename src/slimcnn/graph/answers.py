"""What is compared of two networks' answers to the same input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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

    whole = {lock.layer for lock in graph.locked if lock.channels == lock.of} if graph.selects else set()
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
