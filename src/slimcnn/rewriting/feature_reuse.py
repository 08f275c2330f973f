"""Feature reuse (the FR-unit): half of a convolution's output channels are replaced by existing features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from slimcnn.errors import ModelError
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import call_model, outputs_of
from slimcnn.layers.reusing import Unit, reuse, units_in
from slimcnn.linear.op_trace import ModuleCall, Version
from slimcnn.rewriting.finding import (
    Activation,
    Convolution,
    ConvolutionRun,
    Structure,
    activation_behind,
    block_around,
    pooled,
    structure_of,
)
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, rewrites

VARIANTS = ("pair", "chain", "half", "dense")
TRANSITIONS = ("keep", "concat")

FoundUnits = tuple[list[Unit], dict[str, str]]
"""The units, and the convolutions that are in none, with the reason."""


@rewrites.add(
    "feature_reuse", source="Ji, Yang, Huang, Yin 2019, J. Computer Applications 39(6):1607-1613; our reading"
)
def feature_reuse(variant: str = "pair", transition: str = "keep", seed: int = 0) -> RewriteRule:
    """Compute only half of the features of convolutions, and concatenate them with existing features.

    In a plain stage of n convolutions of width C, h = C/2, on an input of width i (a = activation, N = batch norm):

    * f_1 = a(N(W_1 x)) of width h, f_j = a(N(W_j f_{j-1})) of width h, y = [r, f_n].
    * pair: if i = h, r = x and the whole stage is one unit; otherwise convolutions are paired from the end, r = f_1,
      and the first of an odd number stays unchanged.
    * chain: every stage is one unit; r = x if i = h, otherwise r = f_1.
    * half: every convolution that reads h or more channels computes h; the last h of its input are concatenated.
    * dense: every convolution reads all previous features of the stage, including r, and y contains all.

    In a residual block of two convolutions of equal width: b_1 = N(W_1 x), b_2 = N(W_2 a(b_1)), y = a([b_1, b_2] + x).
    Features are concatenated before the activation, so that both halves of the summand keep their signs. A block that
    changes width or size stays unchanged ("keep"), or becomes a([pooled x, b_2]) without its shortcut ("concat", if the
    width doubles). In a bottleneck the first two convolutions are a pair; the last one stays unchanged.

    Reused features that are larger than the new ones are average-pooled. Units have random weights: train the network,
    or initialize it from the original's features (`slimcnn.recovery.reuse_features`).

    Args:
        variant: "pair", "chain", "half" or "dense".
        transition: "keep" or "concat".
        seed: seed of the random weights.

    Raises:
        ModelError: an option has an unknown value.

    Source: the abstract of Ji et al. 2019 states that input and output features are combined and passed on, and reports
    75.4 % of VGG's volume and 53.1 % of ResNet's. Which features, and where, is our interpretation: "pair" gives
    75.36 % for VGG-16 and 53.91 % for ResNet-20.

    >>> import slimcnn
    >>> net = slimcnn.build("resnet20")
    >>> slimcnn.measure(slimcnn.replace(net, feature_reuse()), torch.zeros(1, 3, 32, 32)).params
    145402
    """
    for name, value, known in (("variant", variant, VARIANTS), ("transition", transition, TRANSITIONS)):
        if value not in known:
            raise ModelError(f"{name}={value!r} is unknown: choose {', '.join(known)}")

    def rewrite(model: nn.Module, example: Any) -> Rewritten:
        if units_in(model):
            raise ModelError("the network already reuses features: rewrite the original network instead")
        watched = duplicate(model).eval().to("cpu")
        at_home = tree_map_only(torch.Tensor, torch.Tensor.cpu, example)
        structure = structure_of(watched, at_home)
        units, left = _units(structure, variant, transition)
        new = duplicate(model)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            reuse(new, units)
            changes = tuple(_changes(structure, units, left))
            _refuse_other_outputs(watched, units, at_home)
        return Rewritten(new, changes)

    return rewrite


def _refuse_other_outputs(watched: nn.Module, units: list[Unit], example: Any) -> None:
    """Run the rewritten network once; raise `ModelError` if its output shapes differ from the original's."""
    with torch.no_grad():
        before = [out.shape for out in outputs_of(call_model(watched, example))]
        reuse(watched, units)
        try:
            after = [out.shape for out in outputs_of(call_model(watched, example))]
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelError(f"the rewritten network does not run: {error}") from error
    if before != after:
        raise ModelError(f"the rewritten network returns {after} where the original returns {before}")


def _changes(structure: Structure, units: list[Unit], left: dict[str, str]) -> Iterator[Change]:
    done: dict[str, str] = {}
    for unit in units:
        source = unit.layers[0][0]
        for (conv, _), reads, makes in zip(unit.layers, unit.reads, unit.makes, strict=True):
            old = structure.model.get_submodule(conv)
            assert isinstance(old, nn.Conv2d)
            done[conv] = f"{reads} → {makes} channels (was {old.in_channels} → {old.out_channels})"
        last = unit.layers[-1][0]
        reused = {"input": "the unit's input", "half": "half of its input"}.get(unit.reused, source)
        between = " and all layers between" if unit.dense and len(unit.layers) > 2 else ""
        done[last] += f", concatenated with {reused}{between}"
    for name, module in structure.model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            yield Change(name, done.get(name, ""), left.get(name, "") if name not in done else "")


# --- which units ------------------------------------------------------------------------------------------------------


def _units(structure: Structure, variant: str, transition: str) -> FoundUnits:
    units: list[Unit] = []
    left = dict(structure.left)
    for run in structure.runs:
        found, reasons = _of_run(structure, run, variant, transition)
        units += found
        left |= reasons
    return units, left


def _of_run(structure: Structure, run: ConvolutionRun, variant: str, transition: str) -> FoundUnits:
    if run.into_sum and len(run.convolutions) == 2:
        return _of_block(structure, run, variant, transition)
    plain = run.convolutions[:-1] if run.into_sum else run.convolutions
    left = {run.convolutions[-1].name: "its output is added to other features"} if run.into_sum else {}
    if not plain:
        return [], left
    if run.width % 2:
        return [], left | _left(plain, f"it has an odd number of output channels ({run.width})")
    units, others = _of_stage(structure, plain, variant)
    return units, left | others


def _left(convolutions: tuple[Convolution, ...], why: str) -> dict[str, str]:
    return {one.name: why for one in convolutions}


def _of_stage(structure: Structure, stage: tuple[Convolution, ...], variant: str) -> FoundUnits:
    """Divide a plain stage into units."""
    h, fits = stage[0].makes // 2, stage[0].reads == stage[0].makes // 2
    parts: list[tuple[Convolution, ...]] = [stage]
    alone: tuple[Convolution, ...] = ()
    if variant == "half":
        parts = [(one,) for one in stage if one.reads >= h]
        left = {one.name: "it reads fewer channels than it would have to reuse" for one in stage if one.reads < h}
    elif variant == "pair" and not fits:
        alone = stage[: len(stage) % 2]
        parts = [stage[k : k + 2] for k in range(len(alone), len(stage), 2)]
        left = _left(alone, "it has no partner in its stage, and its input does not have half its output channels")
    elif len(stage) == 1 and not fits:
        parts, left = [], _left(stage, "alone in its stage, and its input does not have half its output channels")
    else:
        left = {}
    units = []
    for part in parts:
        reused = "half" if variant == "half" else "input" if fits else "first"
        why = _why_no_unit(structure, part, reused, variant == "dense")
        if why:
            left |= _left(part, why)
        else:
            units.append(_unit(part, part[0].name, reused, variant == "dense"))
    return units, left


def _unit(
    part: tuple[Convolution, ...], place: str, reused: str, dense: bool, residual: Literal["", "sum", "joined"] = ""
) -> Unit:
    width, h, n = part[0].makes, part[0].makes // 2, len(part)
    makes = [h] * n
    if dense:
        first = [] if reused == "input" else [h]
        makes = first + _shares(width - h, n - len(first))
    base = h if reused == "input" else 0
    if reused == "half":
        reads = [part[0].reads, *[width] * (n - 1)]
    elif dense:
        reads = [part[0].reads, *(base + sum(makes[:k]) for k in range(1, n))]
    else:
        reads = [part[0].reads, *[h] * (n - 1)]
    return Unit(
        place=place,
        layers=tuple((one.name, one.norm) for one in part),
        reads=tuple(reads),
        makes=tuple(makes),
        reused=reused,
        activation=_activation_of(part),
        stride=_stride(part, reused),
        dense=dense and n > 1,
        residual=residual,
        silenced=() if residual else tuple(_silenced(part)),
    )


def _shares(whole: int, n: int) -> list[int]:
    """Divide channels into n counts that differ by at most 1, the larger ones first.

    >>> _shares(128, 3)
    [43, 43, 42]
    """
    return [whole // n + (k < whole % n) for k in range(n)]


def _activation_of(part: tuple[Convolution, ...]) -> str:
    activation = part[0].activation
    assert activation is not None
    return activation.known or activation.module


def _stride(part: tuple[Convolution, ...], reused: str) -> int:
    stride = 1
    for one in part[1:] if reused == "first" else part:
        stride *= one.stride
    return stride


def _silenced(part: tuple[Convolution, ...]) -> Iterator[str]:
    """List the modules that the unit replaces, except its first convolution, whose place it takes."""
    for number, one in enumerate(part):
        if number:
            yield one.name
        if one.norm:
            yield one.norm
        if one.activation is not None and one.activation.module:
            yield one.activation.module


def _why_no_unit(structure: Structure, part: tuple[Convolution, ...], reused: str, dense: bool) -> str:
    """Return why these convolutions cannot form a unit, or an empty string."""
    activations = [one.activation for one in part if one.activation is not None]
    if len({activation.like for activation in activations}) > 1:
        return "activations in its stage differ"
    again = any(not activation.module for activation in activations)
    if again and not activations[0].known:
        return "its activation is a function or a shared module, and applying it twice would change the features"
    if again and reused != "first" and not part[0].reads_not_below_zero:
        return "its activation is a function or a shared module, and would change reused features that are below 0"
    silent = structure.silent_between(part)
    if silent:
        return f"{silent} is active in its stage during training, between convolutions that would become one unit"
    if dense and any(one.stride > 1 for one in part[1:]):
        return "a convolution within its stage has a stride"
    return _why_sizes_differ(part, reused)


def _why_sizes_differ(part: tuple[Convolution, ...], reused: str) -> str:
    sizes = [part[0].size_in, *(one.size_out for one in part)]
    if reused == "first":
        sizes = sizes[1:]
    strides = [one.stride for one in (part[1:] if reused == "first" else part)]
    for (before, after), stride in zip(pairwise(sizes), strides, strict=True):
        if pooled(before, stride) != after:
            shapes = " from ".join("x".join(map(str, size)) for size in (after, before))
            return f"the size of reused features does not match that of its output ({shapes} pixels)"
    return ""


# --- residual blocks --------------------------------------------------------------------------------------------------


def _of_block(structure: Structure, run: ConvolutionRun, variant: str, transition: str) -> FoundUnits:
    """Rewrite a block of two convolutions of equal width, a shortcut and a sum."""
    first, last = run.convolutions
    assert last.added is not None
    total = structure.recorder.steps[last.added]
    shortcut = [one for one in total.reads if one != last.out]
    end = activation_behind(structure, total.makes[0])
    block = block_around(structure, first, end.out) if end else None
    if end is None or block is None or len(shortcut) != 1:
        return [], _left(run.convolutions, "its residual block is not a separate module that ends in an activation")
    why = _why_no_block(structure, run, block, end, shortcut[0])
    doubles = first.reads == first.makes // 2
    changes = shortcut[0] != first.source or first.stride != 1 or first.reads != first.makes
    if not why and changes and (transition == "keep" or not doubles):
        why = "its block changes the width or size and keeps its shortcut"
        why += " (transition=concat rewrites it)" if doubles else ""
    reused = "input" if changes else "half" if variant == "half" else "first"
    why = why or _why_sizes_differ(run.convolutions, reused)
    if why:
        return [], _left(run.convolutions, why)
    return [_unit(run.convolutions, block.module, reused, variant == "dense", "joined" if changes else "sum")], {}


def _why_no_block(
    structure: Structure, run: ConvolutionRun, block: ModuleCall, closing: Activation, shortcut: Version
) -> str:
    """Return why a block cannot become a unit, or an empty string."""
    first, last = run.convolutions
    inner = first.activation
    assert inner is not None
    if run.width % 2:
        return f"it has an odd number of output channels ({run.width})"
    if inner.like != closing.like:
        return "the activations of its block differ"
    if not inner.known and not inner.module:
        return "its activation is a function or a shared module that a unit cannot copy"
    known = {*first.steps, *last.steps, last.added, closing.step} | structure.ancestors(shortcut, block)
    others = (structure.recorder.steps[k] for k in range(block.begin, block.end) if k not in known)
    more = [step.name for step in others if step.counts]
    if more:
        return f"its block has other operations: {', '.join(dict.fromkeys(more))}"
    silent = structure.silent_within(block)
    return f"{silent} is active in its block during training, and the rewritten block would lack it" if silent else ""
