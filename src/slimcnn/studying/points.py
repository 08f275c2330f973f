"""The points of a study: which recipe runs for which values."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from slimcnn.digests import json_digest
from slimcnn.errors import SlimcnnError, StudyError, did_you_mean
from slimcnn.running.loading import refuse_unnamed
from slimcnn.running.recipe import Recipe, put, recipe_from, steps_from_line, with_seed
from slimcnn.running.starting import check_order
from slimcnn.studying.settings import NAMED, PointLabel, Range, Study, VariedValue

CHAIN = "steps"
"""The key that varies the whole chain."""

TABLES = ("network", "data")
PLAIN = ("deterministic", "latency_seconds")


@dataclass(frozen=True)
class StudyPoint:
    """One combination of values."""

    label: PointLabel
    """Setting → value, or its label."""
    settings: Mapping[str, Any]
    """Setting → value."""

    def __str__(self) -> str:
        return ", ".join(f"{key} = {value}" for key, value in self.label.items())


def points_of(study: Study) -> list[StudyPoint]:
    """List the points of a study in the order in which they run: the baseline of every comparison comes first.

    >>> from slimcnn.studying.settings import parse_study
    >>> study = parse_study('''
    ... study = {baseline = "l2"}
    ... network = {model = "resnet8"}
    ... steps = [{step = "train"}, {step = "prune"}]
    ... vary = {"prune.criterion" = ["fpgm", "l2"], "prune.macs" = [0.5, 0.3]}
    ... ''')
    >>> [tuple(point.label.values()) for point in points_of(study)]
    [('l2', 0.5), ('fpgm', 0.5), ('l2', 0.3), ('fpgm', 0.3)]
    """
    lists = [[point_of(study, dict(zip(study.vary, labels, strict=True)), listed) for labels in _combinations(study)]
             for listed in (study.points or ({},))]  # fmt: skip
    found = [point for points in lists for point in points]
    baseline = baseline_of(study)
    if not baseline:
        return found
    order = {point: index for index, point in enumerate(dict.fromkeys(_others(one, baseline) for one in found))}
    return sorted(found, key=lambda one: (order[_others(one, baseline)], not is_baseline(one.label, baseline)))


def _combinations(study: Study) -> Iterator[tuple[VariedValue, ...]]:
    return product(*(_labels(study, key) for key in study.vary))


def point_of(study: Study, labels: PointLabel, listed: PointLabel | None = None) -> StudyPoint:
    """Return the point with these labels of varied settings and these listed settings."""
    settings = dict(listed or {})
    for key, label in labels.items():
        values = study.vary[key]
        settings[key] = values[str(label)] if isinstance(values, Mapping) else label
    return StudyPoint(dict(listed or {}) | dict(labels), settings)


def find_point(study: Study, label: PointLabel) -> StudyPoint:
    """Return the point with a label, as stored in a row or in the storage."""
    listed = {key: value for key, value in label.items() if key not in study.vary}
    return point_of(study, {key: label[key] for key in study.vary if key in label}, listed)


def _others(point: StudyPoint, baseline: PointLabel) -> str:
    """Identify the comparison that a point belongs to: its values of all settings that the baseline does not name."""
    return json_digest({key: value for key, value in point.label.items() if key not in baseline})


def is_baseline(label: PointLabel, baseline: PointLabel) -> bool:
    """Return whether a point has the baseline's values."""
    return bool(baseline) and all(label.get(key) == value for key, value in baseline.items())


def baseline_of(study: Study) -> dict[str, VariedValue]:
    """Return the settings of the baseline; empty if there is none.

    Raises:
        StudyError: no varied setting has this value, or several have it.
    """
    asked = study.study.baseline
    known = {key: _labels(study, key) for key in study.keys}
    if not asked:
        return {}
    if isinstance(asked, str):
        having = [(key, one) for key, labels in known.items() for one in labels if str(one) == asked]
        if len(having) == 1:
            return dict(having)
        if having:
            keys = ", ".join(key for key, _ in having)
            raise StudyError(f'baseline {asked!r} is a value of {keys}: write {{"{having[0][0]}" = {asked!r}}}')
        every = [str(one) for labels in known.values() for one in labels]
        raise StudyError(f"baseline {asked!r} is no value of {', '.join(known)}{did_you_mean(asked, every)}")
    for key, value in asked.items():
        if key not in known:
            raise StudyError(f"baseline: {key!r} does not vary{did_you_mean(key, known)}")
        if value not in known[key]:
            raise StudyError(f"baseline: {key} = {value!r} is not one of {', '.join(map(str, known[key]))}")
    return dict(asked)


def _labels(study: Study, key: str) -> list[VariedValue]:
    values = study.vary.get(key)
    if values is None:
        return list(dict.fromkeys(point[key] for point in study.points))
    return [] if isinstance(values, Range) else list(values)


# --- a point's recipe -------------------------------------------------------------------------------------------------


def recipe_at(study: Study, point: StudyPoint, seed: int, out: Path) -> Recipe:
    """Return the recipe of a point and a seed.

    Raises:
        StudyError: no step has a varied setting.
        RecipeError: a value is invalid.
    """
    plain = copy.deepcopy(study.recipe)
    settings = dict(point.settings)
    settings = settings.pop(NAMED, {}) | settings
    chain = settings.get(CHAIN)
    if chain is not None:
        plain["steps"] = steps_from_line(chain) if isinstance(chain, str) else chain
    for key, value in settings.items():
        if key != CHAIN:
            _set(plain, key, value)
    plain["steps"] = with_seed(plain.get("steps", []), seed)
    network = plain.setdefault("network", {})
    if not network.get("weights"):
        network.setdefault("seed", seed)
    return recipe_from(plain | {"out": str(out)}, f"the point {point}" if point.label else "the study")


def _set(plain: dict[str, Any], key: str, value: Any) -> None:
    first, *rest = key.split(".")
    if key in TABLES and isinstance(value, Mapping):
        plain[key] = plain.get(key, {}) | dict(value)
        return
    if first in TABLES and rest:
        put(plain.setdefault(first, {}), rest, value, key)
        return
    if key in PLAIN:
        plain[key] = value
        return
    put(_row_of(plain.get("steps", []), key, first), rest, value, key)


def _row_of(rows: list[dict[str, Any]], key: str, first: str) -> dict[str, Any]:
    """Return the step that a varied setting belongs to: prune.macs, or prune#2.macs for the second prune."""
    name, _, number = first.partition("#")
    named = [row for row in rows if row.get("step") == name]
    known = list(dict.fromkeys(str(row.get("step")) for row in rows))
    if not named or "." not in key:
        offered = [f"{one}.SETTING" for one in known] + [f"{one}.SETTING" for one in TABLES] + [CHAIN, *PLAIN]
        hint = did_you_mean(first, [*known, *TABLES, CHAIN, *PLAIN])
        raise StudyError(f"vary: no step has the setting {key!r}{hint}; write {', '.join(offered)}")
    if not number and len(named) > 1:
        raise StudyError(
            f"vary: {key!r}: the chain has {len(named)} steps {name}: write {name}#1 to {name}#{len(named)}"
        )
    index = int(number) if number.isdecimal() else 1
    if not 1 <= index <= len(named):
        raise StudyError(f"vary: {key!r}: the chain has {len(named)} steps {name}, so there is no number {index}")
    return named[index - 1]


def check_points(study: Study, points: list[StudyPoint]) -> None:
    """Check every recipe and the order of its steps, before anything runs.

    Raises:
        SlimcnnError: a value is invalid, or a chain makes no sense; the message names the point.
    """
    for point in points:
        recipe = recipe_at(study, point, study.study.seeds[0], Path("runs/study"))
        if recipe.curve:
            raise StudyError('curve: a study has one size per run: vary "prune.macs" instead')
        try:
            refuse_unnamed(recipe.network)
            check_order(recipe, recipe.network.weights is not None)
        except SlimcnnError as error:
            raise StudyError(f"the point {point}: {error}") from error


def folder_name(recipe: Recipe, point: StudyPoint, seed: int) -> str:
    """Return the name of a run folder: readable, and different for every recipe.

    >>> point = StudyPoint({"prune.criterion": "l2", "prune.macs": 0.5}, {})
    >>> recipe = recipe_from({"network": {"model": "resnet8"}, "steps": [{"step": "train"}]})
    >>> folder_name(recipe, point, 0)[:12]
    'l2_0.5_seed0'
    """
    plain = recipe.plain()
    plain.pop("out")
    words = "_".join(re.sub(r"[^A-Za-z0-9.=-]+", "-", str(value)).strip("-.") for value in point.label.values())
    return f"{words[:60]}_seed{seed}_{json_digest(plain)[:8]}"
