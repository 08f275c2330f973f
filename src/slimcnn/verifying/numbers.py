"""Recompute the numbers of a report: sizes exactly, the metric on the same test images."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from slimcnn.datasets import Dataset, load_dataset
from slimcnn.datasets.cache import fingerprint
from slimcnn.errors import RunError, SlimcnnError
from slimcnn.measuring import environment, file_bytes, measure
from slimcnn.reporting import Report
from slimcnn.reporting.outcome import Numbers
from slimcnn.running.folder import COMPRESSED, ORIGINAL, RECIPE, REPORTS
from slimcnn.running.normalization import stored_in
from slimcnn.running.settings import Data
from slimcnn.training import evaluate, judge
from slimcnn.verifying.certificate import Check, NotCheckable, Refuted, attempt
from slimcnn.verifying.claimed_files import ClaimedFiles, StepRecord

TOLERANCE = 0.001
"""Share of test images whose prediction may differ on another machine, because sums are rounded differently."""
ROUNDING = ("commit", "slimcnn", "python")
"""Entries of an environment that do not affect how sums are rounded."""


def check_numbers(files: ClaimedFiles, report: Report, steps: Sequence[StepRecord], folder: str) -> list[Check]:
    """Measure both networks of a report again, and compare the report's steps with the records of the steps."""
    sizes, matches = "params, MACs and bytes of the report", "the report matches the steps"
    found = [
        attempt(sizes, folder + name, partial(_sizes, files, folder + name, claimed))
        for name, claimed in ((ORIGINAL, report.before), (COMPRESSED, report.after))
    ]
    return [*found, attempt(matches, folder + REPORTS[0], partial(_steps, files, report, steps))]


def _measured(files: ClaimedFiles, name: str, claimed: BaseModel) -> dict[str, Any]:
    """Measure a network: every size in the report except the file's bytes."""
    found = measure(files.network(name), files.example(name))
    shared = [field.name for field in fields(found) if field.name in type(claimed).model_fields]
    return {size: getattr(found, size) for size in shared if size != "bytes"}  # a report's bytes are those of the file


def _sizes(files: ClaimedFiles, name: str, claimed: Numbers) -> str:
    now = _measured(files, name, claimed) | {"bytes": file_bytes(files.path(name))}
    _refute(_differing(name, now, claimed))
    return ", ".join(f"{size} {value:,}" for size, value in now.items())


def _differing(name: str, now: Mapping[str, Any], claimed: object) -> list[str]:
    return [
        f"{name}: {size} is {value}, the report says {getattr(claimed, size)}"
        for size, value in now.items()
        if value != getattr(claimed, size)
    ]


def _refute(wrong: Sequence[str]) -> None:
    if wrong:
        raise Refuted("; ".join(wrong))


def _steps(files: ClaimedFiles, report: Report, steps: Sequence[StepRecord]) -> str:
    taken = steps[1:]
    stated, found = [step.name for step in report.steps], [step.name for step in taken]
    _refute([f"the report has steps {', '.join(stated)}, the folder {', '.join(found)}"] if stated != found else [])
    wrong: list[str] = []
    for claimed, step in zip(report.steps, taken, strict=True):
        recorded = {name: getattr(step, name) for name in ("metric", "seconds", "macs", "params")}
        wrong += _differing(step.folder, recorded, claimed)
        wrong += _differing(step.model, _measured(files, step.model, claimed), claimed)
    equal = [cut.equal for cut in steps[-1].cuts]
    if (report.verdict.equal if report.verdict else None) != (all(equal) if equal else None):
        wrong.append(f"the report's verdict differs from that of the {len(equal)} cuts")
    _refute(wrong)
    name = report.metric.name
    return f"verdict, and {name}, params and MACs of {len(taken)} steps; params and MACs were measured again"


@dataclass(frozen=True)
class TestImages:
    """The test images of a run, or why they are not available."""

    __test__ = False  # not a pytest class

    data: Dataset | None
    digest: str = ""
    why_not: str = ""

    @property
    def described(self) -> dict[str, Any]:
        """Their description in a certificate; empty if there are none."""
        if self.data is None:
            return {}
        return {"dataset": self.data.name, "part": "test", "n": len(self.data.test), "sha256": self.digest}


def find_images(files: ClaimedFiles, asked: Dataset | str | None, network: str) -> TestImages:
    """Load a run's test images and compare them with their digest in the manifest.

    Args:
        files: the run's files.
        asked: "auto" for those of the recipe, the name or folder of a dataset, a dataset, or None for none.
        network: a checkpoint of the run, which states the image size.
    """
    if asked is None:
        return TestImages(None, why_not="left out by --no-data")
    try:
        data = asked if isinstance(asked, Dataset) else _load(files, asked, network)
        digest = fingerprint((data.test.to("cpu"),))
    except (NotCheckable, SlimcnnError) as error:
        return TestImages(None, why_not=f"the test images are not available: {error}")
    claimed = files.manifest.images
    if digest != claimed.get("sha256"):
        why = f"the {len(data.test):,} test images of {data.name} are not the {claimed.get('n', 0):,} of the run"
        return TestImages(None, why_not=f"{why} (different digests): give the right ones with --data")
    return TestImages(data, digest)


def _load(files: ClaimedFiles, asked: str, network: str) -> Dataset:
    try:
        plain = tomllib.loads(files.path(RECIPE).read_text(encoding="utf-8"))
        settings = Data.model_validate(plain.get("data", {}))
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{RECIPE} cannot be read: {' '.join(str(error).split())[:200]}") from error
    name = settings.name if asked == "auto" else asked
    height, width = files.example(network).shape[2:]
    size = (int(height), int(width))
    data = load_dataset(name, image_size=size, seed=settings.seed, **settings.reading)
    if settings.task is not None and ":" in settings.task:
        raise NotCheckable(
            f"the run is judged by {settings.task}, and a file may not choose which code runs: give the images in "
            "Python, as a Dataset with this task"
        )
    return data.limit(settings.limit) if settings.limit else data


def check_metric(files: ClaimedFiles, report: Report, images: TestImages, folder: str) -> list[Check]:
    """Evaluate both networks of a report again."""
    return [
        attempt(
            f"{report.metric.name} on the test images",
            folder + name,
            partial(_metric, files, report, images, folder + name, numbers),
        )
        for name, numbers in ((ORIGINAL, report.before), (COMPRESSED, report.after))
    ]


def _metric(files: ClaimedFiles, report: Report, images: TestImages, name: str, numbers: Numbers) -> str:
    claimed = numbers.score
    if numbers.top1 is not None and numbers.top1 != claimed:
        raise Refuted(f"the report says top1 = {numbers.top1:g} and metric = {claimed:g}: they are one number")
    if images.data is None:
        raise NotCheckable(images.why_not)
    normalization, test = stored_in(files.information(name)), images.data.test
    if normalization is None:
        raise NotCheckable("the checkpoint does not state the normalization of its network")
    if report.metric.name != "top-1":
        data = replace(images.data, normalization=normalization)
        found, unit = judge(files.network(name), test, data).score, report.metric.unit
        now, said = (f"{value:.4g} {unit}".rstrip() for value in (found, claimed))
        result = f"{report.metric.name} {now}, the report says {said}"
        allowed = TOLERANCE * (max(abs(claimed), 1.0) if unit == "%" else abs(claimed))
        _refute([result] if abs(found - claimed) > allowed else [])
        return result
    found = evaluate(files.network(name), test, normalization).top1
    differing = round(abs(found - claimed) * len(test) / 100)
    allowed = 0 if _rounds_equally(report.environment) else math.ceil(TOLERANCE * len(test))
    result = f"{found:.2f} % of {len(test):,} images, the report says {claimed:.2f} %"
    if differing:
        result += f"; {differing} predictions differ, {allowed} may on {'another' if allowed else 'the same'} machine"
    _refute([result] if differing > allowed else [])
    return result


def _rounds_equally(there: dict[str, str]) -> bool:
    here = environment()
    names = (here.keys() | there.keys()) - set(ROUNDING)
    return all(here.get(name) == there.get(name) for name in names)
