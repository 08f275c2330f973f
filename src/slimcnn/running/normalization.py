"""Find the normalization that the weights of a network expect."""

from __future__ import annotations

from torch import nn

from slimcnn.datasets import Dataset, Normalization
from slimcnn.models import Preprocessing, preprocessing
from slimcnn.running.settings import Data, Network
from slimcnn.training import evaluate

IMAGES = 1000
"""Number of validation images for comparing candidates."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def find_normalization(
    model: nn.Module, network: Network, data: Data, dataset: Dataset, information: dict[str, object]
) -> tuple[Normalization, str]:
    """Return the mean and standard deviation, and how they were found.

    In this order: those of the recipe; those of the checkpoint; for a network without weights, those of the dataset;
    else the candidate with the lowest cross entropy on 1000 validation images. Candidates are the published values of
    the network, those of the dataset, those of ImageNet, and plain scalings. Top-1 cannot decide: on images that the
    network was trained on, several candidates reach 100 %.
    """
    if not isinstance(data.normalization, str):
        return Normalization(data.normalization.mean, data.normalization.std), "given in the recipe"
    stored = information.get("normalization")
    if isinstance(stored, dict):
        return Normalization(tuple(stored["mean"]), tuple(stored["std"])), "stored with the weights"
    if network.weights is None:
        return dataset.normalization, f"of the dataset {dataset.name}"
    options = candidates(network, dataset)
    images = dataset.validation.limit(IMAGES) if len(dataset.validation) > IMAGES else dataset.validation
    found = {name: evaluate(model, images, normalization) for name, normalization in options.items()}
    best = min(found, key=lambda name: found[name].loss)
    table = ", ".join(f"{name} {one.loss:.4f} ({one.top1:.1f} %)" for name, one in found.items())
    return options[best], f"{best}, found by cross entropy (and top-1) on {len(images)} validation images: {table}"


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
