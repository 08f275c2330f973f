"""The registry of networks, and `build`, which builds one and records its name and arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError, SlimcnnError
from slimcnn.importing import one_line
from slimcnn.registry import Registry

networks: Registry[Callable[..., nn.Module]] = Registry("network", home="slimcnn.models")
"""All built-in networks.

The facts of an entry are `input` (c, h, w), `params` and `macs` (batch 1) with the default arguments, and the
published `top1` in % on CIFAR-10 if there is one (for ImageNet see `published`). Compact networks also have `family`,
"spatial" or "shift".
"""

SMALL_IMAGES = 64
"""Largest image size in pixels for which a compact network has stride 1 in its stem and first stage."""


def build(name: str, /, **arguments: Any) -> nn.Module:
    """Build a registered network with random weights; its attribute `architecture` holds its name and all arguments.

    Raises `UnknownName` for a name that is not registered and `ModelError` for an unknown argument.

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
    return label(called(name, lambda: make(**bound.arguments)), name, bound.arguments)


def called(name: str, make: Callable[[], Any]) -> nn.Module:
    """Call code that builds a network, and check the result; any error becomes a `ModelError` of one line."""
    try:
        model = make()
    except SlimcnnError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} cannot be built: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module: return the network itself")
    return model


def refuse_unknown(name: str, arguments: Mapping[str, Any], accepted: list[str]) -> None:
    """Raise `ModelError` for the first argument that is not in `accepted`."""
    for argument in arguments:
        if argument not in accepted:
            known = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
            raise ModelError(f"{name} has no argument {argument!r}; {known}")


def label(model: nn.Module, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Record on a network how to build it again: ``architecture = {"model": name, "arguments": {...}}``.

    It is a plain attribute that can be written as JSON; `copy.deepcopy` copies it. Raises `ModelError` for arguments
    that JSON cannot hold, and for a network that uses the attribute for something else.
    """
    try:
        json.dumps(dict(arguments), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the arguments of {name} must be JSON values (numbers, text, lists): {error}") from error
    found = getattr(model, "architecture", None)
    if found is not None and not (isinstance(found, dict) and found.keys() == {"model", "arguments"}):
        raise ModelError(f"{name} already has an attribute 'architecture' ({type(found).__name__}); rename it")
    # not setattr: nn.Module and type checkers expect its attributes to be tensors or modules
    vars(model)["architecture"] = {"model": name, "arguments": dict(arguments)}
    return model


def check_positive(**numbers: object) -> None:
    """Raise `ModelError` unless every number is an integer of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{name}={value!r} is invalid: it must be an integer of at least 1")


def scaled(channels: int, width: float) -> int:
    """Return the channel count of a layer that has `channels` in the paper, in a network `width` times as wide.

    >>> scaled(16, 1.0), scaled(16, 0.33)
    (16, 5)
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 64:
        raise ModelError(f"width={width!r} is invalid: it multiplies the channels and must be above 0 and at most 64")
    return max(1, round(channels * width))


def initialize(model: nn.Module) -> None:
    """Set Kaiming-normal weights (He et al. 2015, arXiv 1502.01852) and zero biases, in place.

    Convolutions preserve the variance of the gradients (fan out), as in the papers. Linear layers preserve the
    variance of the signal (fan in): a classifier has few outputs, and fan out would start with logits far from zero.
    Batch norm keeps PyTorch's initialization, the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            with torch.no_grad():
                module.weight.mul_(module.groups**0.5)  # each input feeds only the outputs of its group
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def keeps_small(image_size: int) -> bool:
    """Return whether a compact network has stride 1 in its stem and first stage, as is usual for CIFAR.

    Raises `ModelError` for an invalid size.

    >>> keeps_small(32), keeps_small(224)
    (True, False)
    """
    check_positive(image_size=image_size)
    return image_size <= SMALL_IMAGES


def takes(name: str, argument: str) -> bool:
    """Return whether a built-in network takes an argument; False for networks from elsewhere.

    >>> takes("mobilenet_v2", "image_size"), takes("resnet20", "image_size"), takes("timm:resnet18", "image_size")
    (True, False, False)
    """
    return name in networks and argument in inspect.signature(networks[name].value).parameters


def normalized(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> list[nn.Module]:
    """Return a convolution without bias that preserves the image size at stride 1, and its batch norm."""
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs)]


def refuse_vanishing(x: Tensor, least: int, model: nn.Module) -> None:
    """Raise `ModelError` for images smaller than `least` pixels, which pooling would reduce to nothing."""
    if min(x.shape[-2:]) < least:
        raise ModelError(
            f"{type(model).__name__} needs images of at least {least} x {least} pixels, "
            f"found {x.shape[-2]} x {x.shape[-1]}: use larger images"
        )
