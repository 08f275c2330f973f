"""Refit layers by least squares to reproduce the outputs of a reference network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimcnn.errors import DataError
from slimcnn.graph.answers import OutputError
from slimcnn.graph.channels import layer_of
from slimcnn.graph.execution import call_model, first_line, outputs_of
from slimcnn.linear.im2col import as_matrix, as_weight, by_image, outputs_at, rows_of
from slimcnn.linear.layers import LinearLayer
from slimcnn.linear.layerwise_replay import LayerwiseReplay, ReplayedOp
from slimcnn.linear.ridge import Solution, Sums, best
from slimcnn.modes import modes_restored

HELD_OUT = 4
"""One image in this many is held out to choose the penalty and to accept or reject the new weights."""


@dataclass(frozen=True)
class Solved:
    """The result of refitting one layer."""

    layer: str
    before: float = 0.0
    """Output MSE on held-out images before refitting."""
    after: float = 0.0
    """Output MSE on held-out images after refitting."""
    penalty: float = 0.0
    """The ridge penalty chosen on held-out images."""
    why_kept: str = ""
    """Why the layer keeps its old weights; empty if it has new ones."""


@dataclass(frozen=True)
class Recovered:
    """The result of `least_squares` or `reuse_features`."""

    layers: tuple[Solved, ...]
    before: float
    """Output MSE of the network against the original on held-out images, before refitting."""
    after: float
    """The same after refitting."""
    undone: bool = False
    """Whether all old weights were restored because the new ones did not reduce the output error."""

    def __str__(self) -> str:
        solved = [layer for layer in self.layers if not layer.why_kept]
        kept = {layer.why_kept: layer.layer for layer in self.layers if layer.why_kept}
        others = "".join(f"; {name} keeps its weights: {why}" for why, name in kept.items())
        if self.undone:
            return f"least squares did not reduce the output error; weights unchanged{others}"
        return (
            f"refitted {len(solved)} layers; output MSE on held-out images "
            f"{self.before:.3g} -> {self.after:.3g}{others}"
        )


Outputs = Callable[[nn.Module, Tensor], list[Tensor]]
"""Runs a network on a batch; returns the outputs that are compared."""


@dataclass(frozen=True)
class Pair:
    """A layer of the pruned network and the corresponding layer of the original."""

    name: str
    small: LinearLayer
    whole: LinearLayer
    weight: nn.Parameter
    bias: nn.Parameter | None
    mean: Tensor | None
    """The running mean of its batch norm."""
    made: Tensor | None
    """The original's output channels that it still has; None for all."""
    scale: Tensor
    """Factors (channels,) by which its batch norm multiplies its outputs."""

    @property
    def to_sum(self) -> bool:
        """Whether the sums that the outputs are added to are compared instead of the outputs."""
        return self.small.added is not None and self.whole.added is not None

    @property
    def ends(self) -> tuple[int, int]:
        """The operations whose results are compared, in the pruned network and in the original."""
        if self.small.added is not None and self.whole.added is not None:
            return self.small.added, self.whole.added
        return self.small.operation, self.whole.operation


def pair_of(name: str, small: LinearLayer, whole: LinearLayer, tensors: dict[str, Tensor], made: Tensor | None) -> Pair:
    """Pair a layer with one of the original; `made` lists the original's output channels to reproduce, None for all."""
    weight, norm = tensors[name], small.norm
    assert isinstance(weight, nn.Parameter)
    bias = tensors[small.bias] if small.bias is not None else None
    scale = torch.ones(as_matrix(small, weight).shape[:2].numel(), device=weight.device)
    if norm is not None:
        scale = (tensors[norm.variance] + norm.eps).rsqrt()
        scale = scale * tensors[norm.scale].detach() if norm.scale is not None else scale
    mean = tensors[norm.mean] if norm is not None else None
    assert bias is None or isinstance(bias, nn.Parameter)
    return Pair(name, small, whole, weight, bias, mean, made, scale)


def re_solve(
    model: nn.Module,
    original: nn.Module,
    pairs_for: Callable[[Tensor], tuple[list[Pair], list[Solved]]],
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    progress: Callable[[int, int], None] = lambda *_: None,
    outputs: Outputs = lambda model, x: outputs_of(call_model(model, x)),
) -> Recovered:
    """Refit layers of `model`, in place and in order, to reproduce the outputs of `original`.

    `pairs_for` is called in eval mode with one image, (1, c, h, w). It returns the layers to refit, and those to skip
    with the reason. A layer whose output error on held-out images does not decrease keeps its weights; so does the
    whole network if its output error does not decrease.

    Raises:
        DataError: no images, images that are not finite, or that the network does not accept.
    """
    images = images_of(batches, next(model.parameters()).device)
    old = {tensor: tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())}
    with modes_restored(model, original), _restored_on_error(old):
        model.eval()
        original.eval()
        _refuse_what_does_not_run(model, images, outputs)
        pairs, left = pairs_for(images[0][:1])
        held = _held_out(images)
        held_images = [x[out] for x, out in zip(images, held, strict=True) if out.any()] or images
        before = _output_mse(model, original, held_images, outputs)
        with LayerwiseReplay(model, images) as small, LayerwiseReplay(original, images) as whole:
            del images
            for number, pair in enumerate(pairs):
                progress(number, len(pairs))
                left.append(_solve(pair, small, whole, held))
        progress(len(pairs), len(pairs))
        after = _output_mse(model, original, held_images, outputs)
        undone = bool(pairs) and not after <= before
        if undone:
            _restore(old)
    return Recovered(tuple(left), before, before if undone else after, undone)


def _solve(pair: Pair, small: LayerwiseReplay, whole: LayerwiseReplay, held: Sequence[Tensor]) -> Solved:
    """Refit one layer if that reduces its output error on held-out images."""
    sums = _sums(pair, small, whole, held)
    if True not in sums or False not in sums:
        return Solved(layer_of(pair.name), why_kept="too few images to hold some out")
    found = best(sums[False], sums[True], shifting=pair.bias is not None or pair.mean is not None)
    if found.change is None:
        return Solved(layer_of(pair.name), found.before, found.before, found.penalty, "no weights reduced the error")
    _change(pair, found)
    return Solved(layer_of(pair.name), found.before, found.after, found.penalty)


def _sums(pair: Pair, small: LayerwiseReplay, whole: LayerwiseReplay, held: Sequence[Tensor]) -> dict[bool, Sums]:
    """Accumulate the second moments of the layer's inputs and output errors; the keys are True for held-out images."""
    layer, images = pair.small, sum(map(len, held))
    waiting: dict[int, tuple[Tensor, Tensor]] = {}
    reached: dict[int, Tensor] = {}
    sums: dict[bool, Sums] = {}
    here, there = pair.ends

    def in_small(batch: int, n: int, operation: ReplayedOp) -> None:
        if n == layer.operation:
            waiting[batch] = rows_of(layer, pair.weight, operation, len(held[batch]), images)
        if n == here:
            out = by_image(layer, operation.out, len(held[batch]))
            if layer.placed and pair.made is not None:
                out = out.index_select(1, pair.made.to(out.device))
            reached[batch] = outputs_at(layer, out, waiting[batch][1])

    def in_whole(batch: int, _: int, operation: ReplayedOp) -> None:
        target = by_image(layer, operation.out, len(held[batch]))
        if pair.made is not None:
            target = target.index_select(1 if layer.convolution else -1, pair.made.to(target.device))
        x, positions = waiting.pop(batch)
        error = (outputs_at(layer, target, positions) - reached.pop(batch)).double()
        if pair.to_sum:
            silent = pair.scale.abs() < 1e-6 * pair.scale.abs().max()
            error = error / pair.scale.double().masked_fill(silent, torch.inf).view(layer.groups, 1, 1, -1)
        out = _held_rows(held[batch], images, x.shape[2]).to(x.device)
        for part in (False, True):
            rows = out == part
            if rows.any():
                new = Sums.of(x[:, rows], error[:, rows])
                sums[part] = sums[part] + new if part in sums else new

    for batch in range(len(held)):  # one at a time, to keep only the rows of one batch in memory
        small.go(layer.operation, here, {layer.operation, here}, in_small, [batch])
        whole.go(pair.whole.operation, there, {there}, in_whole, [batch])
    return sums


def _change(pair: Pair, found: Solution) -> None:
    assert found.change is not None
    assert found.shift is not None
    with torch.no_grad():
        new = as_matrix(pair.small, pair.weight).double() + found.change.transpose(1, 2)
        pair.weight.copy_(as_weight(pair.small, new, pair.weight.shape))
        if pair.bias is not None:
            pair.bias.add_(found.shift.reshape(-1))
        elif pair.mean is not None:
            pair.mean.sub_(found.shift.reshape(-1))


# --- images -------------------------------------------------------------------------------------------------------


def images_of(batches: Iterable[Tensor | tuple[Tensor, ...]], device: torch.device) -> list[Tensor]:
    """Collect calibration images on a device; raise `DataError` if they are not tensors or not finite."""
    images = []
    for number, batch in enumerate(batches):
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise DataError(
                f"batch {number} of the calibration images must be a tensor (n, c, h, w) or a tuple that begins with "
                f"one, found {type(x).__name__}"
            )
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise DataError(
                f"batch {number} of the calibration images has {bad} values that are not finite: check the data"
            )
        if len(x):
            images.append(x.to(device))
    if not images:
        raise DataError("no images to refit layers with: give at least one batch")
    return images


def _refuse_what_does_not_run(model: nn.Module, images: Sequence[Tensor], outputs: Outputs) -> None:
    """Run one image of each size; raise `DataError` if the network does not accept it."""
    for x in {x.shape[1:]: x for x in images}.values():
        _run(model, x[:1], outputs)


def _held_out(images: Sequence[Tensor]) -> list[Tensor]:
    """Mark held-out images by their index among all images, independent of the division into batches."""
    ends = torch.tensor([len(x) for x in images]).cumsum(0).tolist()
    return [torch.arange(end - len(x), end) % HELD_OUT == HELD_OUT - 1 for x, end in zip(images, ends, strict=True)]


def _held_rows(held: Tensor, images: int, positions: int) -> Tensor:
    """Mark held-out rows (n, positions): those of held-out images, or some positions if there are too few images."""
    if images >= HELD_OUT:
        return held[:, None].expand(-1, positions)
    return (torch.arange(positions) % HELD_OUT == HELD_OUT - 1).expand(len(held), -1)


def _output_mse(model: nn.Module, original: nn.Module, batches: Sequence[Tensor], outputs: Outputs) -> float:
    error = OutputError()
    for x in batches:
        error.add(_run(model, x, outputs), _run(original, x, outputs))
    return error.value


def _run(model: nn.Module, x: Tensor, outputs: Outputs) -> list[Tensor]:
    try:
        with torch.no_grad():
            return outputs(model, x.clone())
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"calibration images {tuple(x.shape)} fail: {first_line(error)}") from error


# --- the network --------------------------------------------------------------------------------------------------


@contextmanager
def _restored_on_error(old: dict[Tensor, Tensor]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _restore(old)
        raise


def _restore(old: dict[Tensor, Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in old.items():
            tensor.copy_(value)
