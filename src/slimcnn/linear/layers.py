"""Find the layers of a network that can be refitted by least squares, from one traced run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from slimcnn.linear.op_trace import RecordedOp, Version, names_of_tensors, record


@dataclass(frozen=True)
class Norm:
    """The batch norm directly after a layer: the names of its tensors."""

    mean: str
    variance: str
    scale: str | None
    eps: float


@dataclass(frozen=True)
class LinearLayer:
    """A convolution or linear layer whose weight is a parameter that is used once."""

    weight: str
    bias: str | None
    operation: int
    """The number of its operation in a run (see `layerwise_replay.computes`)."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    """Output padding of a transposed convolution."""
    transposed: bool = False
    groups: int = 1
    norm: Norm | None = None
    added: int | None = None
    """The operation that adds the output of the layer, or of its norm, to another tensor of the same shape."""
    placed: bool = False
    """The output was scattered into a stream before the sum (see `slimcnn.scatter`)."""

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution, not a linear layer."""
        return bool(self.stride)

    @property
    def made_axis(self) -> int:
        """The weight's output-channel axis; for a grouped transposed convolution, the channels of one group."""
        return 1 if self.transposed else 0

    @property
    def read_axis(self) -> int:
        """The weight's input-channel axis."""
        return 0 if self.transposed else 1


def layers_of(model: nn.Module, example: Any) -> dict[str, LinearLayer]:
    """Return the layers of a network in eval mode that can be refitted, by the names of their weights, in order.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    >>> found = layers_of(net, torch.zeros(1, 3, 8, 8))
    >>> list(found), found["0.weight"].norm.mean, found["3.weight"].bias
    (['0.weight', '3.weight'], '1.running_mean', '3.bias')
    """
    recorder, outputs = record(model, example)
    names = names_of_tensors(model)
    readers: dict[Version, list[int]] = defaultdict(list)
    for number, step in enumerate(recorder.steps):
        for version in set(step.reads):
            readers[version].append(number)
    for version in recorder.versions_of(outputs):
        readers[version].append(len(recorder.steps))  # the caller of the network
    found: dict[str, list[LinearLayer]] = defaultdict(list)
    turned: dict[int, str] = {}
    for step in recorder.steps:
        if step.kind == "transpose" and step.reads[0][0] in names and len(readers[step.reads[0]]) == 1:
            turned[step.makes[0][0]] = names[step.reads[0][0]]
        layer = _layer(step, names, turned)
        if layer is not None and _only_used_here(layer, step, readers):
            layer = replace(layer, bias=_unshared(layer, step, readers))
            found[layer.weight].append(_with_followers(layer, step, recorder.steps, readers, names))
    return {name: uses[0] for name, uses in found.items() if len(uses) == 1}


def readers_of(model: nn.Module, example: Any) -> dict[str, tuple[str, ...]]:
    """Return, for every convolution, the convolutions that read its output and nothing added or concatenated to it.

    Norms, pooling and elementwise functions may lie between. Grouped convolutions are not listed as readers.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    >>> readers_of(net, torch.zeros(1, 3, 8, 8))
    {'0.weight': ('3.weight',)}
    """
    recorder, _ = record(model, example)
    names = names_of_tensors(model)
    origin: dict[Version, str] = {}
    found: dict[str, list[str]] = defaultdict(list)
    for step in recorder.steps:
        sources = {origin.get(version, "") for version in step.reads if version[0] not in names}
        source = sources.pop() if len(sources) == 1 else ""
        if step.kind == "convolution" and id(step.args[1]) in names:
            weight = names[id(step.args[1])]
            if source and step.args[8] == 1:
                found[source].append(weight)
            origin[step.makes[0]] = weight
        elif source and (step.pointwise or step.kind in ("norm", "pooling")):
            origin[step.makes[0]] = source
    return {name: tuple(readers) for name, readers in found.items()}


def _only_used_here(layer: LinearLayer, step: RecordedOp, readers: dict[Version, list[int]]) -> bool:
    """Whether no other operation reads the weight."""
    place = 1 if layer.convolution or layer.bias is None else 2
    return all(len(readers[version]) == 1 for version in step.reads[place : place + 1])


def _unshared(layer: LinearLayer, step: RecordedOp, readers: dict[Version, list[int]]) -> str | None:
    """Return the name of the bias if no other layer shares it."""
    if layer.bias is None:
        return None
    return layer.bias if len(readers[step.reads[2 if layer.convolution else 0]]) == 1 else None


def _layer(step: RecordedOp, names: dict[int, str], turned: dict[int, str]) -> LinearLayer | None:
    if step.kind == "convolution":
        _, weight, bias, stride, padding, dilation, transposed, extra, groups = step.args
        if id(weight) in names and (bias is None or id(bias) in names):
            space = weight.dim() - 2
            s, p, d, e = (tuple(v) * (space // len(v)) for v in (stride, padding, dilation, extra))
            known = None if bias is None else names[id(bias)]
            return LinearLayer(names[id(weight)], known, step.number, s, p, d, e, transposed, groups)
    if step.kind != "matrix product" or id(step.args[-1]) not in turned:
        return None
    weight, bias = turned[id(step.args[-1])], step.args[0] if len(step.args) == 3 else None
    if bias is None or id(bias) in names:
        return LinearLayer(weight, None if bias is None else names[id(bias)], step.number)
    return None


def _with_followers(
    layer: LinearLayer,
    step: RecordedOp,
    steps: list[RecordedOp],
    readers: dict[Version, list[int]],
    names: dict[int, str],
) -> LinearLayer:
    """Add the norm and the sum directly after a layer, if no other operation reads its output."""
    made = step.makes[0]
    if len(readers[made]) != 1 or readers[made][0] == len(steps):
        return layer
    after = readers[made][0]
    if steps[after].kind == "norm":
        _, scale, _, mean, variance, *_, eps = [a for a in steps[after].args if not isinstance(a, bool)]
        if id(mean) not in names or id(variance) not in names:
            return layer
        known = None if scale is None else names.get(id(scale))
        if (scale is not None and known is None) or not all(len(readers[id(t), 0]) == 1 for t in (mean, variance)):
            return layer
        layer = replace(layer, norm=Norm(names[id(mean)], names[id(variance)], known, eps))
        made = steps[after].makes[0]
        if len(readers[made]) != 1 or readers[made][0] == len(steps):
            return layer
        after = readers[made][0]
    placed = steps[after].kind == "placement" and id(steps[after].args[2]) in names
    if placed:
        made = steps[after].makes[0]
        if len(readers[made]) != 1 or readers[made][0] == len(steps):
            return layer
        after = readers[made][0]
    if _adds_two(steps[after]):
        layer = replace(layer, added=steps[after].number, placed=placed)
    return layer


def _adds_two(step: RecordedOp) -> bool:
    """Whether an operation adds two different tensors of the same shape."""
    if step.kind != "sum" or len(step.args) != 2 or not step.plain or len(set(step.reads)) != 2:
        return False
    return all(isinstance(a, Tensor) and a.shape == step.args[0].shape for a in step.args)
