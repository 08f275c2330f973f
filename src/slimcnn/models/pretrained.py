"""Networks with the weights that timm and torchvision publish, from the caches of these packages."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ModelError, UnknownName, WeightsError
from slimcnn.importing import one_line
from slimcnn.models.building import networks
from slimcnn.models.sources import closest, preprocessing, refuse_unknown_network, resolve, timm_with, torchvision_with

PRETRAINED = "pretrained"
"""What stands for published weights where a weights file can be named."""

SETTLED: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}
"""Arguments that torchvision sets itself for published weights; a checkpoint needs them to build the same network."""

SAME = 1e-6
"""Largest difference of outputs, relative to the largest output, between the library's network and the one built here:
both run the same operations on the same numbers."""


def pretrained(spec: str, /, **arguments: Any) -> nn.Module:
    """Build a network of timm or torchvision with its published weights, in eval mode.

    The package downloads the file into its own cache, compares its checksum where it does so, and reads it from there
    the next time; nothing is unpickled. `preprocessing` of the network gives the image size, mean and standard
    deviation that the weights expect. The head has the classes that it was trained for; `replace_head` replaces it.

    Args:
        spec: `timm:NAME` (a tag chooses the weights: `timm:resnet18.a1_in1k`) or `torchvision:NAME` (the weights that
            torchvision calls DEFAULT).
        arguments: arguments of the constructor. timm adapts the first layer to `in_channels`.

    Raises:
        UnknownName: there is no such network.
        ModelError: the network has no published weights, or `num_classes` is given.
        WeightsError: the weights cannot be downloaded (the message says where to put the file), or do not fit.

    >>> pretrained("resnet20")
    Traceback (most recent call last):
    slimcnn.errors.ModelError: resnet20 has no published weights: give a weights file, or take timm:NAME or ...
    """
    refuse_unknown_network(spec)
    kind, _, name = spec.partition(":")
    if kind not in ("timm", "torchvision"):
        what = spec if spec in networks else f"{spec}, your own function,"
        raise ModelError(
            f"{what} has no published weights: give a weights file, or take timm:NAME or torchvision:NAME "
            "(see slimcnn list networks)"
        )
    if "num_classes" in arguments:
        raise ModelError(
            f"{spec} has published weights for its own classes: leave num_classes out; the step train replaces the head"
        )
    published = _timm(name, arguments) if kind == "timm" else _torchvision(name, arguments)
    settled = SETTLED.get(name, {}) if kind == "torchvision" else {}
    model = resolve(spec, **(settled | arguments)).eval()
    model.load_state_dict(published.state_dict())
    _check_same(spec, published.eval(), model)
    return model


@dataclass(frozen=True)
class PublishedFile:
    """A file of published weights."""

    path: Path
    """Where it is, or where it is looked for, in the cache of its package."""
    source: str
    """A URL, or a repository of the Hugging Face Hub."""

    @property
    def cached(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()


def _timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    timm = timm_with(name)
    stated = timm.get_pretrained_cfg(name)
    if stated is None or not stated.has_weights:
        known = closest(name, timm.list_pretrained())
        raise ModelError(f"timm:{name} has no published weights; networks that have: {', '.join(known)}")
    file = _timm_file(stated)
    if stated.hf_hub_id and not file.cached:
        _refuse_unreachable(f"timm:{name}", file, *str(stated.hf_hub_id).partition("@")[::2])
    # A file that the user has put into the cache by hand has no record of its revision, so timm is given its path.
    local = {"pretrained_cfg_overlay": {"file": str(file.path)}} if file.cached and not stated.custom_load else {}
    renamed = {"in_chans" if key == "in_channels" else key: value for key, value in arguments.items()}
    return _loaded(f"timm:{name}", file, lambda: timm.create_model(name, pretrained=True, **local, **renamed))


def _timm_file(stated: Any) -> PublishedFile:
    """Return the weights file of a network's pretrained configuration, as timm looks for it."""
    if not stated.hf_hub_id:
        return _hub_file(stated.url)
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = str(stated.hf_hub_id).partition("@")
    names = (stated.hf_hub_filename,) if stated.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return PublishedFile(Path(found), repository)
    folder = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots", revision or "main")
    return PublishedFile(folder / names[0], f"{repository} of the Hugging Face Hub")


def _refuse_unreachable(spec: str, file: PublishedFile, repository: str, revision: str) -> None:
    """Raise `WeightsError` if a repository of the Hugging Face Hub cannot be reached.

    Without this check, timm asks for two files, each with five retries: 50 seconds without a network.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise _unavailable(spec, file, "HF_HUB_OFFLINE is set")
    try:
        get_hf_file_metadata(hf_hub_url(repository, file.path.name, revision=revision or None))
    except EntryNotFoundError:
        pass  # timm looks for other files there
    except Exception as error:  # of the HTTP library, which is not a dependency of slimcnn's
        raise _unavailable(spec, file, one_line(error)) from error


def _unavailable(spec: str, file: PublishedFile, reason: str) -> WeightsError:
    return WeightsError(
        f"the published weights of {spec} cannot be downloaded from {file.source} ({reason:.160}): put the file at "
        f"{file.path}"
    )


def _torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    models = torchvision_with(name)
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    if weights is None:
        raise ModelError(f"torchvision:{name} has no published weights: give a weights file")
    if arguments.get("in_channels", 3) != 3:
        raise ModelError(f"torchvision:{name} takes 3 input channels, not {arguments['in_channels']}")
    make = models.get_model_builder(name)
    passed = {key: value for key, value in arguments.items() if key != "in_channels"}
    passed |= {"weights_backbone": None} if "weights_backbone" in inspect.signature(make).parameters else {}
    file = _hub_file(weights.url)
    return _loaded(f"torchvision:{name}", file, lambda: make(weights=weights, progress=False, **passed))


def _hub_file(url: str) -> PublishedFile:
    """Return the file of a URL in the cache of torch.hub."""
    return PublishedFile(Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name), url)


def _loaded(spec: str, file: PublishedFile, make: Any) -> nn.Module:
    """Call a builder that downloads weights, or reads them from the cache."""
    try:
        # torch.hub prints to stdout, which may be read as JSON
        with _only_weights(), redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = make()
    except UnknownName:
        raise
    except Exception as error:  # the packages raise errors of the network, of files, and of several other packages
        if not file.cached:
            raise _unavailable(spec, file, one_line(error)) from error
        raise WeightsError(
            f"the published weights of {spec} cannot be loaded from {file.path}: {one_line(error):.300}; if the file "
            "is damaged, delete it, and it is downloaded again"
        ) from error
    assert isinstance(found, nn.Module)
    return found


@contextmanager
def _only_weights() -> Iterator[None]:
    """Let `torch.load` read tensors only: torchvision asks it to unpickle anything."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


def _check_same(spec: str, published: nn.Module, model: nn.Module) -> None:
    """Raise `WeightsError` unless a network built from its arguments computes what the library's network does.

    Otherwise a checkpoint, which stores arguments and tensors, would not reproduce the network.
    """
    shape = preprocessing(model).input or (3, 224, 224)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = [tree_leaves(network(x)) for network in (published, model)]
    for wanted, found in zip(*pairs, strict=True):
        if isinstance(wanted, Tensor) and wanted.numel():
            wanted, found = wanted.double(), found.double()
            if wanted.shape != found.shape or float((wanted - found).abs().max()) > SAME * float(wanted.abs().max()):
                raise WeightsError(
                    f"{spec} with its published weights has settings that its constructor does not take: build it "
                    "with the package and pass it to slimcnn as your own network"
                )
