"""The content of a run's page: its networks as ONNX files, and some test images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.checkpoints import load, read_information
from slimcnn.datasets import Dataset, Images, Normalization, load_dataset
from slimcnn.datasets.scaling import AS_LARGE, Scaling
from slimcnn.errors import ModelError, RunError, SlimcnnError
from slimcnn.exporting import export
from slimcnn.files import kind_of
from slimcnn.reporting import read_report
from slimcnn.reporting.formatting import count, ratio, small
from slimcnn.reporting.schema import CurveReport, Numbers, Report
from slimcnn.reporting.storing import PAGE
from slimcnn.running.folder import COMPRESSED, ORIGINAL, RECIPE, root_of
from slimcnn.running.loading import blank_of
from slimcnn.running.recipe import Recipe, read_recipe
from slimcnn.show import SILENT, Show

INT8 = "model_int8.onnx"
"""Output file of `slimcnn quantize`; if present in the run's folder, it is the third network on the page."""


@dataclass(frozen=True)
class ShownNetwork:
    """A network on the page."""

    title: str
    onnx: bytes
    """Input (1, c, h, w): normalized float32, or uint8 pixels; first output (1, classes): scores before softmax."""
    facts: tuple[tuple[str, str], ...] = ()
    """Additional lines below the network, name and value."""


@dataclass(frozen=True)
class Sample:
    """A test image on the page."""

    png: bytes
    label: str


@dataclass(frozen=True)
class Playground:
    """All content of one page."""

    title: str
    networks: tuple[ShownNetwork, ...]
    classes: tuple[str, ...]
    input: tuple[int, int, int]
    """Channels, height and width."""
    normalization: Normalization
    scaling: Scaling = AS_LARGE
    """How images of any size become input, as in the run."""
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


def playground_of(folder: Path, *, samples: int = 12, show: Show = SILENT) -> Playground:
    """Collect the content of a finished run's page.

    Raises:
        RunError: the folder holds no finished run, or a curve (show one of its sizes).
        ModelError: a network takes images that a browser cannot provide, or is not a classifier.
        ExportError: a network cannot be exported.
    """
    report = _finished(folder)
    recipe = read_recipe(root_of(folder) / RECIPE)
    information = read_information(folder / COMPRESSED)
    normalization = Normalization(**{name: tuple(values) for name, values in information["normalization"].items()})
    data, notes = _images(recipe)
    _refuse_other_tasks(str(information.get("task", "classification")) if data is None else data.task, data)
    some = data.test.limit(min(samples, len(data.test))).in_memory() if data is not None else None
    networks, shape, classes = [], tuple(information["input"]), tuple(information["classes"])
    for title, name, numbers in (("original", ORIGINAL, report.before), ("compressed", COMPRESSED, report.after)):
        show.say(f"exporting {title}")
        network = load(folder / name, _blank(recipe, data))
        example = _example(network, shape)
        onnx, error = exported(network, example, some.pixels if some else None, classes, normalization)
        networks.append(ShownNetwork(title, onnx, (*_facts(report, numbers), ("error of the file", small(error)))))
    if kind_of(folder / INT8) == "file":
        networks.append(ShownNetwork("compressed, int8", (folder / INT8).read_bytes()))
    return Playground(
        title=report.title,
        networks=tuple(networks),
        classes=classes,
        input=shape,
        normalization=normalization,
        scaling=Scaling(**information.get("scaling", {})),
        samples=_samples(some, classes) if some else (),
        notes=notes,
    )


def _finished(folder: Path) -> Report:
    if kind_of(folder) != "folder":
        raise RunError(f"no folder {folder}: pass the folder of a finished run")
    report = read_report(folder)
    if isinstance(report, CurveReport):
        sizes = ", ".join(str(folder / Path(point.report).parent) for point in report.points)
        raise RunError(f"{folder} holds several sizes: show one of them: {sizes}")
    return report


def _refuse_other_tasks(task: str, data: Dataset | None) -> None:
    """Refuse a run whose images do not have one class each: the page shows the probability of every class."""
    one_class = data is not None and data.test.take(torch.arange(1)).in_memory().labels.dim() == 1
    if task != "classification" and not one_class:
        raise ModelError(
            f"the page shows the class of an image, and this run is for {task}: open the {PAGE} of the run instead"
        )


def _images(recipe: Recipe) -> tuple[Dataset | None, tuple[str, ...]]:
    """Load the run's dataset for the sample images; the page works without it."""
    settings = recipe.data
    try:
        return load_dataset(settings.name, image_size=settings.image_size, seed=settings.seed, **settings.reading), ()
    except SlimcnnError as error:
        return None, (f"No sample images: {error}.",)


def _blank(recipe: Recipe, data: Dataset | None) -> nn.Module | None:
    build = blank_of(recipe.network, data) if data is not None else None
    return build() if build is not None else None


def _example(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Check that the network takes a browser's images and returns scores; return an input (1, c, h, w)."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ModelError(f"the network takes images {shape}: a browser provides gray (1, h, w) or color (3, h, w)")
    example = torch.zeros(1, *shape)
    with torch.no_grad():
        scores: Any = network(example)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"the network returns {found} for one image: the page needs a classifier with scores (1, classes)"
        )
    return example


def exported(
    network: nn.Module, example: Tensor, pixels: Tensor | None, classes: tuple[str, ...], normalization: Normalization
) -> tuple[bytes, float]:
    """Export to ONNX, compared on the page's sample images, or on random samples if there are none.

    Returns:
        The ONNX file and its largest error against PyTorch, relative to the largest score.
    """
    with TemporaryDirectory(prefix="slimcnn-") as folder:
        (file,) = export(
            network, example, "onnx", out=folder, images=pixels, classes=classes, normalization=normalization
        )
        return file.path.read_bytes(), nan if file.parity.max_error is None else file.parity.max_error


def _facts(report: Report, numbers: Numbers) -> tuple[tuple[str, str], ...]:
    before, metric = report.before, report.metric

    def left(old: float, new: float) -> str:
        return "" if numbers is before else f" (× {ratio(old, new)})"

    return (
        (f"test {metric.name}", metric.written(numbers.score)),
        ("MACs", count(numbers.macs) + left(before.macs, numbers.macs)),
        ("parameters", count(numbers.params) + left(before.params, numbers.params)),
    )


def _samples(images: Images, classes: tuple[str, ...]) -> tuple[Sample, ...]:
    pairs = zip(images.pixels, images.labels.tolist(), strict=True)
    return tuple(Sample(png_of(pixels), classes[label]) for pixels, label in pairs)


def png_of(pixels: Tensor) -> bytes:
    """Encode uint8 pixels `(c, h, w)` as a PNG, lossless."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()
