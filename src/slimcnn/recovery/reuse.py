"""Initialize a network with feature reuse from the trained network it was rewritten from, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.graph.channels import ChannelGroup, layer_of
from slimcnn.graph.copying import duplicate
from slimcnn.layers.reusing import FeatureReuse, NewFeatures, ReusingBlock, Unit
from slimcnn.linear.im2col import MOST_INPUTS, as_matrix
from slimcnn.linear.layers import layers_of
from slimcnn.recovery.refit import Pair, Recovered, Solved, images_of, pair_of, re_solve


def reuse_features(
    model: nn.Module,
    original: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Recovered:
    """Initialize a network made by `feature_reuse` from the trained original, in place.

    Every unit y = [r, f_n] replaces the C features g of the original. On calibration images, reused features are
    matched one to one with features of g so that the sum of their r^2 is maximal. The unit's last convolution computes
    the remaining features of g, and layers that read g read y in that order. A residual block keeps the order of its
    stream: b_1 replaces the first half of the block's summand, b_2 the second.

    Then every convolution and linear layer, from the first unit on, is refitted by least squares to reproduce the
    original's outputs (see `least_squares`), with one image in four held out.

    Args:
        model: the result of `feature_reuse` on `original`; changed in place.
        original: the trained network; not changed.
        batches: images (n, c, h, w) as the network expects them, or tuples that begin with them; no labels.
        progress: called with (layers done, layers in total).

    Raises:
        ModelError: the network has no feature reuse units, or was not made from this original.
        DataError: no images, images that are not finite, or that the network does not accept.

    Source: ours; the paper trains from scratch.

    >>> import slimcnn
    >>> _ = torch.manual_seed(0)
    >>> net = slimcnn.build("vgg11", width=0.25).eval()
    >>> small = slimcnn.replace(net, "feature_reuse")
    >>> found = reuse_features(small, net, [torch.randn(64, 3, 32, 32)])
    >>> found.after < found.before
    True
    """
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, FeatureReuse)]
    if not named:
        raise ModelError("the network has no feature reuse units: rewrite it with feature_reuse first")
    images = images_of(batches, next(model.parameters()).device)
    watched = duplicate(original).eval()
    try:
        initial = _InitialWeights(
            watched, trace(watched, images[0][:1]), _features(watched, [m.unit for _, m in named], images)
        )
        for name, module in named:
            initial.fill(name, module)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"the network was not rewritten from this original: {error}") from error
    _copy_outside_units(model, initial.staged, [m.unit for _, m in named])

    def pairs_for(example: Tensor) -> tuple[list[Pair], list[Solved]]:
        return _pairs(model, original, initial.made, example)

    return re_solve(model, original, pairs_for, images, progress)


# --- matching features ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """The match between reused channels and the features that they replace."""

    reused: Tensor
    """The reused channels of the unit's input or of its first convolution."""
    stand_for: Tensor
    """The feature that each reused channel replaces."""
    scale: Tensor
    """The factor by which each reused channel best fits its feature."""
    made: Tensor
    """The features that the unit computes itself."""


SILENT = 1e-4
"""Fraction of the mean variance of a layer's features that counts as noise."""


def _matched(candidates: Tensor, features: Tensor, k: int) -> _Matched:
    """Match k candidates (rows, c) one to one with features (rows, C) so that their total r^2 is maximal.

    >>> x = torch.randn(100, 2, dtype=torch.float64)
    >>> found = _matched(x, torch.stack([2 * x[:, 1], torch.randn(100, dtype=torch.float64)], 1), 1)
    >>> found.reused.tolist(), found.stand_for.tolist(), [round(s) for s in found.scale.tolist()], found.made.tolist()
    ([1], [0], [2], [1])
    """
    x, y = candidates - candidates.mean(0), features - features.mean(0)
    covariance = x.T @ y
    # Features that hardly vary must not match anything: their correlations are noise.
    of_x, of_y = (v + SILENT * v.mean() + torch.finfo(x.dtype).tiny for v in ((x * x).sum(0), (y * y).sum(0)))
    alike = covariance**2 / (of_x[:, None] * of_y)
    pairs = torch.tensor(np.stack(linear_sum_assignment(alike.cpu().numpy(), maximize=True)))
    best = alike.cpu()[pairs[0], pairs[1]].argsort(descending=True, stable=True)[:k]
    reused, stand_for = pairs[:, best]
    scale = (covariance / of_x[:, None])[reused, stand_for]
    return _Matched(reused, stand_for, scale, torch.tensor(sorted(set(range(y.shape[1])) - set(stand_for.tolist()))))


ROWS = 16384
"""Number of positions, over all images, at which features are compared."""


@torch.no_grad()
def _features(original: nn.Module, units: Iterable[Unit], images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Run the original once and record inputs and outputs of its convolutions as rows (rows, channels).

    The key "conv" is the output of a convolution, normalized but not activated; "> conv" is its input. All features of
    a unit are average-pooled to the size of its last one and sampled at the same positions.
    """
    found: dict[str, list[Tensor]] = {}
    seen: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_: nn.Module, __: Any, made: Tensor) -> None:
            seen[name] = made.clone()  # later in-place operations may overwrite it

        return note

    def reading(name: str) -> Callable[[nn.Module, Any], None]:
        def read(_: nn.Module, inputs: Any) -> None:
            seen[f"> {name}"] = inputs[0].clone()

        return read

    units, total = list(units), sum(map(len, images))
    handles: list[Any] = []
    for unit in units:
        for conv, norm in unit.layers:
            handles.append(original.get_submodule(norm or conv).register_forward_hook(noting(conv)))
        handles.append(original.get_submodule(unit.layers[0][0]).register_forward_pre_hook(reading(unit.layers[0][0])))
    try:
        for x in images:
            original(x)
            for unit in units:
                names = [f"> {unit.layers[0][0]}", *(conv for conv, _ in unit.layers)]
                size = seen[names[-1]].shape[2:]
                places = torch.randperm(size.numel(), generator=torch.Generator().manual_seed(0))[: -(-ROWS // total)]
                for name in names:
                    rows = F.adaptive_avg_pool2d(seen[name], (size[0], size[1])).flatten(2)[:, :, places.to(x.device)]
                    found.setdefault(name, []).append(rows.transpose(1, 2).flatten(0, 1))
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(rows).double() for name, rows in found.items()}


# --- initial weights --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taken:
    """The part of an original convolution that a convolution of a unit is initialized with."""

    layer: int
    """Index of the original convolution in the unit's layers."""
    rows: Tensor
    """Its output channels that are used."""
    columns: Tensor
    """For every input channel of the new convolution, the original's input channel; -1 for none."""


class _InitialWeights:
    """Initial weights of a rewritten network, taken from the original, unit by unit.

    `staged` is a copy of the original whose layers are changed to read features in the order of the units. `made` maps
    each weight of the rewritten network to a weight of the original and its output channels.
    """

    def __init__(self, original: nn.Module, graph: ChannelGraph, features: dict[str, Tensor]) -> None:
        self.staged = duplicate(original).eval()
        self.made: dict[str, tuple[str, Tensor]] = {}
        self._graph, self._features = graph, features
        self._orders: dict[str, Tensor] = {}
        """Weight → the original's channel for each of its input channels."""

    @torch.no_grad()
    def fill(self, name: str, module: FeatureReuse) -> None:
        """Initialize a unit, and reorder the inputs of the layers that read its output."""
        unit = module.unit
        taken = _of_block(unit) if unit.residual else self._of_stage(module)
        for number, one in enumerate(taken):
            step, (conv, norm) = module.steps[number], unit.layers[one.layer]
            assert isinstance(step, NewFeatures)
            self._fill_convolution(step.conv, conv, one)
            for key, tensor in step.norm.state_dict().items():
                old = self.staged.get_submodule(norm).state_dict()[key]
                tensor.copy_(old[one.rows] if old.dim() else old)
            self.made[f"{name}.steps.{number}.conv.weight"] = (f"{conv}.weight", one.rows)

    def _fill_convolution(self, conv: nn.Module, name: str, taken: _Taken) -> None:
        old = self.staged.get_submodule(name)
        rows = old.weight[taken.rows]  # type: ignore[index]
        known = taken.columns >= 0
        conv.weight.zero_()  # type: ignore[operator]
        conv.weight[:, known] = rows[:, taken.columns[known]]  # type: ignore[operator]
        if conv.bias is not None:
            conv.bias.copy_(old.bias[taken.rows])  # type: ignore[operator, index]

    def _of_stage(self, module: FeatureReuse) -> list[_Taken]:
        unit, names = module.unit, [conv for conv, _ in module.unit.layers]
        made = [module.activation(self._features[name]) for name in names]
        order = self._orders.get(f"{names[0]}.weight", torch.arange(unit.reads[0]))
        read = self._features[f"> {names[0]}"][:, order]
        target, left = made[-1], torch.arange(made[-1].shape[1])
        stand_for, scale = [], []
        kept: list[Tensor] = []

        def match(candidates: Tensor, k: int) -> Tensor:
            nonlocal left
            found = _matched(candidates, target[:, left], k)
            stand_for.append(left[found.stand_for])
            scale.append(found.scale)
            left = left[found.made]
            return found.reused

        if unit.reused != "first":
            passed_on = read[:, -(target.shape[1] - sum(unit.makes if unit.dense else unit.makes[-1:])) :]
            back = match(passed_on, passed_on.shape[1]).argsort()  # all are matched; restore their original order
            stand_for[0], scale[0] = stand_for[0][back], scale[0][back]
        for number, k in enumerate(unit.makes[:-1]):
            if unit.dense or (unit.reused == "first" and number == 0):
                kept.append(match(made[number], k))
            else:
                weight = self.staged.get_submodule(names[number + 1]).weight
                use = weight.double().flatten(2).norm(dim=2).norm(dim=0) * made[number].std(0)  # type: ignore[operator]
                kept.append(use.topk(k).indices.sort().values)
        kept.append(left)
        columns = [torch.arange(unit.reads[0])]
        for number in range(1, len(names)):
            before = [torch.full((k,), -1) for k in self._added_inputs(unit, number)]
            columns.append(torch.cat([*before, kept[number - 1]]))
        self._reorder(f"{names[-1]}.weight", torch.cat([*stand_for, left]), torch.cat([*scale, torch.ones(len(left))]))
        return [_Taken(number, kept[number], columns[number]) for number in range(len(names))]

    @staticmethod
    def _added_inputs(unit: Unit, number: int) -> list[int]:
        """Count the input channels of a convolution in a dense unit that the original convolution does not have."""
        if not unit.dense:
            return []
        base = [unit.reads[1] - unit.makes[0]] if unit.reused == "input" else []
        return [*base, *unit.makes[: number - 1]]

    def _reorder(self, weight: str, order: Tensor, scale: Tensor) -> None:
        """Make the readers of a layer's output use channel p in place of channel `order[p]`, times `scale[p]`."""
        group = next((g for g in self._graph.groups if any(axis.parameter == weight for axis in g.filters)), None)
        if group is None or not _is_whole(group, weight, len(order)):
            return  # locked channels: the next layers are refitted from their current weights
        tensors = {**dict(self.staged.named_parameters()), **dict(self.staged.named_buffers())}
        reads = {(axis.parameter, axis.axis) for axis in group.reads}
        for axis in group.axes:
            if axis.blocks > 1 or axis.parameter == weight:
                continue
            positions = torch.from_numpy(axis.positions)
            tensor = tensors[axis.parameter]
            new = tensor.index_select(axis.axis, positions[order].flatten())
            if (axis.parameter, axis.axis) in reads:
                known = self._orders.setdefault(axis.parameter, torch.arange(axis.size))
                known[positions.flatten()] = known[positions[order].flatten()]
                factors = scale[:, None].expand(-1, positions.shape[1]).flatten().to(new.dtype)
                new = new * factors.view(-1, *[1] * (new.dim() - axis.axis - 1))
            tensor.index_copy_(axis.axis, positions.flatten(), new)


def _of_block(unit: Unit) -> list[_Taken]:
    """Let b_1 or the pooled input replace the first half of a residual block's summand, and b_2 the second half."""
    h = unit.makes[0]
    halves = torch.arange(h), torch.arange(h, 2 * h)
    if unit.residual == "joined":
        return [_Taken(0, halves[0], torch.arange(unit.reads[0])), _Taken(1, halves[1], halves[0])]
    return [_Taken(1, rows, torch.full((reads,), -1)) for rows, reads in zip(halves, unit.reads, strict=True)]


def _is_whole(group: ChannelGroup, weight: str, channels: int) -> bool:
    """Return whether a channel group consists of all output channels of a weight, in order."""
    axis = next(axis for axis in group.filters if axis.parameter == weight)
    return axis.positions.shape == (channels, 1) and (axis.positions[:, 0] == range(channels)).all()


def _copy_outside_units(model: nn.Module, staged: nn.Module, units: Iterable[Unit]) -> None:
    """Copy all tensors that do not belong to a unit."""
    kinds = (FeatureReuse, ReusingBlock)
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, kinds))
    replaced = tuple(f"{name}." for unit in units for layer in unit.layers for name in layer if name)
    old, new = staged.state_dict(), model.state_dict()
    shapes = {name: tensor.shape for name, tensor in old.items() if not name.startswith((*replaced, *inside))}
    wanted = {name: tensor.shape for name, tensor in new.items() if not name.startswith(inside)}
    if shapes != wanted:
        other = next(name for name in {**shapes, **wanted} if shapes.get(name) != wanted.get(name))
        raise ModelError(f"the network was not rewritten from this original: they differ in {other!r}")
    for name in wanted:
        new[name].copy_(old[name])


def _pairs(
    model: nn.Module, original: nn.Module, made: dict[str, tuple[str, Tensor]], example: Tensor
) -> tuple[list[Pair], list[Solved]]:
    """Pair all layers from the first unit on with those of the original."""
    small, whole = layers_of(model, example), layers_of(original, example)
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    first = min((layer.operation for name, layer in small.items() if name in made), default=0)
    pairs, left = [], []
    for name, layer in small.items():
        of, channels = made.get(name, (name, None))
        if layer.operation < first or of not in whole:
            continue
        inputs = as_matrix(layer, tensors[name]).shape[2]
        if inputs > MOST_INPUTS:
            left.append(Solved(layer_of(name), why_kept=f"{inputs} inputs are more than {MOST_INPUTS}"))
            continue
        pairs.append(pair_of(name, layer, whole[of], tensors, channels))
    return pairs, left
