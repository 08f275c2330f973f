"""Replace the head of a classifier, so that it can be trained for other classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.graph.copying import duplicate
from slimcnn.modes import modes_restored

NAMES = ("num_classes",)
"""Attributes in which modules store the number of classes besides the size of a layer (timm)."""


@dataclass(frozen=True)
class Head:
    """The layer that computes a classifier's scores."""

    name: str
    """Name of the module, such as fc."""
    inputs: int
    outputs: int


def find_head(model: nn.Module, example: Tensor, within: str = "") -> Head:
    """Find the linear layer or 1 x 1 convolution whose output channels are the network's outputs, one for one.

    A layer with as many outputs as the network is the head if a NaN in its output channel k makes score k NaN, and no
    other. So pooling, ReLU or a flatten may follow it, but nothing that mixes channels, such as a softmax.

    Args:
        model: a network that returns scores (n, classes); it does not change.
        example: an input (n, c, h, w); only its shape matters.
        within: name of the module to search; default: the whole network.

    Raises:
        ModelError: there is no such layer, or there are several (the outputs of two heads are added or averaged).

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> find_head(net, torch.zeros(1, 3, 8, 8))
    Head(name='3', inputs=8, outputs=10)
    """
    x = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with modes_restored(model), torch.no_grad():
        scores = _scores(model.eval(), x)
        outputs = scores.shape[1]
        candidates = _candidates(model, outputs, within)
        found = [name for name, layer in candidates.items() if _feeds_scores(model, layer, x, outputs)]
    if len(found) > 1:
        raise ModelError(
            f"the network has {len(found)} heads ({', '.join(found)}), whose outputs are combined: only a single head "
            "can be replaced; replace them in your own code, and pass the network to slimcnn"
        )
    if not found:
        tried = f"; {', '.join(candidates)} {'has' if len(candidates) == 1 else 'have'} {outputs} outputs, but other "
        tried += "operations mix or drop them before the scores"
        where = f" in {within}" if within else ""
        raise ModelError(
            f"the head of the network cannot be found: no linear layer or 1 x 1 convolution{where} computes its "
            f"{outputs} scores one for one{tried if candidates else ''}; replace it in your own code"
        )
    layer: Any = candidates[found[0]]
    inputs, outputs = (
        (layer.in_features, layer.out_features)
        if isinstance(layer, nn.Linear)
        else (layer.in_channels, layer.out_channels)
    )
    return Head(found[0], inputs, outputs)


def replace_head(model: nn.Module, example: Tensor, classes: int, *, seed: int = 0, within: str = "") -> nn.Module:
    """Return a copy of a classifier with a new head for `classes` classes; all other weights stay.

    The new layer is of the same class, with the random weights that its class draws; `seed` makes them repeatable. A
    checkpoint of the network can be loaded without calling this again.

    Raises:
        ModelError: the head cannot be found (see `find_head`), or the network does not work with another size of it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> replace_head(net, torch.zeros(1, 3, 8, 8), 4)[3]
    Linear(in_features=8, out_features=4, bias=True)
    """
    if classes < 1:
        raise ModelError(f"classes={classes} is invalid: a head has at least 1 output")
    head = find_head(model, example, within)
    copy = duplicate(model)
    layer: Any = copy.get_submodule(head.name)
    if "weight" not in layer._parameters or _is_shared(copy, layer.weight):
        raise ModelError(f"the weight of {head.name}, the head, is computed or shared: replace it in your own code")
    for name in ("weight", "bias"):
        old = getattr(layer, name)
        if old is not None:
            setattr(layer, name, nn.Parameter(old.new_empty(classes, *old.shape[1:])))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", classes)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layer.reset_parameters()
    _state_classes(copy, head.outputs, classes)
    with modes_restored(copy), torch.no_grad():
        try:
            fits = _scores(copy.eval(), torch.zeros(example.shape)).shape[1] == classes
        except ModelError:
            fits = False
    if not fits:
        raise ModelError(
            f"the network does not work with {classes} instead of {head.outputs} outputs of {head.name}: something "
            "after it has a fixed size; replace the head in your own code"
        )
    return copy


def _scores(model: nn.Module, x: Tensor) -> Tensor:
    try:
        found = model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"the network does not accept images {tuple(x.shape)}: {reason}") from error
    if not isinstance(found, Tensor) or found.dim() != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"the network returns {what}, not scores (n, classes): only a classifier's head is replaced")
    return found


def _candidates(model: nn.Module, outputs: int, within: str) -> dict[str, nn.Module]:
    if within and within not in dict(model.named_modules()):
        raise ModelError(f"head = {within!r}: the network has no module of this name (see slimcnn inspect)")

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Linear):
            return layer.out_features == outputs
        one = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        return one and bool(layer.out_channels == outputs)

    prefix = f"{within}." if within else ""
    return {name: layer for name, layer in model.named_modules() if f"{name}.".startswith(prefix) and fits(layer)}


def _feeds_scores(model: nn.Module, layer: nn.Module, x: Tensor, outputs: int) -> bool:
    """Return whether each output channel of a layer reaches exactly the score of the same number."""
    for channel in {0, outputs - 1}:
        with _poisoned(layer, channel):
            bad = model(x).isnan()
        wanted = torch.zeros_like(bad)
        wanted[:, channel] = True
        if not torch.equal(bad, wanted):
            return False
    return True


@contextmanager
def _poisoned(layer: nn.Module, channel: int) -> Iterator[None]:
    def poison(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output.select(-1 if isinstance(layer, nn.Linear) else 1, channel).fill_(torch.nan)
        return output

    handle = layer.register_forward_hook(poison)
    try:
        yield
    finally:
        handle.remove()


def _is_shared(model: nn.Module, weight: Tensor) -> bool:
    return sum(tensor is weight for _, tensor in model.named_parameters(remove_duplicate=False)) > 1


def _state_classes(model: nn.Module, old: int, new: int) -> None:
    """Update what else states the number of classes: attributes, and the arguments that build the network again."""
    for module in model.modules():
        for name in NAMES:
            if vars(module).get(name) == old:
                setattr(module, name, new)
    known = getattr(model, "architecture", None)
    if known is None:
        return
    package = str(known["model"]).startswith(("timm:", "torchvision:"))
    if package or known["arguments"].get("num_classes") == old:
        arguments = known["arguments"] | {"num_classes": new}
        vars(model)["architecture"] = {"model": known["model"], "arguments": arguments}
