"""Check that prune(model) and mask(model) compute the same function."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from slimcnn.errors import ModelError, NotEqual, WeightsError
from slimcnn.graph import ChannelGraph
from slimcnn.graph.answers import locked_outputs
from slimcnn.graph.channels import layer_of
from slimcnn.graph.copying import duplicate, duplicate_as, shares_memory
from slimcnn.graph.execution import call_model, counted, first_line
from slimcnn.graph.removal import kept_positions
from slimcnn.pruning.choices import SameChoices
from slimcnn.pruning.plan import Plan

TOLERANCE = 1e-9
"""Largest relative error that counts as equal in float64."""

LOW_PRECISION_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The same for networks whose code requires another dtype."""


@dataclass(frozen=True)
class Copies:
    """Makes copies of a network, each for one run, so that never two copies are in memory at once."""

    network: nn.Module
    change: Callable[[nn.Module], nn.Module] = lambda copied: copied
    """Changes every copy in place, and returns it."""

    @property
    def dtype(self) -> torch.dtype:
        """The network's own precision."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def in_type(self, dtype: torch.dtype) -> nn.Module:
        """Return a new copy on the CPU."""
        if shares_memory(self.network):  # a change of one tensor must change the other
            return self.change(duplicate(self.network)).cpu().to(dtype)
        return self.change(duplicate_as(self.network, dtype))


@dataclass(frozen=True)
class Verdict:
    """The result of comparing the pruned network with the masked network, in eval mode."""

    equal: bool
    error: float
    """Largest difference of an output, relative to the largest output."""
    layer: str = ""
    """The first layer whose output differs; empty when equal."""
    dtype: str = "float64"
    """Precision of the comparison: float64, unless the network's code requires another dtype."""
    inexact: str = ""
    """Why exact equality is impossible, where the user allows that; except for the norms named here, all is equal."""
    failure: str = ""
    """Why the pruned network does not run; it entered `layer` last."""

    @property
    def holds(self) -> bool:
        """Whether the networks are equal, or differ only where the user allows it."""
        return self.equal or bool(self.inexact)

    def __str__(self) -> str:
        if self.equal:
            return f"equal: pruned and masked network match (relative error {self.error:.1e} in {self.dtype})"
        if self.inexact:
            return (
                f"cannot be equal, because {self.inexact} (relative difference {self.error:.1e}); without the "
                f"statistics of these norms, pruned and masked network match ({self.dtype})"
            )
        if self.failure:
            return f"wrong at {self.layer or 'the input'} or just after it: the pruned network fails: {self.failure}"
        return f"wrong at {self.layer or 'the output'}: relative error {self.error:.1e} in {self.dtype}"


def verify(masked: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan) -> Verdict:
    """Compare the pruned with the masked network on an input like the example, in float64.

    If the network was traced at two image sizes, it is compared at both.

    In float64, rounding neither hides nor causes a difference: equal means a relative error below 1e-9. A network
    whose code requires another dtype is compared in that dtype, with a larger tolerance. Where norms lose channels
    (`trace(..., inexact=True)`), the comparison runs those norms as scale and shift only.

    Raises:
        ModelError: the masked network does not run, or its output differs between runs.
        WeightsError: the masked network's output is not finite.
    """
    return compare(Copies(masked), Copies(small), graph, plan)


def compare(masked: Copies, small: Copies, graph: ChannelGraph, plan: Plan) -> Verdict:
    """Do the work of `verify` on copies that are made when they are needed."""
    verdict = _compare_at(masked, small, graph, plan)
    if graph.other_example is None or not verdict.holds:
        return verdict
    other = _compare_at(masked, small, replace(graph, example=graph.other_example), plan)
    return max(verdict, other, key=lambda one: (not one.holds, one.error))


def _compare_at(masked: Copies, small: Copies, graph: ChannelGraph, plan: Plan) -> Verdict:
    inexact = _why_inexact(graph, plan)
    if not inexact:
        return _compare(masked, small, graph, plan)
    with NormsOnlyScale():
        verdict = _compare(masked, small, graph, plan)
    if not verdict.equal:
        return verdict
    dtype, one = _in_best_type(masked, graph)
    error = _relative_error(one, _run(small, graph, dtype))
    return replace(verdict, equal=False, error=error, inexact=inexact)


class NormsOnlyScale(TorchDispatchMode):
    """Run layer, group and RMS norms as scale and shift only, so that no channel depends on the others."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
            return func(*args, **(kwargs or {}))
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        given |= kwargs or {}
        x, shape = given["input"], [1, -1] + [1] * (given["input"].dim() - 2)
        for parameter, operation in (("weight", torch.mul), ("bias", torch.add)):
            values = given.get(parameter)
            if values is not None:
                x = operation(x, values.view(shape) if "group" in given else values)
        rest = len(func._schema.returns) - 1
        return (x, *(x.new_empty(0) for _ in range(rest)))


def _why_inexact(graph: ChannelGraph, plan: Plan) -> str:
    norms = list(dict.fromkeys(graph[name].inexact for name in plan.removed if graph[name].inexact))
    more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
    return f"{norms[0]}{more} normalizes over fewer channels" if norms else ""


def _compare(masked: Copies, small: Copies, graph: ChannelGraph, plan: Plan) -> Verdict:
    dtype, one = _in_best_type(masked, graph)
    tolerance = LOW_PRECISION_TOLERANCE.get(dtype, TOLERANCE)
    name = str(dtype).removeprefix("torch.")
    try:
        two = _run(small, graph, dtype)
        if graph.selects and _relative_error(one, two) >= tolerance:
            # Equal scores are ordered by their last bits, on which the number of boxes may depend too.
            choices = SameChoices(tolerance)
            one = _run(masked, graph, dtype, choices=choices)
            two = _run(small, graph, dtype, choices=choices.repeated())
    except _Failed as failed:
        return Verdict(False, float("inf"), failed.layer, name, failure=failed.reason)
    error = _relative_error(one, two)
    if error < tolerance:
        return Verdict(True, error, dtype=name)
    if _relative_error(one, _run(masked, graph, dtype, seed=1)) >= tolerance:
        raise ModelError(
            "the network's output differs between runs (its forward draws random numbers), so the cut cannot be "
            "proven; turn that off in eval mode, or prune with verify=False"
        )
    expected, found = (_layers(copies, graph, dtype) for copies in (masked, small))
    return Verdict(False, error, _first_difference(expected, found, _kept_outputs(graph, plan), tolerance), name)


def check_equal(masked: Copies, small: nn.Module, graph: ChannelGraph, plan: Plan) -> Verdict:
    """Compare like `verify`, and raise `NotEqual` if the networks differ in a way that the user does not allow."""
    verdict = compare(masked, Copies(small), graph, plan)
    if not verdict.holds:
        protect = f", and protect {verdict.layer!r} until this is fixed" if verdict.layer else ""
        raise NotEqual(
            f"pruned and masked network differ, {verdict}; the pruned model is not returned. This is a bug in slimcnn: "
            f"please report the network{protect}"
        )
    return verdict


class _Failed(Exception):
    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(layer)
        self.layer = layer
        self.reason = reason


def _in_best_type(masked: Copies, graph: ChannelGraph) -> tuple[torch.dtype, list[Tensor]]:
    """Run the masked network in float64, or in the most precise dtype that its code accepts."""
    for dtype in dict.fromkeys((torch.float64, torch.float32, masked.dtype)):
        try:
            return dtype, _run(masked, graph, dtype)
        except _Failed as failed:
            last = failed
    raise ModelError(f"the network does not run on its example: it failed at {last.layer}: {last.reason}") from last


def _run(
    copies: Copies, graph: ChannelGraph, dtype: torch.dtype, seed: int = 0, choices: SameChoices | None = None
) -> list[Tensor]:
    """Return the outputs of a network in eval mode on the CPU.

    A detector's answer may be empty, so the outputs of its layers that keep all their channels come with it. `choices`
    makes two runs select the same.
    """
    network = copies.in_type(dtype)
    with locked_outputs(network, graph) as seen, choices or nullcontext():
        return _run_this(network, graph, dtype, seed) + list(seen.values())


def _layers(copies: Copies, graph: ChannelGraph, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the output of every leaf module in execution order."""
    network = copies.in_type(dtype)
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if not any(module.children()):
            module.register_forward_hook(_record_output(name, seen))
    _run_this(network, graph, dtype)
    return seen


def _run_this(network: nn.Module, graph: ChannelGraph, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    entered = [""]
    for name, module in network.eval().named_modules():
        if not any(module.children()):
            module.register_forward_pre_hook(_record_entry(name, entered))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return counted(call_model(network, _input_like(graph.example, dtype)), graph.output)
    except Exception as error:
        raise _Failed(entered[-1], first_line(error)) from error


def _input_like(example: Any, dtype: torch.dtype) -> Any:
    """Replace an example's numbers (often zeros) by normally distributed ones: zeros could hide a difference."""
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)

    return tree_map_only(Tensor, fill, example)


def _record_entry(name: str, entered: list[str]) -> Callable[[nn.Module, Any], None]:
    return lambda _module, _inputs: entered.append(name)


def _record_output(name: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and name not in seen:
            seen[name] = output.clone()

    return record


def _relative_error(a: list[Tensor], b: list[Tensor]) -> float:
    if len(a) != len(b):
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("the network's output on normally distributed input is not finite; check its weights")
        x, y = x.detach().double(), y.detach().double()
        scale = float(x.abs().max()) if x.numel() else 0.0
        difference = float((x - y).abs().max()) if x.numel() else 0.0
        worst = max(worst, difference / scale if scale > 0 else difference)
    return worst


def _kept_outputs(graph: ChannelGraph, plan: Plan) -> dict[str, list[Tensor]]:
    """List, for every layer that produces or passes on channels, the kept positions on each axis of its weights."""
    kept = kept_positions(graph, plan.by_index(graph))
    reads = {(axis.parameter, axis.axis) for group in graph.groups for axis in group.reads}
    left: dict[str, list[Tensor]] = {}
    for name, axes in kept.items():
        left.setdefault(layer_of(name), []).extend(axes[axis] for axis in axes if (name, axis) not in reads)
    return left


def _first_difference(
    one: dict[str, Tensor], two: dict[str, Tensor], kept: dict[str, list[Tensor]], tolerance: float
) -> str:
    for name, x in one.items():
        y = two.get(name)
        if y is None:
            return name
        if x.dim() > 1 and x.shape != y.shape:
            fitting = [positions for positions in kept.get(name, []) if len(positions) == y.size(1)]
            x = x.index_select(1, fitting[0]) if fitting else x
        if x.shape == y.shape and _relative_error([x], [y]) >= tolerance:
            return name
    return ""
