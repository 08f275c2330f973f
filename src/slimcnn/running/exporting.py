"""Load the network to export (from a run, a checkpoint or a name) and images for the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.checkpoints import is_checkpoint, read_information
from slimcnn.datasets import Dataset, Normalization, datasets, load_dataset
from slimcnn.datasets.scaling import Scaling
from slimcnn.errors import ExportError
from slimcnn.files import kind_of
from slimcnn.models import preprocessing
from slimcnn.models.pretrained import PRETRAINED
from slimcnn.running.loading import InputShape, load_subject
from slimcnn.running.normalization import stored_in
from slimcnn.running.opening import images_of, open_run
from slimcnn.show import SILENT, Show


@dataclass(frozen=True)
class Subject:
    """A network to export, with the data stored in its files."""

    model: nn.Module
    example: Any
    """(1, c, h, w), or a dict of several inputs."""
    home: Path
    """Default output folder."""
    images: Tensor | None = None
    """Test images, uint8 pixels (n, c, h, w); None: compare on random inputs."""
    compared_on: str = ""
    classes: tuple[str, ...] = ()
    normalization: Normalization | None = None
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """How pictures became images (`Scaling.stated`)."""
    classifies: bool = True
    """Whether its task is classification, as far as its files say."""


def subject_of(
    source: Path | None, model: str = "", weights: Path | None = None, arguments: Mapping[str, Any] | None = None,
    data: str = "", input_shape: InputShape | None = None, *, images: int = 256,
    verify: bool = True, show: Show = SILENT,
) -> Subject:  # fmt: skip
    """Load the network to export.

    Args:
        source: a run folder or a checkpoint; None: `model` and `weights` name the network.
        model: a name, as for `load_subject`.
        weights: its weights, or a checkpoint.
        arguments: model constructor arguments.
        data: dataset for the comparison; default: that of the run or the checkpoint.
        input_shape: (c, h, w) of one image, if it is not known otherwise.
        images: number of test images.
        verify: compare a checkpoint with its digest.
        show: progress output.

    Raises:
        SlimcnnError: no network is named, or it cannot be read.
    """
    if source is None and not model and weights is None:
        raise ExportError("nothing to export: pass a run folder, a checkpoint, or --model")
    if source is not None and kind_of(source, ExportError) == "folder":
        state = open_run(source, show)
        return _with_images(Subject(state.model, state.example, source), state.data, images)
    found, example = load_subject(model, source or weights, arguments, "", input_shape, verify)
    subject = Subject(found, example, Path("exported"))
    stated = preprocessing(found)
    as_published = isinstance(example, Tensor) and tuple(example.shape[1:]) == stated.input
    if as_published and stated.resize is not None and stated.interpolation is not None:
        subject = replace(subject, scaling=Scaling(stated.resize, stated.interpolation).stated())
    if stated.mean is not None and stated.std is not None:
        subject = replace(subject, normalization=Normalization(tuple(stated.mean), tuple(stated.std)))
    file = source or weights
    if file is not None and str(file) != PRETRAINED and is_checkpoint(file):
        information = read_information(file)
        subject = replace(
            subject,
            classes=tuple(information.get("classes", ())),
            normalization=stored_in(information) or subject.normalization,
            scaling=information.get("scaling", {}),
            classifies=information.get("task", "classification") == "classification",
        )
        named = str(information.get("dataset", "")).partition(":")[0]
        if data or named in datasets:
            show.say(f"loading {data or named}")
            return _with_images(subject, images_of(file, data), images)
    if data:
        if not isinstance(example, Tensor):
            raise ExportError("--data has one input, the network has several: leave --data out")
        show.say(f"loading {data}")
        loaded = load_dataset(data, image_size=example.shape[2])
        usual = subject.normalization or loaded.normalization
        return _with_images(subject, replace(loaded, normalization=usual), images)
    return subject


def _with_images(subject: Subject, data: Dataset, images: int) -> Subject:
    return replace(
        subject, images=data.test.limit(images).in_memory().pixels, compared_on=f"{data.name}, test",
        classes=data.classes, normalization=data.normalization, example=torch.zeros(1, *data.shape),
        scaling=data.scaling.stated() or subject.scaling,
        classifies=data.task == "classification",
    )  # fmt: skip
