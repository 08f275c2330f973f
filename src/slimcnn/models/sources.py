"""Networks by name: built-in, `timm:NAME`, `torchvision:NAME` or `package.module:function`.

These networks have random weights, and nothing is downloaded: trained weights come from a file (see `weights.py`), or
are those that timm and torchvision publish (see `pretrained.py`).
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, Literal

from torch import nn

from slimcnn.errors import ModelError, UnknownName
from slimcnn.importing import import_module, working_directory_on_path
from slimcnn.models.building import build, called, label, networks, refuse_unknown, takes

COMMON = ("num_classes", "in_channels")
"""Arguments allowed for every network; they are passed only to constructors that take them."""

WEIGHTS = ("pretrained", "weights", "weights_backbone", "checkpoint_path")
"""Arguments that make timm and torchvision download or unpickle weights."""


def resolve(spec: str, /, **arguments: Any) -> nn.Module:
    """Build the network that `spec` names, with random weights; `architecture` records how to build it again.

    ===========================  =========================================================================
    ``resnet20``                 a name in `networks`
    ``timm:resnet18``            `pip install 'slimcnn[timm]'`
    ``torchvision:resnet18``     always 3 input channels
    ``my_package.module:build``  a function or class, also from the current directory; importing it runs its code
    ===========================  =========================================================================

    `num_classes` and `in_channels` are passed only if the constructor takes them; it must take all other arguments.
    Raises `UnknownName` for a name that does not exist and `ModelError` for a network that cannot be built.

    >>> resolve("torchvision:squeezenet1_1", num_classes=10).architecture
    {'model': 'torchvision:squeezenet1_1', 'arguments': {'num_classes': 10}}
    >>> resolve("my_net:build")
    Traceback (most recent call last):
    slimcnn.errors.ModelError: no module 'my_net' for 'my_net:build': it is neither installed nor in ...
    """
    kind, colon, name = spec.partition(":")
    if not colon:
        refuse_unknown_network(spec)
        return build(spec, **arguments)
    for argument in WEIGHTS:
        if argument in arguments:
            raise ModelError(
                f"{spec} takes no {argument!r}: give --weights FILE, or --weights pretrained for timm and torchvision "
                "(slimcnn.pretrained)"
            )
    if kind == "timm":
        model = _from_timm(name, arguments)
    elif kind == "torchvision":
        model, arguments = _from_torchvision(name, arguments)
    else:
        model, arguments = _from_module(spec, arguments)
    return label(model, spec, arguments)


def refuse_unknown_network(spec: str) -> None:
    """Raise `UnknownName` for a name without a colon that is not a built-in network."""
    if ":" not in spec and spec not in networks:
        forms = ("timm:NAME", "torchvision:NAME", "package.module:function")
        close = closest(spec, [entry.name for entry in networks])
        raise UnknownName("network", spec, [*close, *forms, "see slimcnn list networks"])


@dataclass(frozen=True)
class Preprocessing:
    """The image size and normalization that a network expects; ``None`` where unknown.

    x = (pixels / 255 - mean) / std, per channel.
    """

    input: tuple[int, int, int] | None = None
    """Image size (c, h, w)."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    """Pixels of the shorter side, of which the center is cropped to the image size."""
    interpolation: Literal["bicubic", "bilinear"] | None = None


def preprocessing(network: str | nn.Module) -> Preprocessing:
    """Return the image size and normalization of a network, given by name or as built by `resolve`.

    timm and torchvision document both for their own weights. For a built-in network only the image size is known, for
    a function of yours nothing. A network whose channel count differs from that of its weights has no known
    normalization. Raises `UnknownName` for a name that does not exist.

    >>> preprocessing("resnet56")
    Preprocessing(input=(3, 32, 32), mean=None, std=None, resize=None, interpolation=None)
    >>> preprocessing("torchvision:inception_v3").input
    (3, 299, 299)
    """
    if isinstance(network, nn.Module):
        architecture = getattr(network, "architecture", None)
        if architecture is None:
            return Preprocessing()
        stated = preprocessing(architecture["model"])
        channels, size = (architecture["arguments"].get(name) for name in ("in_channels", "image_size"))
        if takes(architecture["model"], "image_size"):
            return Preprocessing((channels, size, size))
        if channels is None or stated.input is None or channels == stated.input[0]:
            return stated
        return Preprocessing((channels, *stated.input[1:]))
    kind, colon, name = network.partition(":")
    if not colon:
        return Preprocessing(networks[network].facts["input"])
    if kind == "timm":
        return _timm_preprocessing(name)
    if kind == "torchvision":
        return _torchvision_preprocessing(name)
    return Preprocessing()


def timm_with(name: str) -> Any:
    """Import timm and check that it has a network of this name, and weights of this tag (`resnet18.a1_in1k`)."""
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"timm:{name} needs the package timm: pip install 'slimcnn[timm]'") from error
    if not timm.is_model(name):
        raise UnknownName("timm network", name, closest(name, timm.list_models()))
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(name.partition(".")[0] + ".*")
        raise UnknownName("tag of a timm network", name, known) from error
    return timm


def _from_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    timm = timm_with(name)
    renamed = {"in_chans" if key == "in_channels" else key: value for key, value in arguments.items()}
    return called(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **renamed))


def _timm_preprocessing(name: str) -> Preprocessing:
    stated = timm_with(name).get_pretrained_cfg(name)
    size, interpolation = tuple(stated.input_size), stated.interpolation
    # Other crop modes (squash, border) change the aspect ratio, or add a border: they are not known here.
    known = interpolation in ("bicubic", "bilinear") and stated.crop_mode == "center" and bool(stated.crop_pct)
    resize = math.floor(size[1] / stated.crop_pct) if known else None
    return Preprocessing(size, tuple(stated.mean), tuple(stated.std), resize, interpolation if known else None)


def torchvision_with(name: str) -> Any:
    """Import torchvision.models and check that it has a network of this name."""
    from torchvision import models

    if name not in models.list_models():
        raise UnknownName("torchvision network", name, closest(name, models.list_models()))
    return models


def _from_torchvision(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    make = torchvision_with(name).get_model_builder(name)
    passed = {key: value for key, value in arguments.items() if key != "in_channels"}
    if arguments.get("in_channels", 3) != 3:
        raise ModelError(f"torchvision:{name} takes 3 input channels, not {arguments['in_channels']}")
    no_weights = {key: None for key in ("weights", "weights_backbone") if key in inspect.signature(make).parameters}
    with warnings.catch_warnings():
        # googlenet and inception_v3 warn of a future change of their initialization
        warnings.simplefilter("ignore", FutureWarning)
        return called(f"torchvision:{name}", lambda: make(**no_weights, **passed)), passed


def _torchvision_preprocessing(name: str) -> Preprocessing:
    models = torchvision_with(name)
    stated = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = getattr(stated, "mean", None), getattr(stated, "std", None)
    size = getattr(stated, "crop_size", None)
    shorter: Any = getattr(stated, "resize_size", None)
    if size and name.startswith("vit_"):
        shorter = shorter if list(size) == [224] else None
        size = [224]  # the constructor's default; weights for other sizes need the argument image_size
    named = getattr(getattr(stated, "interpolation", None), "value", None)
    known = bool(size and shorter) and named in ("bicubic", "bilinear") and shorter[0] >= max(size or [0])
    return Preprocessing(
        (3, size[0], size[-1]) if size else None, tuple(mean) if mean else None, tuple(std) if std else None,
        shorter[0] if known else None, named if known else None,
    )  # fmt: skip


def _from_module(spec: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in spec.replace(":", ".").split(".")) or module_name.endswith(".py"):
        raise ModelError(f"{spec!r} is not a network: write package.module:function, with dots, no path and no '.py'")
    with working_directory_on_path():
        try:
            make = attrgetter(attribute)(import_module(module_name, spec, ModelError))
        except AttributeError as error:
            raise ModelError(f"module {module_name!r} has no {attribute!r}: cannot build {spec!r}") from error
        if not callable(make) or isinstance(make, nn.Module):
            raise ModelError(f"{spec} is a {type(make).__name__}: name a function or class that builds the network")
        passed = _accepted(make, spec, arguments)
        return called(spec, lambda: make(**passed)), passed


def _accepted(make: Callable[..., Any], spec: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that `make` takes; drop those in `COMMON` that it does not take, refuse others."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # built-in functions have no signature
        return arguments
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return arguments
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    refuse_unknown(spec, {key: value for key, value in arguments.items() if key not in COMMON}, names)
    return {key: value for key, value in arguments.items() if key in names}


def closest(name: str, known: Sequence[str]) -> list[str]:
    """Return up to five similar names, and how many others there are."""
    close = get_close_matches(name, known, n=5)
    return [*close, f"{len(known) - len(close)} others"]
