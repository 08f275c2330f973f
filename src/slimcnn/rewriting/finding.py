"""Find the plain stages and residual blocks of a network in one recorded run, independent of class names."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph.channels import layer_of
from slimcnn.graph.operations import operation
from slimcnn.linear.layers import LinearLayer, layers_of
from slimcnn.linear.op_trace import ModuleCall, RecordedOp, Recorder, Version, names_of_tensors, record
from slimcnn.modes import modes_restored

RANDOM = ("dropout", "bernoulli", "rand", "normal_", "uniform_")
"""Parts of the names of random operations."""

OUTSIDE = -1
"""The reader of the network's outputs."""


@dataclass(frozen=True)
class Activation:
    """An element-wise function after a layer."""

    step: int
    out: Version
    module: str
    """The module that does only this; empty for a function or a shared module."""
    known: str
    """relu or relu6, which are idempotent; else empty."""
    like: str
    """A description that is equal for equal activations."""


@dataclass(frozen=True)
class Convolution:
    """A convolution, with the norm and activation that alone read its output."""

    name: str
    step: int
    reads: int
    makes: int
    stride: int
    source: Version
    """Its input."""
    reads_not_below_zero: bool
    size_in: tuple[int, ...]
    size_out: tuple[int, ...]
    out: Version
    """The output of its norm and activation."""
    norm: str = ""
    activation: Activation | None = None
    added: int | None = None
    """The step that adds its output to something else."""
    next: str = ""
    """The convolution that is the only reader of its output."""
    why_not: str = ""
    """Why it cannot be rewritten; empty if it can."""
    steps: tuple[int, ...] = ()
    """The steps of convolution, norm and activation."""


@dataclass(frozen=True)
class ConvolutionRun:
    """Convolutions of equal width, each the only reader of the previous one."""

    convolutions: tuple[Convolution, ...]

    @property
    def width(self) -> int:
        """Output channels of each convolution."""
        return self.convolutions[0].makes

    @property
    def into_sum(self) -> bool:
        """Whether the output of the last one is added to something else."""
        return self.convolutions[-1].added is not None


@dataclass
class Structure:
    """The structure of a network that a rewrite needs: the recorded run, and its runs of convolutions."""

    model: nn.Module
    recorder: Recorder
    readers: dict[Version, list[int]]
    """Tensor version → the steps that read it."""
    maker: dict[Version, int]
    runs: list[ConvolutionRun] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """Convolutions that belong to no run, and why."""
    training: Recorder | None = None
    """A recorded run in training mode; None if that fails."""

    def silent_between(self, convolutions: tuple[Convolution, ...]) -> str:
        """Return what is active between convolutions only in training, such as dropout; empty if nothing."""
        inside = {one.out for one in convolutions[:-1]}
        module = next((c.module for c in self._silent() if set(c.inputs) & inside), "")
        places = [self._step_in_training(one.name) for one in (convolutions[0], convolutions[-1])]
        return module or self._random(min(places), max(places))

    def silent_within(self, call: ModuleCall) -> str:
        """Return what is active in a block only in training; empty if nothing."""
        prefix = f"{call.module}."
        module = next((c.module for c in self._silent() if c.module.startswith(prefix)), "")
        calls = [one for one in (self.training.calls if self.training else ()) if one.module == call.module]
        return module or next((found for one in calls if (found := self._random(one.begin, one.end))), "")

    def _step_in_training(self, convolution: str) -> int:
        weight = id(self.model.get_submodule(convolution).weight)
        steps = self.training.steps if self.training else []
        found = (k for k, step in enumerate(steps) if step.kind == "convolution" and id(step.args[1]) == weight)
        return next(found, OUTSIDE)

    def _random(self, begin: int, end: int) -> str:
        """Return a random operation between two steps of the training run; empty if there is none."""
        steps = self.training.steps[max(begin, 0) : max(end, 0)] if self.training else []
        found = (step.name for step in steps if any(word in step.name for word in RANDOM))
        return next((f"a random operation ({name})" for name in found), "")

    def _silent(self) -> list[ModuleCall]:
        modules = dict(self.model.named_modules())
        plain = (nn.Identity, nn.Sequential)
        return [c for c in self.recorder.calls if c.begin == c.end and not isinstance(modules[c.module], plain)]

    def calls_of(self, module: str) -> int:
        """Count the calls of a module."""
        return sum(call.module == module for call in self.recorder.calls)

    def ancestors(self, version: Version, within: ModuleCall) -> set[int]:
        """Collect the steps of a call that a tensor depends on."""
        found: set[int] = set()
        ahead = [version]
        while ahead:
            step = self.maker.get(ahead.pop(), OUTSIDE)
            if within.begin <= step < within.end and step not in found:
                found.add(step)
                ahead += self.recorder.steps[step].reads
        return found


def structure_of(model: nn.Module, example: Any) -> Structure:
    """Run a network in eval mode and find its runs of convolutions.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval()
    >>> [[one.name for one in run.convolutions] for run in structure_of(net, torch.zeros(1, 3, 8, 8)).runs]
    [['0', '2']]
    """
    recorder, outputs = record(model, example)
    readers: dict[Version, list[int]] = defaultdict(list)
    maker: dict[Version, int] = {}
    for number, step in enumerate(recorder.steps):
        for version in set(step.reads):
            readers[version].append(number)
        for version in step.makes:
            maker.setdefault(version, number)
    for version in recorder.versions_of(outputs):
        readers[version].append(OUTSIDE)
    found = Structure(model, recorder, readers, maker, training=_in_training(model, example))
    nodes = _convolutions(found, layers_of(model, example))
    taken: set[str] = set()
    for node in nodes.values():  # in execution order
        if node.why_not:
            found.left[node.name] = node.why_not
        elif node.name not in taken:
            run = [node]
            while (after := nodes.get(run[-1].next)) and after.makes == node.makes and not after.why_not:
                run.append(after)
            taken |= {one.name for one in run}
            found.runs.append(ConvolutionRun(tuple(run)))
    return found


def _in_training(model: nn.Module, example: Any) -> Recorder | None:
    """Record one run in training mode on at least two images; None if it fails."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    twice = tree_map_only(Tensor, lambda x: torch.cat([x, x]) if len(x) == 1 else x, example)
    try:
        with modes_restored(model), torch.random.fork_rng([]):
            return record(model.train(), twice)[0]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _convolutions(structure: Structure, layers: dict[str, LinearLayer]) -> dict[str, Convolution]:
    names = names_of_tensors(structure.model)
    modules = dict(structure.model.named_modules())
    places = {name: step for step, name in _steps_of_convolutions(structure.recorder, names)}
    found = {}
    for name, module in modules.items():
        if isinstance(module, nn.modules.conv._ConvNd) and name not in places:
            structure.left[name] = "its weight is computed, or it is not used in eval mode"
    for name, step in places.items():
        why = _why_not(modules.get(name), layers.get(f"{name}.weight"))
        found[name] = _convolution(structure, name, step, layers.get(f"{name}.weight"), why)
    by_step = {node.step: node.name for node in found.values()}
    return {name: _with_next(structure, node, by_step) for name, node in found.items()}


def _steps_of_convolutions(recorder: Recorder, names: dict[int, str]) -> list[tuple[int, str]]:
    return [
        (number, layer_of(names[id(step.args[1])]))
        for number, step in enumerate(recorder.steps)
        if step.kind == "convolution" and id(step.args[1]) in names
    ]


def _why_not(module: nn.Module | None, layer: LinearLayer | None) -> str:
    if type(module) is not nn.Conv2d:
        return "it is not an nn.Conv2d"
    if layer is None:
        return "its weight is used more than once, or computed"
    if layer.groups > 1:
        return "it is a grouped convolution"
    if len(set(layer.stride)) > 1:
        return "its vertical and horizontal strides differ"
    return ""


def _convolution(structure: Structure, name: str, number: int, layer: LinearLayer | None, why: str) -> Convolution:
    step = structure.recorder.steps[number]
    weight, out, steps = step.args[1], step.makes[0], [number]
    norm = ""
    behind = _only_reader(structure, out)
    if behind is not None and behind[1].kind == "norm" and layer is not None and layer.norm is not None:
        norm = layer_of(layer.norm.mean)
        if type(structure.model.get_submodule(norm)) not in (nn.BatchNorm2d, nn.SyncBatchNorm):
            why = why or f"its norm {norm} is not a plain nn.BatchNorm2d"
        out = behind[1].makes[0]
        steps.append(behind[0])
        behind = _only_reader(structure, out)
    elif behind is not None and behind[1].kind == "norm":
        why = why or "its norm is used more than once"
    activation = activation_behind(structure, out)
    if activation is not None:
        out = activation.out
        steps.append(activation.step)
    added = behind[0] if behind is not None and activation is None and behind[1].kind == "sum" else None
    if activation is None and added is None:
        why = why or "it is not followed by its own activation"
    return Convolution(
        name, number, int(weight.shape[1]), int(weight.shape[0]), layer.stride[0] if layer else 1, step.reads[0],
        _not_below_zero(structure, step.reads[0]), tuple(step.args[0].shape[2:]), _size_of(step, layer), out,
        norm, activation, added, why_not=why, steps=tuple(steps),
    )  # fmt: skip


def _size_of(step: RecordedOp, layer: LinearLayer | None) -> tuple[int, ...]:
    if layer is None:
        return ()
    shape, kernel = step.args[0].shape[2:], step.args[1].shape[2:]
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape, kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    )


def _with_next(structure: Structure, node: Convolution, by_step: dict[int, str]) -> Convolution:
    readers = structure.readers[node.out]
    if node.activation is None or len(readers) != 1 or readers[0] not in by_step:
        return node
    if structure.recorder.steps[readers[0]].reads[0] != node.out:
        return node
    return Convolution(**(vars(node) | {"next": by_step[readers[0]]}))


def _only_reader(structure: Structure, version: Version) -> tuple[int, RecordedOp] | None:
    readers = structure.readers[version]
    if len(readers) != 1 or readers[0] == OUTSIDE:
        return None
    return readers[0], structure.recorder.steps[readers[0]]


def activation_behind(structure: Structure, version: Version) -> Activation | None:
    """Find the element-wise function that is the only reader of a tensor."""
    behind = _only_reader(structure, version)
    if behind is None or not behind[1].pointwise or len(behind[1].reads) != 1:
        return None
    number, step = behind
    name = step.name.removesuffix("_")
    known = "relu" if name == "relu" else "relu6" if name == "hardtanh" and step.args[1:] == (0.0, 6.0) else ""
    like = known or f"{name}{step.args[1:]}"
    calls = [call for call in structure.recorder.calls if (call.begin, call.end) == (number, number + 1)]
    module = calls[0].module if calls and structure.calls_of(calls[0].module) == 1 else ""
    return Activation(number, step.makes[0], module, known, like)


def _not_below_zero(structure: Structure, version: Version) -> bool:
    """Return whether a tensor is nonnegative by construction."""
    step = structure.recorder.steps[structure.maker[version]] if version in structure.maker else None
    if step is None:
        return False
    if step.name.removesuffix("_") in ("relu", "hardtanh", "sigmoid"):
        return step.name.removesuffix("_") != "hardtanh" or step.args[1:] == (0.0, 6.0)
    if operation(step.name).keeps_sign:
        return all(_not_below_zero(structure, one) for one in step.reads)
    return False


def block_around(structure: Structure, first: Convolution, last: Version) -> ModuleCall | None:
    """Find the innermost module whose only input is that of a convolution and whose output is `last`."""
    for call in structure.recorder.calls:
        inside = call.begin <= first.step < call.end
        if inside and call.module and call.inputs == (first.source,) and call.outputs == (last,):
            return call if structure.calls_of(call.module) == 1 else None
    return None


def pooled(size: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Return the image size after average pooling by `stride` with ceil mode."""
    return tuple(math.ceil(n / stride) for n in size)
