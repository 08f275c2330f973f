"""Start a network that reuses features from the trained one that it was rewritten from: no training."""

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
    """Give a network that `feature_reuse` made the knowledge of the trained one it was made of, in place.

    Every unit y = [r, f_n] stands in for the C features g that the original makes there. On calibration images, reused
    features are matched with features of g, one with one, so that the sum of their r^2 is largest; the unit's last
    convolution makes those of g that are left, and whoever reads g reads y in that order. In a residual block the
    order is the stream's: b_1 stands in for the first half of what the block adds, b_2 for the other.

    Then every convolution and linear layer, from the first unit on, is solved by least squares, so that it makes what
    the original makes of the same images (see `least_squares`): one image in four is held out and judges.

    Args:
        model: what `feature_reuse` made of `original`.
        original: the trained network; not changed.
        batches: images (n, c, h, w) as the network expects them, or tuples that begin with them; no labels.
        progress: called with (layers done, layers in all).

    Raises:
        ModelError: the network has no units of feature reuse, or is not of this original.
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
        raise ModelError("the network has no units of feature reuse: make them with feature_reuse")
    images = images_of(batches, next(model.parameters()).device)
    watched = duplicate(original).eval()
    try:
        beginning = _Beginning(
            watched, trace(watched, images[0][:1]), _features(watched, [m.unit for _, m in named], images)
        )
        for name, module in named:
            beginning.begin(name, module)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"the network was not rewritten from this original: {error}") from error
    _take_over(model, beginning.staged, [m.unit for _, m in named])

    def pairs_for(example: Tensor) -> tuple[list[Pair], list[Solved]]:
        return _pairs(model, original, beginning.made, example)

    return re_solve(model, original, pairs_for, images, progress)


# --- which feature stands in for which --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """What the channels of a unit stand in for."""

    reused: Tensor
    """Those of the first convolution, or of the unit's input, that are passed on ..."""
    stand_for: Tensor
    """... and the unit's features that each stands in for ..."""
    scale: Tensor
    """... and by how much it would have to be multiplied."""
    made: Tensor
    """The features that the unit makes itself."""


SILENT = 1e-4
"""Share of the mean variance of a layer's features that is no signal."""


def _matched(candidates: Tensor, features: Tensor, k: int) -> _Matched:
    """Match k candidates (rows, c) with as many features (rows, C), each once, so that they are most alike together.

    >>> x = torch.randn(100, 2, dtype=torch.float64)
    >>> found = _matched(x, torch.stack([2 * x[:, 1], torch.randn(100, dtype=torch.float64)], 1), 1)
    >>> found.reused.tolist(), found.stand_for.tolist(), [round(s) for s in found.scale.tolist()], found.made.tolist()
    ([1], [0], [2], [1])
    """
    x, y = candidates - candidates.mean(0), features - features.mean(0)
    covariance = x.T @ y
    # Features that hardly vary match nothing: what they correlate with is noise.
    of_x, of_y = (v + SILENT * v.mean() + torch.finfo(x.dtype).tiny for v in ((x * x).sum(0), (y * y).sum(0)))
    alike = covariance**2 / (of_x[:, None] * of_y)
    pairs = torch.tensor(np.stack(linear_sum_assignment(alike.cpu().numpy(), maximize=True)))
    best = alike.cpu()[pairs[0], pairs[1]].argsort(descending=True, stable=True)[:k]
    reused, stand_for = pairs[:, best]
    scale = (covariance / of_x[:, None])[reused, stand_for]
    return _Matched(reused, stand_for, scale, torch.tensor(sorted(set(range(y.shape[1])) - set(stand_for.tolist()))))


ROWS = 16384
"""Positions, over all images, at which features are compared."""


@torch.no_grad()
def _features(original: nn.Module, units: Iterable[Unit], images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Run the original once, and note what its convolutions read and make, as rows (rows, channels).

    By name: "conv" for what a convolution makes, normalized but not activated, "> conv" for what it reads. All
    features of one unit are averaged to the size of its last, and looked at in the same places.
    """
    found: dict[str, list[Tensor]] = {}
    seen: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_: nn.Module, __: Any, made: Tensor) -> None:
            seen[name] = made.clone()  # what follows may write into it

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


# --- the first weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taken:
    """What a convolution of a unit takes from one of the original's."""

    layer: int
    """Which of the unit's layers."""
    rows: Tensor
    """The channels of it that it makes."""
    columns: Tensor
    """For every channel that it reads, the one that the original's reads in that place; -1 for none."""


class _Beginning:
    """The first weights of a rewritten network, taken from the original's, unit by unit.

    `staged` is a copy of the original whose layers come to read features in the order of the units; `made` says which
    channels of which of the original's weights a weight of the rewritten network makes.
    """

    def __init__(self, original: nn.Module, graph: ChannelGraph, features: dict[str, Tensor]) -> None:
        self.staged = duplicate(original).eval()
        self.made: dict[str, tuple[str, Tensor]] = {}
        self._graph, self._features = graph, features
        self._orders: dict[str, Tensor] = {}
        """For every weight, which of the original's channels each of those that it reads stands for."""

    @torch.no_grad()
    def begin(self, name: str, module: FeatureReuse) -> None:
        """Give a unit its first weights, and let others read what it makes in its order."""
        unit = module.unit
        taken = _of_block(unit) if unit.residual else self._of_stage(module)
        for number, one in enumerate(taken):
            step, (conv, norm) = module.steps[number], unit.layers[one.layer]
            assert isinstance(step, NewFeatures)
            self._fill(step.conv, conv, one)
            for key, tensor in step.norm.state_dict().items():
                old = self.staged.get_submodule(norm).state_dict()[key]
                tensor.copy_(old[one.rows] if old.dim() else old)
            self.made[f"{name}.steps.{number}.conv.weight"] = (f"{conv}.weight", one.rows)

    def _fill(self, conv: nn.Module, name: str, taken: _Taken) -> None:
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
            back = match(passed_on, passed_on.shape[1]).argsort()  # all of them, in their own order
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
            before = [torch.full((k,), -1) for k in self._not_of(unit, number)]
            columns.append(torch.cat([*before, kept[number - 1]]))
        self._reorder(f"{names[-1]}.weight", torch.cat([*stand_for, left]), torch.cat([*scale, torch.ones(len(left))]))
        return [_Taken(number, kept[number], columns[number]) for number in range(len(names))]

    @staticmethod
    def _not_of(unit: Unit, number: int) -> list[int]:
        """Count channels that a convolution of a dense unit reads, and the original's did not."""
        if not unit.dense:
            return []
        base = [unit.reads[1] - unit.makes[0]] if unit.reused == "input" else []
        return [*base, *unit.makes[: number - 1]]

    def _reorder(self, weight: str, order: Tensor, scale: Tensor) -> None:
        """Let whoever reads what a layer makes read channel p where it read channel `order[p]`, times `scale[p]`."""
        group = next((g for g in self._graph.groups if any(axis.parameter == weight for axis in g.filters)), None)
        if group is None or not _is_whole(group, weight, len(order)):
            return  # locked channels: the layers behind are solved from where they are
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
    """Let b_1 stand in for the first half of what a residual block adds, or its pooled input, and b_2 for the other."""
    h = unit.makes[0]
    halves = torch.arange(h), torch.arange(h, 2 * h)
    if unit.residual == "joined":
        return [_Taken(0, halves[0], torch.arange(unit.reads[0])), _Taken(1, halves[1], halves[0])]
    return [_Taken(1, rows, torch.full((reads,), -1)) for rows, reads in zip(halves, unit.reads, strict=True)]


def _is_whole(group: ChannelGroup, weight: str, channels: int) -> bool:
    """Ask whether a group is about all channels that a weight makes, in their order."""
    axis = next(axis for axis in group.filters if axis.parameter == weight)
    return axis.positions.shape == (channels, 1) and (axis.positions[:, 0] == range(channels)).all()


def _take_over(model: nn.Module, staged: nn.Module, units: Iterable[Unit]) -> None:
    """Copy what is not in a unit."""
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
    """Pair the layers from the first unit on with those of the original."""
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
