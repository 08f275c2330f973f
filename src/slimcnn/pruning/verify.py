"""The law: prune(model) and mask(model) are the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from slimcnn.errors import LawBroken, WeightsError
from slimcnn.graph import ChannelGraph
from slimcnn.graph.running import call_model
from slimcnn.graph.trial import kept_positions
from slimcnn.pruning.plan import Plan

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verdict:
    """The outcome of comparing the pruned with the masked network, in float64 and eval mode."""

    equal: bool
    error: float
    """Largest difference of any output, relative to the largest output."""
    layer: str = ""
    """The first layer whose output differs; empty when equal."""

    def __str__(self) -> str:
        if self.equal:
            return f"equal: the pruned network is the masked network (relative error {self.error:.1e} in float64)"
        return f"wrong at {self.layer or 'the output'}: relative error {self.error:.1e} in float64"


def verify(masked: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan) -> Verdict:
    """Compare the masked with the pruned network on an input like the example, in float64.

    Float64 leaves no room for rounding to hide or to fake a difference: equal means a relative error below 1e-9.

    Raises:
        WeightsError: the masked network's own output is not finite.
    """
    example = _input_like(graph.example)
    a, seen_a = _run(masked, example)
    try:
        b, seen_b = _run(small, example)
    except _Failed as failed:
        return Verdict(False, float("inf"), failed.layer)
    error = _relative_error(a, b)
    if error < TOLERANCE:
        return Verdict(True, error)
    return Verdict(False, error, _first_difference(seen_a, seen_b, _kept_outputs(graph, plan)))


def law(masked: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan) -> Verdict:
    """Verify, and raise `LawBroken` where the networks differ."""
    verdict = verify(masked, small, graph, plan)
    if not verdict.equal:
        raise LawBroken(
            f"the pruned network is not the masked network, {verdict}; nothing is handed over. This is a bug: please "
            f"report the network, and protect {verdict.layer!r} until it is mended"
        )
    return verdict


class _Failed(Exception):
    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer


def _input_like(example: Any) -> Any:
    """Replace numbers of an example (often zeros) by normal ones, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    return tree_map_only(Tensor, fill, example)


def _run(model: nn.Module, example: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run a float64 copy; give its outputs, and the output of every leaf module by name."""
    double = copy.deepcopy(model).cpu().double().eval()
    seen: dict[str, Tensor] = {}
    entered: list[str] = []
    for name, module in double.named_modules():
        if not any(module.children()):
            module.register_forward_pre_hook(_noting(name, entered))
            module.register_forward_hook(_keeping(name, seen))
    try:
        with torch.no_grad():
            output = call_model(double, example)
    except Exception as error:
        raise _Failed(entered[-1] if entered else "") from error
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)], seen


def _noting(name: str, entered: list[str]) -> Callable[[nn.Module, Any], None]:
    return lambda _module, _inputs: entered.append(name)


def _keeping(name: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and name not in seen:
            seen[name] = output.clone()

    return keep


def _relative_error(a: list[Tensor], b: list[Tensor]) -> float:
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("the network's own output is not finite on a normal input; check its weights")
        if x.shape != y.shape:
            return float("inf")
        scale = float(x.abs().max()) if x.numel() else 0.0
        difference = float((x - y).abs().max()) if x.numel() else 0.0
        worst = max(worst, difference / scale if scale > 0 else difference)
    return worst


def _kept_outputs(graph: ChannelGraph, plan: Plan) -> dict[str, Tensor]:
    kept = kept_positions(graph, plan.by_index(graph))
    filters = {(axis.parameter, axis.axis) for group in graph.groups for axis in group.filters}
    return {
        name.rpartition(".")[0]: axes[axis] for name, axes in kept.items() for axis in axes if (name, axis) in filters
    }


def _first_difference(a: dict[str, Tensor], b: dict[str, Tensor], kept: dict[str, Tensor]) -> str:
    for name, x in a.items():
        y = b.get(name)
        if y is None:
            return name
        if name in kept and x.dim() > 1 and x.shape != y.shape:
            x = x.index_select(1, kept[name])
        if x.shape == y.shape and _relative_error([x], [y]) >= TOLERANCE:
            return name
    return ""
