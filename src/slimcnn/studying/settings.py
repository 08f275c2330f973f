"""Studies: a recipe with lists of values, stored as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from slimcnn.digests import json_digest
from slimcnn.errors import StudyError
from slimcnn.files import read_text
from slimcnn.running.settings import Seed, Settings, Utf8, explain
from slimcnn.studying.measures import measure_named

VariedValue = int | float | str | bool
PointLabel = Mapping[str, VariedValue]
"""Varied setting → value, or its label."""

NAMED = "point"
"""The key of named points in labels, rows and tables."""

MOST = 10_000
"""Maximum number of runs without `--yes`."""


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("the list is empty: give at least one value")
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice")
    return values


class Range(Settings):
    """A range of numbers that tpe chooses from."""

    low: float
    high: float


class StudySettings(Settings):
    """The table [study]."""

    name: Utf8 = ""
    """Title, and name in a shared storage; default: the name of the file."""
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_distinct)] = (0,)
    """Seeds of all steps that have one, and of the initial weights; every point runs once per seed."""
    baseline: str | dict[str, VariedValue] = ""
    """The value that all others are compared with, such as "l2", or {"prune.criterion" = "l2"}."""
    measure: Annotated[tuple[str, ...], AfterValidator(_distinct)] = ("accuracy", "macs", "params", "seconds")
    """What to measure of every run (`slimcnn list measures`); latency:openvino measures in a runtime."""
    sampler: Literal["all", "tpe"] = "all"
    """all: every point; tpe: Optuna's tree-structured Parzen estimator chooses `trials` points."""
    trials: int = Field(default=30, ge=1)
    """Number of points for tpe."""
    objectives: dict[str, Literal["min", "max"]] = Field(default_factory=dict)
    """For tpe: measure → min or max, such as {validation = "max", macs = "min"}."""
    storage: Utf8 | None = None
    """Optuna storage URL that several machines share; default: a journal file in the study's folder."""

    @model_validator(mode="after")
    def _consistent(self) -> StudySettings:
        for name in (*self.measure, *self.objectives):
            measure_named(name)
        if "accuracy" in self.objectives:
            raise ValueError("objectives: accuracy reads the test images, which must not choose: use validation")
        if (self.sampler == "tpe") != bool(self.objectives):
            raise ValueError(
                'sampler = "tpe" and objectives belong together, such as objectives = {validation = "max"}'
            )
        return self


class Study(Settings):
    """A recipe, and what varies in it.

    >>> study = parse_study('''
    ... [study]
    ... seeds = [0, 1]
    ... baseline = "l2"
    ... [network]
    ... model = "resnet8"
    ... [[steps]]
    ... step = "train"
    ... [[steps]]
    ... step = "prune"
    ... [vary]
    ... "prune.criterion" = ["l2", "fpgm"]
    ... "prune.macs" = [0.75, 0.5]
    ... ''', "criteria")
    >>> study.runs, study.study.name
    (8, 'criteria')
    """

    study: StudySettings = Field(default_factory=StudySettings)
    vary: dict[str, tuple[VariedValue, ...] | Range | dict[str, Any]] = Field(default_factory=dict)
    """Setting → values, as STEP.SETTING, network.SETTING, data.SETTING or steps; a table gives every value a label."""
    points: tuple[dict[str, VariedValue], ...] = ()
    """Points to run, each a table of settings; combined with all values of `vary`. As a table, name → settings, the
    points are told apart by their names, and may have different settings: they become the setting `point` of `vary`."""
    recipe: dict[str, Any]
    """The recipe as plain data: network, data, steps, deterministic, latency_seconds."""

    @model_validator(mode="before")
    @classmethod
    def _with_named_points(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(named := given.get("points"), dict):
            return given
        vary = given.get("vary", {})
        for name, settings in named.items():
            if not isinstance(settings, dict) or not settings:
                raise ValueError(f"points: {name} needs a table of settings, found {settings!r}")
            if both := sorted({*settings, NAMED} & set(vary)):
                raise ValueError(f"{both[0]} is in vary and in points: leave it out of one of them")
        rest = {key: value for key, value in given.items() if key != "points"}
        return rest | {"vary": {NAMED: named} | vary}

    @field_validator("vary", mode="before")
    @classmethod
    def _with_ranges(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            key: Range(**values) if isinstance(values, dict) and set(values) == {"low", "high"} else values
            for key, values in given.items()
        }

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for key, values in self.vary.items():
            if not values:
                raise ValueError(f"vary: {key} is empty: give at least one value")
            if isinstance(values, tuple):
                try:
                    _distinct(values)
                except ValueError as error:
                    raise ValueError(f"vary: {key}: {error}") from None
            if isinstance(values, Range) and self.study.sampler != "tpe":
                raise ValueError(f'vary: {key} is a range: list its values, or choose them by sampler = "tpe"')
        if self.points and self.study.sampler == "tpe":
            raise ValueError('points: tpe chooses its points itself: leave points out, or choose sampler = "all"')
        if not (self.vary or self.points):
            raise ValueError('nothing varies: add a table [vary], such as "prune.criterion" = ["l2", "fpgm"]')
        if len({tuple(sorted(point)) for point in self.points}) > 1:
            raise ValueError("points: give every point the same settings, so that they can be compared")
        both = sorted(set(self.vary) & {key for point in self.points for key in point})
        if both:
            raise ValueError(f"{both[0]} is in vary and in points: leave it out of one of them")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that vary."""
        return (*(self.points[0] if self.points else ()), *self.vary)

    @property
    def runs(self) -> int:
        """Number of runs: points times seeds."""
        points = self.study.trials
        if self.study.sampler == "all":
            lists = [1 if isinstance(values, Range) else len(values) for values in self.vary.values()]
            points = prod(lists) * max(len(self.points), 1)
        return points * len(self.study.seeds)

    @property
    def digest(self) -> str:
        """Digest of what all rows have in common: the recipe and how it is measured. Values and seeds can be added."""
        study = self.study
        return json_digest([self.recipe, sorted(self.keys), study.measure, study.sampler, study.objectives])


def parse_study(text: str, name: str = "study", place: str = "the study") -> Study:
    """Parse a study from TOML text.

    Raises:
        StudyError: the text is not TOML, or a setting is unknown or invalid; the message names it.
    """
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise StudyError(f"{place} is not TOML: {error}") from error
    own = {key: plain.pop(key) for key in ("study", "vary", "points") if key in plain}
    if "out" in plain:
        raise StudyError(f"{place}: out: every run has its own folder; pass the study's as --out")
    if isinstance(own.get("study", {}), Mapping):
        own["study"] = {"name": name} | dict(own.get("study", {}))
    try:
        return Study.model_validate(own | {"recipe": plain})
    except ValidationError as error:
        raise StudyError(f"{place}: {explain(error, Study)}") from error


def read_study(path: Path | str) -> Study:
    """Read a study from a file; raises `StudyError` as `parse_study` does."""
    file = Path(path)
    return parse_study(read_text(file, StudyError, "study"), file.stem, str(file))
