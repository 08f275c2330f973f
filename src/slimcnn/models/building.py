"""Networks by name: `networks` holds them, `build` makes one that remembers its name and arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.registry import Registry

networks: Registry[Callable[..., nn.Module]] = Registry("network", home="slimcnn.models")
"""Every network of ours.

An entry's facts hold `input` (c, h, w), `params` and `macs` (batch 1) with the default arguments and, where it is
published, `top1` in % on CIFAR-10 (for ImageNet see `published`). `family` is "spatial" or "shift" for compact
networks.
"""

SMALL_IMAGES = 64
"""Up to so many pixels, a compact network keeps the size of the image in its stem and its first stage."""


def build(name: str, **arguments: Any) -> nn.Module:
    """A registered network with random weights, which carries `architecture`: its name and all its arguments.

    Raises `UnknownName` for a name that is not registered and `ModelError` for an argument that it does not take.

    >>> build("resnet20", num_classes=100).architecture["arguments"]["num_classes"]
    100
    >>> build("resnet20", classes=100)
    Traceback (most recent call last):
    slimcnn.errors.ModelError: resnet20 has no argument 'classes'; it takes num_classes, in_channels, shortcut, width
    """
    make = networks[name].value
    accepted = inspect.signature(make)
    refuse_unknown(name, arguments, list(accepted.parameters))
    bound = accepted.bind(**arguments)
    bound.apply_defaults()
    return label(make(**bound.arguments), name, bound.arguments)


def refuse_unknown(name: str, arguments: Mapping[str, Any], accepted: list[str]) -> None:
    """Raise `ModelError` for the first argument that is not accepted."""
    for argument in arguments:
        if argument not in accepted:
            known = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
            raise ModelError(f"{name} has no argument {argument!r}; {known}")


def label(model: nn.Module, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Write on a network how to build it again: ``architecture = {"model": name, "arguments": {...}}``.

    It is a plain attribute that can be written as JSON and that `copy.deepcopy` takes along. Arguments that
    JSON cannot hold, and a network that uses the attribute for something else, raise `ModelError`.
    """
    try:
        json.dumps(dict(arguments), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the arguments of {name} must be numbers, text, lists: {error}") from error
    found = getattr(model, "architecture", None)
    if found is not None and not (isinstance(found, dict) and found.keys() == {"model", "arguments"}):
        raise ModelError(f"{name} already has an attribute 'architecture' ({type(found).__name__}); rename it")
    # not setattr: to nn.Module's checks, and to a type checker, its attributes are tensors and modules
    vars(model)["architecture"] = {"model": name, "arguments": dict(arguments)}
    return model


def check_positive(**numbers: object) -> None:
    """Raise `ModelError` unless every number is a whole one of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{name}={value!r} is impossible: it must be a whole number of at least 1")


def scaled(channels: int, width: float) -> int:
    """The number of channels of a layer, `channels` in the paper, in a network `width` times as wide.

    >>> scaled(16, 1.0), scaled(16, 0.33)
    (16, 5)
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 64:
        raise ModelError(f"width={width!r} is impossible: it multiplies the channels and lies above 0, at most 64")
    return max(1, round(channels * width))


def initialize(model: nn.Module) -> None:
    """Kaiming-normal weights (He et al. 2015, arXiv 1502.01852), zero biases, in place.

    Convolutions keep the variance of the gradients (fan out), as the papers do; linear layers that of the signal
    (fan in), because a classifier has few outputs and the other choice starts with logits far from zero.
    Batch norm starts as the identity, which is PyTorch's own choice.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            with torch.no_grad():
                module.weight.mul_(module.groups**0.5)  # an input reaches only the outputs of its group
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def keeps_small(image_size: int) -> bool:
    """Tell whether a compact network is built for small images: stride 1 in the stem and in the first stage.

    The usual form for CIFAR. `ModelError` for an impossible size.

    >>> keeps_small(32), keeps_small(224)
    (True, False)
    """
    check_positive(image_size=image_size)
    return image_size <= SMALL_IMAGES


def takes(name: str, argument: str) -> bool:
    """Tell whether a network of ours takes an argument; False for networks of others.

    >>> takes("mobilenet_v2", "image_size"), takes("resnet20", "image_size"), takes("timm:resnet18", "image_size")
    (True, False, False)
    """
    return name in networks and argument in inspect.signature(networks[name].value).parameters


def normalized(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> list[nn.Module]:
    """A convolution without bias that keeps the image size at stride 1, and the batch norm behind it."""
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs)]


def refuse_vanishing(x: Tensor, least: int, model: nn.Module) -> None:
    """Raise `ModelError` for images of which nothing would be left."""
    if min(x.shape[-2:]) < least:
        raise ModelError(
            f"{type(model).__name__} needs images of at least {least} x {least} pixels: of "
            f"{x.shape[-2]} x {x.shape[-1]} nothing would be left"
        )
