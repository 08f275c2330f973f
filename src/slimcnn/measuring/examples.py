"""Run a network on an example without changing its state, with clear errors if the example does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import register_pytree_node, tree_leaves, tree_map

from slimcnn.errors import ModelError, SlimcnnError
from slimcnn.modes import modes_restored


@dataclass(frozen=True, init=False)
class Inputs:
    """Positional and keyword arguments of a network: `Inputs(image, mask=mask)`.

    >>> Inputs(1, mask=2)
    Inputs(1, mask=2)
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)

    def __repr__(self) -> str:
        return f"Inputs({', '.join([*map(repr, self.args), *(f'{k}={v!r}' for k, v in self.kwargs.items())])})"


register_pytree_node(
    Inputs,
    lambda inputs: ([inputs.args, dict(inputs.kwargs)], None),
    lambda parts, _: Inputs(*(found := list(parts))[0], **found[1]),
    serialized_type_name="slimcnn.Inputs",
)

Example: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Inputs
"""The input of a network: one tensor; a tuple of positional or a mapping of keyword arguments; `Inputs` for both; or a
list of images (c, h, w) of any sizes, which is one argument. A list of anything else is a list of arguments."""


def is_image_list(example: Any) -> bool:
    """Return whether an example is a list of images (c, h, w), as detectors take it.

    >>> is_image_list([torch.ones(3, 8, 8), torch.ones(3, 6, 9)]), is_image_list([torch.ones(1, 3, 8, 8)])
    (True, False)
    """
    return (
        isinstance(example, list)
        and bool(example)
        and all(isinstance(one, Tensor) and one.dim() == 3 and one.is_floating_point() for one in example)
    )


def image_lists_in(example: Any) -> list[list[Tensor]]:
    """Return the lists of images among the arguments of an example."""
    if isinstance(example, Inputs):
        arguments: list[Any] = [*example.args, *example.kwargs.values()]
    elif isinstance(example, Mapping):
        arguments = list(example.values())
    else:
        arguments = list(example) if isinstance(example, tuple) else [example]
    return [one for one in arguments if is_image_list(one)]


def call(model: nn.Module, example: Example) -> Any:
    """Return ``model(example)``, where the example may be several arguments (see `Example`).

    >>> call(nn.Flatten(), (torch.ones(2, 3, 1),)).shape
    torch.Size([2, 3])
    """
    if isinstance(example, Inputs):
        return model(*example.args, **example.kwargs)
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple) or (isinstance(example, list) and not is_image_list(example)):
        return model(*example)
    return model(example)


def run(model: nn.Module, example: Example) -> Any:
    """Return the output of ``model(example)``; raise `ModelError` for an example that the network does not accept.

    >>> run(nn.Linear(3, 1), torch.ones(2, 4))
    Traceback (most recent call last):
    slimcnn.errors.ModelError: the network does not accept an example of shape 2x4: it expects (..., 3)
    and found (2, 4); give an example of the shape that the network expects
    """
    try:
        return call(model, example)
    except SlimcnnError:
        raise
    except Exception as error:
        raise ModelError(
            f"the network does not accept an example of shape {describe(example)}: {_reason(model, error)}; "
            "give an example of the shape that the network expects"
        ) from error


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode without gradients inside the block; restore modes and buffers afterwards.

    Raises `ModelError` for a network with lazy layers, because its first run would change it.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    >>> with undisturbed(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        raise ModelError("the network has uninitialized lazy layers: run it once on an example, then measure it")
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, before):
                buffer.detach().copy_(before)


def batch_size(example: Example) -> int:
    """Return the length of the first axis of the first tensor, or the number of images of a list.

    Raises `ModelError` if there is none or it is 0.

    >>> batch_size((torch.ones(4, 3, 8, 8), torch.ones(4, 2))), batch_size([torch.ones(3, 8, 8)])
    (4, 1)
    """
    if lists := image_lists_in(example):
        return len(lists[0])
    first = next((leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)), None)
    if first is None or first.dim() == 0 or len(first) == 0:
        raise ModelError(f"an example must contain a tensor with at least one sample, found {describe(example)}")
    return len(first)


def with_batch(example: Example, size: int) -> Example:
    """Return the example with `size` samples: the first ones, repeated if there are too few.

    Tensors whose first axis is not the batch stay unchanged. Of lists of images, `size` images are taken.

    >>> with_batch(torch.tensor([1, 2]), 5).tolist()
    [1, 2, 1, 2, 1]
    """
    present = batch_size(example)
    if image_lists_in(example):
        listed: Example = resized_lists(example, size)
        return listed

    def resized(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or len(leaf) != present or size == present:
            return leaf
        return leaf[torch.arange(size, device=leaf.device) % present]

    resized_example: Example = tree_map(resized, example)
    return resized_example


def resized_lists(example: Any, size: int) -> Any:
    """Return the example with `size` images in every list of images: the first ones, repeated if there are too few.

    >>> len(resized_lists([torch.ones(3, 8, 8)], 2))
    2
    """
    if is_image_list(example):
        return [example[i % len(example)] for i in range(size)]
    if isinstance(example, Inputs):
        parts = [resized_lists(one, size) for one in example.args]
        return Inputs(*parts, **{name: resized_lists(one, size) for name, one in example.kwargs.items()})
    if isinstance(example, Mapping):
        return {name: resized_lists(one, size) for name, one in example.items()}
    return tuple(resized_lists(one, size) for one in example) if isinstance(example, tuple) else example


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of the first tensor in nested tuples, lists and dicts, or None."""
    first = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
    return None if first is None else tuple(first.shape)


def describe(example: Example) -> str:
    """Return the shapes of an example as text: ``2x3x32x32`` or ``(2x3x32x32, 2x10)``."""
    leaves = [
        "x".join(map(str, leaf.shape)) or "scalar" if isinstance(leaf, Tensor) else type(leaf).__name__
        for leaf in tree_leaves(example)
    ]
    return leaves[0] if len(leaves) == 1 else f"({', '.join(leaves)})"


def _reason(model: nn.Module, error: Exception) -> str:
    """Describe which layer failed, what it expects and what it found."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    frame = _innermost_forward(error)
    if frame is None:
        return first_line
    layer = frame.f_locals["self"]
    name = next((name for name, module in model.named_modules() if module is layer), "")
    where = f"layer {name!r} ({type(layer).__name__})" if name else "it"
    code = frame.f_code
    found = shape_of([frame.f_locals.get(argument) for argument in code.co_varnames[1 : code.co_argcount]])
    expected = _expected(layer)
    if expected is None or found is None or _fits(layer, found):
        return f"{where} fails: {first_line}"
    return f"{where} expects {expected} and found {found}"


def _innermost_forward(error: Exception) -> FrameType | None:
    """Return the frame of the innermost module `forward` that was running when `error` was raised."""
    found, step = None, error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
            found = frame
        step = step.tb_next
    return found


def _channels(layer: nn.Module) -> int | None:
    """Return a layer's number of input channels or features, or None if it has no such attribute."""
    for attribute in ("in_channels", "in_features", "num_features"):
        if isinstance(number := getattr(layer, attribute, None), int):
            return number
    return None


def _axes(layer: nn.Module) -> int:
    """Return the number of spatial axes of a layer."""
    return next((axes for axes in (1, 2, 3) if type(layer).__name__.endswith(f"{axes}d")), 0)


def _expected(layer: nn.Module) -> str | None:
    channels = _channels(layer)
    if channels is None:
        return None
    if isinstance(layer, nn.Linear):
        return f"(..., {channels})"
    return f"(n, {', '.join([str(channels), *'dhw'[3 - _axes(layer) :]])})"


def _fits(layer: nn.Module, found: tuple[int, ...]) -> bool:
    """Return whether the channels match, so that the error must have another reason."""
    if isinstance(layer, nn.Linear):
        return found[-1:] == (_channels(layer),)
    return len(found) == 2 + _axes(layer) and found[1] == _channels(layer)
