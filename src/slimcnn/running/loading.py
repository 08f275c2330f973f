"""The one way from settings to a network, and to a network with its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.checkpoints import is_checkpoint, load, read_information
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.errors import ModelError, RecipeError
from slimcnn.models import load_weights, preprocessing, resolve
from slimcnn.models.building import takes
from slimcnn.models.sources import refuse_unknown_network
from slimcnn.rewriting import rewritten
from slimcnn.running.normalization import find_normalization
from slimcnn.running.settings import Data, Network
from slimcnn.show import SILENT, Show

UNNAMED = "which network? give --model NAME (see slimcnn list networks), or --weights CHECKPOINT"


@dataclass(frozen=True)
class Loaded:
    """A network and its images."""

    model: nn.Module
    data: Dataset
    """With the normalization that the weights expect."""
    normalization: str
    """How it was found."""


def load_with_data(network: Network, data: Data, show: Show = SILENT) -> Loaded:
    """Load images and a network that is made for them; weights may be random.

    Raises:
        SlimcnnError: a name that is unknown, a file that cannot be read, a network that does not fit the images.
    """
    size = data.image_size or _size_for_folder(network, data)
    show.say(f"loading {data.name}")
    dataset = load_dataset(data.name, image_size=size, seed=data.seed)
    if data.limit:
        dataset = dataset.limit(data.limit)
    model, information = load_network(network, dataset)
    check_classes(model, dataset)
    normalization, how = find_normalization(model, network, data, dataset, information)
    return Loaded(model, replace(dataset, normalization=normalization), how)


def refuse_unnamed(network: Network) -> None:
    """Refuse settings that name no network, or one that does not exist, without building it."""
    if network.model:
        refuse_unknown_network(network.model)
    elif network.weights is None:
        raise RecipeError(UNNAMED)


def load_network(network: Network, dataset: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network for a dataset and load its weights; also what travels along with a checkpoint."""
    arguments = {"num_classes": len(dataset.classes), "in_channels": dataset.shape[0]}
    if network.model and takes(network.model, "image_size"):
        arguments["image_size"] = max(dataset.shape[1:])
    return _load(network, arguments, torch.zeros(1, *dataset.shape))


def blank_of(network: Network, dataset: Dataset) -> Callable[[], nn.Module] | None:
    """How a checkpoint of this network is opened: by a freshly built network, or by the file alone (None).

    A file may not choose which Python code runs, so a network of the user's own is built by the settings.
    """
    if ":" not in network.model or network.model.startswith(("timm:", "torchvision:")):
        return None
    fresh = network.model_copy(update={"weights": None})
    return lambda: load_network(fresh, dataset)[0]


def load_subject(
    model: str = "",
    weights: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    rewrite: str = "",
    input_shape: tuple[int, ...] | None = None,
) -> tuple[nn.Module, Tensor]:
    """Load a network without a dataset, and one example input, (1, c, h, w), of zeros.

    Raises:
        ModelError: the network does not say which input it expects, and `input_shape` is not given.
    """
    network = Network(
        model=model, weights=str(weights) if weights else None, arguments=dict(arguments or {}), rewrite=rewrite
    )
    found, information = _load(network, {}, torch.zeros(1, *input_shape) if input_shape else None)
    size = input_shape or tuple(information.get("input", ())) or preprocessing(found).input
    if not size:
        raise ModelError("what does the network expect? give --input, for example --input 3x224x224")
    return found, torch.zeros(1, *size)


def _load(network: Network, arguments: dict[str, Any], example: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
    checkpoint = network.weights is not None and is_checkpoint(network.weights)
    if not network.model and not checkpoint:
        raise RecipeError(UNNAMED)
    built = None
    if network.model and (not checkpoint or ":" in network.model or network.rewrite):
        # The first weights are part of the recipe: a run that was killed early must begin with the same ones.
        with torch.random.fork_rng([]):
            torch.manual_seed(network.seed)
            built = resolve(network.model, **(arguments | network.arguments))
            if network.rewrite:
                built = rewritten(built, network.rewrite, example).model
    if checkpoint:
        assert network.weights is not None
        return load(network.weights, built), read_information(network.weights)
    assert built is not None
    if network.weights is not None:
        load_weights(built, network.weights)
    return built.eval(), {}


def _size_for_folder(network: Network, data: Data) -> int | None:
    """Images of a user's folder come in any size: scale them to what the network was made for."""
    from slimcnn.datasets import datasets

    if data.name.partition(":")[0] in datasets or not network.model:
        return None
    stated = preprocessing(network.model).input
    return stated[1] if stated else None


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a network that does not answer images of the dataset with a score for each class."""
    x = dataset.normalization(dataset.validation.pixels[:2])
    try:
        with torch.no_grad():
            scores = model.eval()(x)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"the network does not accept images {tuple(x.shape)} of {dataset.name}: {reason}") from error
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < len(dataset.classes):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"the network returns {found} for 2 images; {dataset.name} needs scores (2, {len(dataset.classes)}): "
            "is it built and trained for these classes?"
        )
