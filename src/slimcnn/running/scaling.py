"""Scale pictures as the weights of a network expect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimcnn.checkpoints import is_checkpoint, read_information
from slimcnn.datasets.scaling import ImageSize
from slimcnn.errors import CheckpointError
from slimcnn.files import kind_of
from slimcnn.models import preprocessing
from slimcnn.running.settings import Data, Network


def with_published_scaling(network: Network, data: Data) -> Data:
    """Return the settings of the data with the scaling that a network's weights expect, unless they say another.

    A checkpoint states how the pictures of its run were scaled. For networks of timm and torchvision with weights, it
    is what is published with them: such as scaling the shorter side to 256 pixels, bilinear, and cropping 224. Only
    pictures in files are scaled; a network without weights expects nothing.

    >>> data = Data(name="photos")
    >>> asked = with_published_scaling(Network(model="torchvision:resnet18", weights="resnet18.pth"), data)
    >>> asked.image_size, asked.resize, asked.interpolation
    (224, 256, 'bilinear')
    >>> with_published_scaling(Network(model="torchvision:resnet18"), data) == data
    True
    """
    if not _pictures(data) or network.weights is None:
        return data
    if data.image_size is not None or data.resize is not None or data.interpolation is not None:
        return data
    # Other weights have no file yet, or none that can be read: loading them says so.
    if kind_of(Path(network.weights)) == "file" and is_checkpoint(network.weights):
        return data.model_copy(update=scaling_in(read_information(network.weights)))
    stated = preprocessing(network.model) if network.model else None
    if stated is None or stated.input is None or stated.resize is None:
        return data
    found = {"image_size": _size(stated.input), "resize": stated.resize, "interpolation": stated.interpolation}
    return data.model_copy(update=found)


def size_for(network: Network, data: Data) -> ImageSize | None:
    """Return the input size of the network, to which images are scaled; None: as they are.

    Pictures in files have no size of their own; images of a dataset with a name have one, and are scaled for published
    weights only.
    """
    if not network.model or not (_pictures(data) or network.published):
        return None
    stated = preprocessing(network.model).input
    return _size(stated) if stated else None


def scaling_in(information: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image size and the scaling that a checkpoint states, as settings of the data.

    Raises:
        CheckpointError: they are damaged.

    >>> scaling_in({"input": [3, 224, 224], "scaling": {"resize": 256, "interpolation": "bilinear"}})
    {'image_size': 224, 'resize': 256, 'interpolation': 'bilinear'}
    >>> scaling_in({"input": [3, 96, 128]})
    {'image_size': (96, 128)}
    """
    shape, stated = information.get("input"), information.get("scaling") or {}
    try:
        found = {"image_size": _size(tuple(map(int, shape)))} if shape else {}
        if stated:
            resize, interpolation = stated["resize"], stated["interpolation"]
            found |= {"resize": None if resize is None else int(resize), "interpolation": interpolation}  # type: ignore[dict-item]
        return Data.model_validate(found).model_dump(include=set(found))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint states the input {shape!r:.60} and the scaling {stated!r:.60}: these are no sizes"
        ) from error


def _size(shape: tuple[int, ...]) -> ImageSize:
    return shape[-1] if shape[-2] == shape[-1] else (shape[-2], shape[-1])


def _pictures(data: Data) -> bool:
    """Return whether the data are pictures in files; datasets with a name have images of one size."""
    from slimcnn.datasets import datasets

    return data.name.partition(":")[0] not in datasets
