"""Load networks and datasets from settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slimcnn.checkpoints import is_checkpoint, load, read_architecture, read_information
from slimcnn.datasets import Dataset, batches, load_dataset
from slimcnn.errors import DataError, ModelError, RecipeError, WeightsError
from slimcnn.models import load_weights, preprocessing, pretrained, resolve
from slimcnn.models.building import takes
from slimcnn.models.sources import refuse_unknown_network
from slimcnn.models.weights import classes_in
from slimcnn.rewriting import rewritten
from slimcnn.running.normalization import find_normalization
from slimcnn.running.scaling import size_for, with_published_scaling
from slimcnn.running.settings import Data, Network, explain
from slimcnn.show import SILENT, Show
from slimcnn.tasks import task_named, task_of

UNNAMED = "no network named: pass --model NAME (see slimcnn list networks), or --weights CHECKPOINT"

InputShape: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]
"""The shape of one sample, without the batch; or those of named inputs."""


@dataclass(frozen=True)
class Loaded:
    """A network and its dataset."""

    model: nn.Module
    data: Dataset
    """With the normalization that the weights expect."""
    normalization: str
    """How the normalization was found."""
    other_classes: str = ""
    """How the network's outputs and the classes of the dataset differ; empty if the network fits."""


def load_with_data(network: Network, data: Data, show: Show = SILENT, *, other_classes: bool = False) -> Loaded:
    """Load a dataset and a network that fits it; the weights may be random.

    With `other_classes`, a classifier may have another number of outputs than the dataset has classes.

    Raises:
        SlimcnnError: a name is unknown, a file cannot be read, or the network does not fit the images.
    """
    data = with_published_scaling(network, data)
    size = data.image_size or size_for(network, data)
    show.say(f"loading {data.name}")
    dataset = load_dataset(data.name, image_size=size, seed=data.seed, limit=data.limit, **data.reading)
    if data.task is not None:
        dataset = for_task(dataset, data.task)
    if network.published:
        show.say(f"loading the published weights of {network.model}")
    model, information = load_network(network, dataset)
    differ = other_classes_of(model, dataset) if other_classes else ""
    if not differ:
        check_output(model, dataset)
    normalization, how = find_normalization(model, network, data, dataset, information)
    if dataset.broken:
        show.say(skipped_in_words(dataset))
    return Loaded(model, replace(dataset, normalization=normalization), how, differ)


def skipped_in_words(data: Dataset) -> str:
    """Say how many broken images of a dataset have been left out so far, and name the first."""
    n = len(data.broken)
    return f"  {n:,} broken image{'s' * (n != 1)} left out so far: {next(iter(data.broken.values()))}"


def refuse_unnamed(network: Network) -> None:
    """Raise an error if the settings name no network or an unknown one; builds nothing."""
    if network.model:
        refuse_unknown_network(network.model)
    elif network.weights is None:
        raise RecipeError(UNNAMED)


def load_network(network: Network, dataset: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network for a dataset and load its weights; return it with the extra data of its checkpoint."""
    arguments = task_of(dataset).arguments(dataset)
    if network.model and takes(network.model, "image_size"):
        arguments["image_size"] = max(dataset.shape[1:])
    return _load(network, arguments, torch.zeros(1, *dataset.shape))


def blank_of(network: Network, dataset: Dataset) -> Callable[[], nn.Module] | None:
    """Return a function that builds the network for loading its checkpoint; None if the file suffices.

    Loading a checkpoint never runs user code, so a network built by a user's function is built from the settings.
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
    input_shape: InputShape | None = None,
    verify: bool = True,
) -> tuple[nn.Module, Any]:
    """Load a network without a dataset, and one example input, (1, c, h, w), of zeros; several inputs as a dict.

    Raises:
        ModelError: the input shape of the network is unknown, and `input_shape` is not given.
    """
    try:
        network = Network(
            model=model, weights=str(weights) if weights else None, verify=verify, arguments=dict(arguments or {}),
            rewrite=rewrite,
        )  # fmt: skip
    except ValidationError as error:
        raise RecipeError(explain(error)) from None
    found, information = _load(network, {}, inputs_of(input_shape) if input_shape else None)
    size: Any = input_shape or tuple(information.get("input", ())) or preprocessing(found).input
    if not size:
        raise ModelError("the input shape of the network is unknown: pass --input, such as --input 3x224x224")
    return found, inputs_of(size)


def inputs_of(shape: InputShape) -> Any:
    """Return an input of zeros for one sample, or a dict of named inputs.

    >>> inputs_of({"image": (3, 4, 4)})["image"].shape
    torch.Size([1, 3, 4, 4])
    """
    if isinstance(shape, Mapping):
        return {name: example_of(one) for name, one in shape.items()}
    return example_of(shape)


def example_of(shape: Sequence[int]) -> Tensor:
    """Return an input (1, c, h, w) of zeros.

    Raises:
        ModelError: it does not fit into this machine's memory.

    >>> example_of((3, 100_000, 100_000_000))
    Traceback (most recent call last):
    slimcnn.errors.ModelError: an input of shape 3x100000x100000000 needs 120000.0 GB of memory: pass a smaller --input
    """
    size = 4 * prod(shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    if size <= memory:
        with suppress(RuntimeError, TypeError):  # no memory, or a size beyond 64 bits
            return torch.zeros(1, *shape)
    named = "x".join(map(str, shape))
    raise ModelError(f"an input of shape {named} needs {size / 1e9:.1f} GB of memory: pass a smaller --input")


def _load(network: Network, arguments: dict[str, Any], example: Any) -> tuple[nn.Module, dict[str, Any]]:
    checkpoint = network.weights is not None and not network.published and is_checkpoint(network.weights)
    if not network.model and not checkpoint:
        raise RecipeError(UNNAMED)
    if network.published:
        return _load_published(network, arguments), {}
    if network.model and checkpoint:
        _refuse_other_network(network)
    built = None
    if network.model and (not checkpoint or ":" in network.model or network.rewrite):
        # Seeded: a run that was killed early must restart with the same initial weights.
        with torch.random.fork_rng([]):
            torch.manual_seed(network.seed)
            built = _build(network, arguments, example)
    if checkpoint:
        assert network.weights is not None
        return load(network.weights, built, verify=network.verify), read_information(network.weights)
    assert built is not None
    if network.weights is not None:
        try:
            load_weights(built, network.weights)
        except WeightsError:
            classes = classes_in(network.weights, built, (arguments | network.arguments).get("num_classes"))
            if classes is None or "num_classes" in network.arguments:
                raise
            built = _build(network, arguments | {"num_classes": classes}, example)
            load_weights(built, network.weights)
    return built.eval(), {}


def _build(network: Network, arguments: dict[str, Any], example: Any) -> nn.Module:
    built = resolve(network.model, **(arguments | network.arguments))
    return rewritten(built, network.rewrite, example).model if network.rewrite else built


def _load_published(network: Network, arguments: dict[str, Any]) -> nn.Module:
    if network.rewrite:
        raise RecipeError(
            f"published weights are of {network.model} without a rewrite: leave --rewrite out, and add the step rewrite"
        )
    return pretrained(
        network.model, **{key: value for key, value in arguments.items() if key != "num_classes"} | network.arguments
    )


def _refuse_other_network(network: Network) -> None:
    """Raise an error if a checkpoint is named together with another built-in network than its own."""
    assert network.weights is not None
    refuse_unknown_network(network.model)
    known = read_architecture(network.weights)
    if ":" not in network.model and known is not None and known[0] != network.model:
        raise ModelError(
            f"{network.weights} is a checkpoint of {known[0]}, not of {network.model}: leave the network's name out"
        )


def for_task(dataset: Dataset, task: str) -> Dataset:
    """Return the dataset for a task.

    Raises:
        UnknownName: there is no such task; DataError: the dataset has targets for another.
    """
    task_named(task)
    if ":" not in task and task != dataset.task:
        raise DataError(f"{dataset.name} has targets for {dataset.task}, not for {task}: leave --task out")
    return replace(dataset, task=task)


def check_output(model: nn.Module, dataset: Dataset) -> None:
    """Raise `ModelError` unless the network's output fits the dataset's task."""
    if dataset.task == "classification":
        check_classes(model, dataset)
    else:
        task_of(dataset).check(model, dataset)


def other_classes_of(model: nn.Module, dataset: Dataset) -> str:
    """Say how a classifier's outputs and the classes of a dataset differ; empty if they are equally many.

    Empty, too, for other tasks, and for a network that does not return scores: `check_output` refuses it.
    """
    if dataset.task != "classification":
        return ""
    with torch.no_grad(), suppress(RuntimeError, ValueError, TypeError):
        scores = model.eval()(torch.zeros(2, *dataset.shape))
        if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] != len(dataset.classes):
            return f"the network has {scores.shape[1]} outputs, and {dataset.name} has {len(dataset.classes)} classes"
    return ""


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Raise an error unless the network returns a score per class for images of the dataset."""
    some = dataset.validation.take(torch.arange(min(2, len(dataset.validation))))
    x, _ = next(batches(some, 2, normalization=dataset.normalization))
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
            "build and train it for these classes"
        )
    if scores.shape[1] > len(dataset.classes):
        raise ModelError(
            f"{other_classes_of(model, dataset)}: put the step train in front, which replaces the head (slimcnn train, "
            "or --pretrain N)"
        )
