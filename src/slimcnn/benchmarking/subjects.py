"""Load the candidates of a benchmark from runs, checkpoints, exported files or a named network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate, facts_of_file, runtime_of_file
from slimcnn.benchmarking.finished_runs import FinishedRun, finished_run
from slimcnn.checkpoints import is_checkpoint, load, read_information
from slimcnn.datasets import Dataset, Examples, Images, Normalization, load_dataset
from slimcnn.errors import ModelError, RunError, SlimcnnError
from slimcnn.exporting import formats, read_parity, source_digest
from slimcnn.files import kind_of
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.formatting import capital
from slimcnn.reporting.outcome import MetricName
from slimcnn.running.loading import UNNAMED, blank_of, example_of, for_task, load_subject, load_with_data
from slimcnn.running.settings import Data, Network
from slimcnn.show import SILENT, Show
from slimcnn.tasks import task_named, task_of, tasks

INT8 = "model_int8"
"""Name of the files of `slimcnn quantize`, without suffix."""
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Subjects:
    """Candidates and inputs of a benchmark."""

    candidates: tuple[Candidate, ...]
    example: Tensor
    """(1, c, h, w)"""
    images: Images | None
    notes: tuple[str, ...] = ()
    task: str = "classification"
    """The task of the images."""
    classes: int = 0
    metric: MetricName = TOP1
    """The metric of the task; known for a run whose images are not available, too."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One candidate, with its input shape and the digest of its weights."""

    candidate: Candidate
    shape: Shape | None
    """Shape of one image; None: unknown."""
    digest: str = ""
    """Digest of its weights."""


def subjects_of(
    paths: Sequence[Path],
    network: Network | None = None,
    *,
    data: Data | None = None,
    input_shape: Shape | None = None,
    images: int | None = None,
    part: str = "test",
    verify: bool = True,
    show: Show = SILENT,
) -> Subjects:
    """Load all candidates and the images.

    Args:
        paths: folders of finished runs (original, compressed and int8 network), checkpoints, exported files.
        network: an additional network, by name.
        data: the images for the metric; None: those of the runs, or none without a run.
        input_shape: shape of one image, if no file states it.
        images: maximum number of images.
        part: which images: test, validation or train.
        verify: compare checkpoints with their digests.
        show: how progress is shown.

    Raises:
        SlimcnnError: a file cannot be read, or the candidates cannot be compared; one line states the reason.
    """
    if not paths and network is None:
        raise ModelError(f"nothing to measure: give the folder of a run, a file, or --model; {UNNAMED}")
    runs = {path: finished_run(path) for path in paths if kind_of(path) == "folder"}
    shapes = [run.shape for run in runs.values()] + [_stated_shape(path) for path in paths if path not in runs]
    dataset, why = _dataset(list(runs.values()), data, next(filter(None, shapes), None), show)
    found: list[Contender] = []
    notes: tuple[str, ...] = ()
    for path in paths:
        show.say(f"loading {path}")
        if path in runs:
            more, left_out = _of_run(runs[path], dataset)
            found, notes = found + _labeled(more, path, len(paths) > 1, found), (*notes, *left_out)
        else:
            found.append(_of_file(path, dataset, verify))
    if network is not None:
        found.append(_of_network(network, data, input_shape, show))
    shape = _one_shape(found, input_shape, dataset)
    _refuse_equal_names([one.candidate.name for one in found])
    drawn = torch.Generator().manual_seed(0)
    example = torch.randn(example_of(shape).shape, generator=drawn)
    candidates, metric = tuple(one.candidate for one in found), _metric(dataset, list(runs.values()), paths)
    if dataset is None:
        unmeasured = f"{capital(metric.name)} is not measured: {why}."
        return Subjects(candidates, example, None, (unmeasured, *notes), metric=metric)
    some = _chosen(getattr(dataset, part), images)
    return Subjects(candidates, example, some, notes, dataset.task, len(dataset.classes), metric)


def _chosen(images: Examples, most: int | None) -> Images:
    return images.limit(most or len(images)).in_memory()


def _dataset(
    runs: Sequence[FinishedRun], data: Data | None, shape: Shape | None, show: Show
) -> tuple[Dataset | None, str]:
    """Load the images; if there are none, or those of a run are not available, return why."""
    asked = [data] if data is not None else [run.data for run in runs]
    if not asked:
        return None, "give --data"
    if len({(one.name, one.image_size, one.resize, one.interpolation, one.seed) for one in asked}) > 1:
        names = ", ".join(dict.fromkeys(one.name for one in asked))
        raise RunError(f"the runs use different images ({names}): give --data, or benchmark them one by one")
    settings = asked[0]
    size = settings.image_size or ((shape[1], shape[2]) if shape else None)
    try:
        show.say(f"loading {settings.name}")
        found = load_dataset(
            settings.name, image_size=size, seed=settings.seed, limit=settings.limit, **settings.reading
        )
        return (for_task(found, settings.task) if settings.task is not None else found), ""
    except SlimcnnError as error:
        if data is not None:
            raise
        return None, str(error)


def _metric(dataset: Dataset | None, runs: Sequence[FinishedRun], paths: Sequence[Path]) -> MetricName:
    """Return the metric of the images' task, else that of the runs, else that of the checkpoints; default: top-1."""
    if dataset is not None:
        return MetricName.of(task_of(dataset).metric)
    known = [run.metric for run in runs]
    for path in paths:
        information = read_information(path) if kind_of(path) == "file" and is_checkpoint(path) else {}
        if (name := information.get("task")) in tasks:  # a file may not choose which code runs: no package.module:Task
            known.append(MetricName.of(task_named(str(name)).metric))
    return known[0] if known else TOP1


def _of_run(run: FinishedRun, dataset: Dataset | None) -> tuple[list[Contender], tuple[str, ...]]:
    """Return the original, the compressed and the int8 network of a run."""
    blank = blank_of(run.network, dataset) if dataset is not None else None
    networks = {name: load(path, blank() if blank is not None else None) for name, path in run.checkpoints.items()}
    found, notes = [], []
    for name, model in networks.items():
        digest = source_digest(model)
        files = _exported_from(run.folder, digest) if name == "compressed" else {}
        size = run.checkpoints[name].stat().st_size
        found.append(Contender(Candidate(name, model, files, run.normalization, size), run.shape, digest))
    int8: dict[str, Path] = {}
    for runtime, path in _files_called(run.folder, INT8).items():
        made_from = facts_of_file(path).get("source")
        if made_from not in (None, found[-1].digest):
            notes.append(f"{path} was made from other weights than {run.checkpoints['compressed'].name}: left out.")
        else:
            int8[runtime] = path
    if int8:
        found.append(Contender(Candidate("int8", files=int8, normalization=run.normalization), run.shape))
    return found, tuple(notes)


def _labeled(found: Sequence[Contender], folder: Path, several: bool, before: Sequence[Contender]) -> list[Contender]:
    """Leave out an original that is already present; prefix names with the run if there are several runs."""
    known = {one.digest for one in before if one.digest}
    new = [one for one in found if one.digest not in known]
    if not several:
        return new
    first = not before
    return [
        one
        if first and one.candidate.name == "original"
        else replace(one, candidate=replace(one.candidate, name=f"{folder.resolve().name}/{one.candidate.name}"))
        for one in new
    ]


def _exported_from(folder: Path, digest: str) -> dict[str, Path]:
    """Return the folder's exports with these weights, one per runtime."""
    found = {}
    for name, entry in read_parity(folder).items():
        if name in formats and entry.get("source") == digest:
            path = folder / f"model{formats[name].value.suffixes[0]}"
            if path.exists():
                found[formats[name].value.runtime] = path
    return found


def _files_called(folder: Path, stem: str) -> dict[str, Path]:
    paths = {entry.value.runtime: folder / f"{stem}{entry.value.suffixes[0]}" for entry in formats}
    return {runtime: path for runtime, path in paths.items() if path.exists()}


def _of_file(path: Path, dataset: Dataset | None, verify: bool) -> Contender:
    """Load a checkpoint or an exported file."""
    if kind_of(path) == "nothing":
        raise RunError(f"no file or folder {path}: give the folder of a finished run, a checkpoint or an exported file")
    usual = dataset.normalization if dataset is not None else None
    if path.suffix == ".safetensors":
        if not is_checkpoint(path):
            raise ModelError(
                f"{path} is not a slimcnn checkpoint, so its network is unknown: give --model and --weights"
            )
        information = read_information(path)
        model: nn.Module = load(path, verify=verify)
        candidate = Candidate(path.stem, model, {}, normalization_of(information) or usual, path.stat().st_size)
        return Contender(candidate, _stated_shape(path), source_digest(model))
    facts = facts_of_file(path).get("facts", {})
    normalization = normalization_of({"normalization": facts.get("normalization")}) or usual
    candidate = Candidate(path.name, files={runtime_of_file(path): path}, normalization=normalization)
    return Contender(candidate, _stated_shape(path))


def _of_network(network: Network, data: Data | None, input_shape: Shape | None, show: Show) -> Contender:
    label = network.model or Path(network.weights or "").stem
    if data is not None:
        loaded = load_with_data(network, data, show)
        candidate = Candidate(label, loaded.model, normalization=loaded.data.normalization)
        return Contender(candidate, loaded.data.shape)
    weights = Path(network.weights) if network.weights else None
    model, example = load_subject(
        network.model, weights, network.arguments, network.rewrite, input_shape, network.verify
    )
    return Contender(Candidate(label, model), tuple(example.shape[1:]))


def _stated_shape(path: Path) -> Shape | None:
    """Return the shape of one image as stated by a checkpoint or parity.json; None if not stated."""
    if path.suffix == ".safetensors":
        found = read_information(path).get("input") if kind_of(path) == "file" and is_checkpoint(path) else None
    else:
        found = facts_of_file(path).get("facts", {}).get("input", [])[1:]
    return tuple(found) if found and all(isinstance(n, int) for n in found) else None


def _one_shape(found: Sequence[Contender], input_shape: Shape | None, dataset: Dataset | None) -> Shape:
    shapes = {one.candidate.name: one.shape for one in found if one.shape is not None}
    if dataset is not None:
        shapes["the images"] = dataset.shape
    elif input_shape is not None:
        shapes["--input"] = input_shape
    if not shapes:
        raise ModelError("the input shape is unknown: give --input, for example --input 3x224x224, or --data")
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise ModelError(f"only networks with the same input shape can be compared: {listed}")
    return next(iter(shapes.values()))


def _refuse_equal_names(names: Sequence[str]) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ModelError(f"two networks would be called {twice[0]}: rename a file or a folder")


def normalization_of(information: dict[str, Any]) -> Normalization | None:
    """Return the normalization stored with a checkpoint or an export; None if there is none.

    >>> normalization_of({"normalization": {"mean": [0.5], "std": [0.25]}})
    Normalization(mean=(0.5,), std=(0.25,))
    """
    known = information.get("normalization")
    return Normalization(tuple(known["mean"]), tuple(known["std"])) if known else None
