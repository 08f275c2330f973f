"""Turn a copy of a network into a simplified graph with named inputs and outputs, the input of all formats."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from slimcnn.errors import ExportError, SlimcnnError
from slimcnn.exporting.detectors import detected_names, without_branches
from slimcnn.exporting.format import Contents
from slimcnn.exporting.quiet import quiet
from slimcnn.exporting.simplifying import simplify
from slimcnn.importing import one_line
from slimcnn.measuring.examples import (
    Example,
    Inputs,
    batch_size,
    describe,
    image_lists_in,
    is_image_list,
    run,
    undisturbed,
    with_batch,
)


class PerChannel(Protocol):
    """A normalization x = (pixels / 255 - mean) / std, such as `Dataset.normalization`."""

    @property
    def mean(self) -> tuple[float, ...]:
        """One number per channel."""

    @property
    def std(self) -> tuple[float, ...]:
        """One number per channel."""


class FlatCall(nn.Module):
    """A wrapper that takes all input tensors as positional arguments and returns only the output tensors.

    A list of images is one tensor (n, c, h, w). With a normalization, the first input is uint8 pixels (n, c, h, w).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, example: Example, normalization: PerChannel | None) -> None:
        super().__init__()
        self.model = model
        _, self._call = tree_flatten(_arguments(example))
        self._listed = is_image_list(example)
        self.pixels = normalization is not None
        if normalization is not None:
            mean, std = (torch.tensor(each, dtype=torch.float64) for each in (normalization.mean, normalization.std))
            self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1))
            self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network."""
        if self.pixels:
            tensors = (tensors[0].float() * self.scale + self.shift, *tensors[1:])
        given = self.arguments(tensors)
        outputs = [leaf for leaf in tree_leaves(self.model(*given.args, **given.kwargs)) if isinstance(leaf, Tensor)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def arguments(self, tensors: Sequence[Tensor]) -> Inputs:
        """Return the network's arguments that hold these tensors."""
        if self._listed:
            return Inputs(list(tensors[0]))
        args, kwargs = tree_unflatten(list(tensors), self._call)
        return Inputs(*args, **kwargs)


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if is_image_list(example):
        assert isinstance(example, list)
        return (torch.stack(example),), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    """Return the tensors of an example on the CPU, floating-point ones as float32.

    Raises:
        ExportError: the example holds something other than tensors.
    """
    leaves = tree_leaves(_arguments(example))
    strange = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if strange or not leaves:
        found = strange[0] if strange else "nothing"
        raise ExportError(f"an exported file takes tensors only; the example holds {found}: bind it before the export")
    return tuple(leaf.detach().cpu().float() if leaf.is_floating_point() else leaf.detach().cpu() for leaf in leaves)


def example_and_outputs(model: nn.Module, example: Example) -> tuple[Example, tuple[str, ...]]:
    """Run a network; return the example of its files, and the names of their outputs if it is a detector.

    A detector's file takes one image. Other networks keep their example, and their outputs have no names.

    Args:
        model: any network on the CPU.
        example: as for `prepare`; of a list of images, the first is taken.

    Raises:
        ExportError: the list of images is not the only argument.
        ModelError: the network does not accept the example.
    """
    lists = image_lists_in(example)
    if isinstance(example, tuple) and len(example) == 1 and lists:
        example = lists[0]
    if lists and not is_image_list(example):
        raise ExportError("an exported file takes images as one input: give [image] alone as the example")
    if lists:
        example = with_batch(example, 1)
    given = FlatCall(model, example, None).arguments(inputs_of(example))
    with undisturbed(model):
        names = detected_names(run(model, given))
    return (with_batch(example, 1) if names else example), names


def prepare(
    model: nn.Module, example: Example, *, dynamic_batch: bool = True, dynamic_size: bool = False,
    normalization: PerChannel | None = None, facts: Mapping[str, str] | None = None,
    detected: Sequence[str] | None = None,
) -> Contents:  # fmt: skip
    """Turn a copy of a network into a simplified graph; the network itself is not changed.

    Args:
        model: any network.
        example: one tensor (n, c, h, w), a sequence of arguments, a mapping of keyword arguments, or a list of images
            (c, h, w), of which the first is taken.
        dynamic_batch: accept any batch size; otherwise only that of the example. A detector takes one image.
        dynamic_size: accept images of any height and width.
        normalization: included in the graph, whose first input is then uint8 pixels.
        facts: text to store in the file.
        detected: what `example_and_outputs` returned with this example; None: the network is run to learn it.

    Raises:
        ExportError: the network's code cannot be turned into a graph, or not with dynamic axes.
        ModelError: the network does not accept the example.
    """
    plain = copied(model)
    if detected is None:
        example, detected = example_and_outputs(plain, example)
    dynamic_batch = dynamic_batch and not detected
    tensors = inputs_of(example)
    size = batch_size(example)
    if dynamic_batch and size < 2:  # torch.export treats a length of 1 as a constant
        example = with_batch(example, 2)
        size, tensors = 2, inputs_of(example)
    if normalization is not None:
        tensors = (torch.zeros(tensors[0].shape, dtype=torch.uint8), *tensors[1:])
    flat = FlatCall(plain, example, normalization).eval()
    with undisturbed(flat):
        answers = tree_leaves(run(flat, tensors))
    if not answers:
        raise ExportError(f"{type(model).__name__} returns no tensor: there is no output to export")
    axes = [_dynamic_axes(x, size, dynamic_batch, dynamic_size) for x in tensors]
    with without_branches() if detected else nullcontext():
        program = _program(flat, tensors, axes, type(model).__name__)
    simple = program.module(check_guards=False)
    simplify(simple)
    program = _program(simple, tensors, axes, type(model).__name__)
    inputs, outputs = _numbered("input", len(tensors)), tuple(detected) or _numbered("output", len(answers))
    return Contents(program, tensors, inputs, outputs, tuple(axes), dict(facts or {}), bool(detected))


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}{i}" for i in range(n)) if n > 1 else (name,)


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network on the CPU, in float32 and eval mode."""
    try:
        return copy.deepcopy(model).cpu().float().eval()
    except Exception as error:
        raise ExportError(f"{type(model).__name__} cannot be copied for the export: {one_line(error)}") from error


def _dynamic_axes(x: Tensor, size: int, batch: bool, image: bool) -> dict[int, str]:
    found = {0: "batch"} if batch and x.dim() > 0 and len(x) == size else {}
    return found | ({2: "height", 3: "width"} if image and x.dim() == 4 else {})


def _program(
    model: nn.Module, tensors: Sequence[Tensor], axes: Sequence[Mapping[int, str]], name: str
) -> ExportedProgram:
    shapes = tuple(dict.fromkeys(each, Dim.DYNAMIC) for each in axes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(model, tuple(tensors), dynamic_shapes=(shapes,) if _is_flat(model) else shapes)
    except SlimcnnError:
        raise
    except Exception as error:
        wanted = sorted({axis for each in axes for axis in each.values()})
        varying = f" for any {', '.join(wanted)}" if wanted else ""
        raise ExportError(
            f"{name} cannot be turned into a graph{varying} ({describe(tuple(tensors))}): {reason_of(error)}"
        ) from error


def _is_flat(model: nn.Module) -> bool:
    return isinstance(model, FlatCall)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error that contains letters; PyTorch's exporter begins with decoration."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if any(letter.isalpha() for letter in line)]
    return said[0] if said else type(error).__name__


def unknown_operation(program: ExportedProgram, error: BaseException) -> str:
    """Return the operation that a converter's error names, with its layer; empty if it names none."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(said)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "_opname", "")) or getattr(node.target, "__name__", "")
        if name and re.search(rf"(?:\b(?:aten|prims)(?:::|\.)|\bnode %?){re.escape(name)}\b", text):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            layer, kind = stack[-1] if stack else ("", "")
            layer = layer.removeprefix("model").removeprefix(".")
            where = f"layer {layer!r} ({str(kind).rpartition('.')[2]})" if layer else "the network itself"
            return f"the operation {name} in {where}"
    return ""
