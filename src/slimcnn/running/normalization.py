"""Find the normalization that the weights of a network expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from slimcnn.datasets import Dataset, Normalization
from slimcnn.errors import CheckpointError, DataError
from slimcnn.models import Preprocessing, preprocessing
from slimcnn.running.settings import Data, Network
from slimcnn.tasks import task_of
from slimcnn.training import judge

IMAGES = 1000
"""Number of validation images for comparing candidates."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def find_normalization(
    model: nn.Module, network: Network, data: Data, dataset: Dataset, information: dict[str, object]
) -> tuple[Normalization, str]:
    """Return the mean and standard deviation, and how they were found.

    In this order: those of the checkpoint, or those published with the weights; those of the recipe; for a network
    without weights, those of the dataset; else the candidate with the lowest cross entropy on 1000 validation images.
    Candidates are the published values of the network, those of the dataset, those of ImageNet, and plain scalings.
    Top-1 cannot decide: on images that the network was trained on, several candidates reach 100 %.
    """
    if dataset.ready:
        return dataset.normalization, "that of your dataset, whose tensors are used as they are"
    asked = data.normalization
    given = None if isinstance(asked, str) else Normalization(asked.mean, asked.std)
    stored = stored_in(information)
    if stored is not None:
        ignored = "; that of the recipe is not used" if given not in (None, stored) else ""
        return stored, f"stored with the weights{ignored}"
    if network.published and (own := _published(network.model, dataset.shape[0])) is not None:
        ignored = "; that of the recipe is not used" if given not in (None, own) else ""
        return own, f"published with the weights{ignored}"
    if given is not None:
        return given, "given in the recipe"
    if network.weights is None:
        return dataset.normalization, f"of the dataset {dataset.name}"
    if not task_of(dataset).loss_of_answers:
        return dataset.normalization, "that of the data: the loss cannot compare others"
    options = candidates(network, dataset)
    images = (dataset.validation.limit(IMAGES) if len(dataset.validation) > IMAGES else dataset.validation).in_memory()
    found = {
        name: judge(model, images, replace(dataset, normalization=normalization))
        for name, normalization in options.items()
    }
    best = min(found, key=lambda name: found[name].loss)
    table = ", ".join(f"{name} {one.loss:.4f} ({one.score:.1f} %)" for name, one in found.items())
    metric = task_of(dataset).metric.name
    return options[best], f"{best}, found by cross entropy (and {metric}) on {len(images)} validation images: {table}"


def _published(model: str, channels: int) -> Normalization | None:
    """Return the normalization published with a network's weights; for gray images, the mean over its channels."""
    stated = preprocessing(model)
    if stated.mean is None or stated.std is None:
        return None
    if len(stated.mean) == channels:
        return Normalization(stated.mean, stated.std)
    if channels != 1:
        return None
    return Normalization(*((sum(values) / len(values),) for values in (stated.mean, stated.std)))


def stored_in(information: Mapping[str, Any]) -> Normalization | None:
    """Return the normalization stored in a checkpoint (see `read_information`); None if there is none.

    Raises:
        CheckpointError: the stored normalization is damaged.

    >>> stored_in({"normalization": {"mean": [0.5], "std": [0.25]}})
    Normalization(mean=(0.5,), std=(0.25,))
    """
    stated = information.get("normalization")
    if not stated:
        return None
    try:
        mean, std = (tuple(float(value) for value in stated[name]) for name in ("mean", "std"))
        return Normalization(mean, std)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise CheckpointError(
            f"a checkpoint states the normalization {stated!r:.100}: it needs mean and std"
        ) from error


def adapt(network: nn.Module, expected: Normalization | None, given: Normalization) -> nn.Module:
    """Let a network that expects one normalization take images of another; returns the network, changed in place.

    >>> import torch
    >>> net = adapt(nn.Identity(), Normalization((0.0,), (1.0,)), Normalization((0.5,), (0.5,)))
    >>> net(torch.tensor([[[[-1.0, 1.0]]]]))
    tensor([[[[0., 1.]]]])
    """
    if expected is None or expected == given or len(expected.mean) != len(given.mean):
        return network
    pairs = zip(given.mean, given.std, expected.mean, expected.std, strict=True)
    scales, shifts = zip(*((std / own_std, (mean - own) / own_std) for mean, std, own, own_std in pairs), strict=True)

    def renormalize(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        scale, shift = (x.new_tensor(values).view(1, -1, 1, 1) for values in (scales, shifts))
        return (x * scale + shift, *inputs[1:])

    network.register_forward_pre_hook(renormalize)
    return network


def described(normalization: Normalization) -> str:
    """Format a normalization.

    >>> described(Normalization((0.4914, 0.5), (0.247, 0.25)))
    'mean 0.491, 0.5 and std 0.247, 0.25'
    """
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (normalization.mean, normalization.std))
    return f"mean {mean} and std {std}"


def candidates(network: Network, dataset: Dataset) -> dict[str, Normalization]:
    """Return the candidate normalizations for the image channels of a dataset."""
    channels = dataset.shape[0]
    stated = preprocessing(network.model) if network.model else Preprocessing()  # a checkpoint alone has no name
    options = {}
    if stated.mean is not None and stated.std is not None and len(stated.mean) == channels:
        options["the network's own"] = Normalization(stated.mean, stated.std)
    options[f"of {dataset.name}"] = dataset.normalization
    if channels == 3:
        options["of ImageNet"] = Normalization(*IMAGENET)
    options["0 to 1"] = Normalization((0.0,) * channels, (1.0,) * channels)
    options["-1 to 1"] = Normalization((0.5,) * channels, (0.5,) * channels)
    return options
