"""The page, the Markdown table and the card of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimcnn.files import write_text
from slimcnn.reporting import formatting, markdown, render_page
from slimcnn.reporting.figures.front import Front, StudyPlace
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.studying.comparing import Cell, Difference, against_baseline, cell_of, front_of, grouped
from slimcnn.studying.measures import Measure, measure_of_row
from slimcnn.studying.rows import CARD, PAGE, SOURCE, TABLE, StudyRow, StudyRows

ACCURACY = ("accuracy", "validation")
"""Measures on the vertical axis of the picture; the first that was measured is compared with the baseline."""

NO_BREAK = "\N{NO-BREAK SPACE}"

COSTS = ("latency", "latency_left", "macs_left", "macs", "params", "bytes", "memory", "seconds")
"""Measures on the horizontal axis; the first that was measured."""


def render(study: StudyRows, folder: Path) -> None:
    """Write study.html and study.md."""
    title, said, parts = study.title, headline(study), sections(study)
    write_text(folder / TABLE, card(study))
    write_text(folder / PAGE, render_page(title, said, [*parts, _source(study)]))


def headline(study: StudyRows) -> str:
    """Summarize the study in one sentence."""
    done = sum(row.status == "done" for row in study.rows)
    failed = len(study.rows) - done
    said = f"{formatting.plural(len(grouped(study.rows)), 'point')}, {formatting.plural(done, 'run')}"
    said += f", {failed} failed" if failed else ""
    return said + (f", {formatting.plural(study.left, 'run')} left" if study.left else "")


def sections(study: StudyRows) -> list[Section]:
    """Return the sections of a study: results, picture, side by side, failed runs, and how it was measured."""
    found = [_results(study)]
    for part in (_picture(study), _compared(study), _failures(study)):
        found += [part] if part is not None else []
    return [*found, _protocol(study)]


def _keys(study: StudyRows) -> list[str]:
    return list(dict.fromkeys(key for row in study.rows for key in row.point))


def _written(cell: Cell, measure: Measure) -> str:
    """Write mean ± standard deviation, with the measure's digits; the spread is left out if it is 0 or unknown."""
    mean = formatting.write(int(cell.mean) if measure.format in ("count", "bytes") else cell.mean, measure.format)
    if not cell.sd:
        return mean
    sd = formatting.write(cell.sd, measure.format).lstrip("+")
    return f"{mean} ± {sd}".replace(" ", NO_BREAK)


def _results(study: StudyRows) -> Section:
    points = grouped(study.rows)
    if not points:
        return Section(title="Results", blocks=(Text(text="No run has finished yet."),))
    table = _table(study, study.measure)
    differences = _differences(study)
    words = "Mean ± standard deviation over n seeds."
    if differences:
        words += (
            f" Difference of {_judged(study)} from {_baseline(study)} at otherwise equal settings{_in_units(study)}: "
            "mean and 95 % bootstrap interval, paired by seed. Two points cannot be told apart if the interval "
            "contains 0, or if the paired t-test finds p ≥ 0.05."
        )
    return Section(title="Results", blocks=(Text(text=words), table))


def summary(study: StudyRows) -> Section:
    """Return the results with accuracy and the first cost only, for a terminal."""
    chosen = [name for name in (_judged(study), _cost(study)) if name] or list(study.measure)[:3]
    return Section(title="Results", blocks=(_table(study, chosen),))


def _table(study: StudyRows, chosen: Sequence[str]) -> Table:
    """Return one row per point: settings, seeds, measures, and the difference from the baseline."""
    kinds, keys = [measure_of_row(name, study.metric) for name in chosen], _keys(study)
    differences, judged = _differences(study), _judged(study)
    columns = [*(Column(title=key, format="name") for key in keys), Column(title="n", format="exact")]
    for kind in kinds:
        columns.append(Column(title=kind.title))
        if differences and kind.name == judged:
            columns += [Column(title=f"against {_baseline(study)}"), Column(title="told apart")]
    rows = []
    for key, own in grouped(study.rows).items():
        row: list[Any] = [*(str(own[0].point.get(one, "")) for one in keys), len(own)]
        for kind in kinds:
            row.append(_written(cell_of([one.values[kind.name] for one in own]), kind))
            if differences and kind.name == judged:
                known = differences.get(key)
                row += [known.written(study.metric), known.verdict] if known is not None else ["", ""]
        rows.append(tuple(row))
    return Table(columns=tuple(columns), rows=tuple(rows))


def _cost(study: StudyRows) -> str:
    return next((name for one in COSTS for name in study.measure if name.partition(":")[0] == one), "")


def _judged(study: StudyRows) -> str:
    return next((name for name in ACCURACY if name in study.measure), "")


def _baseline(study: StudyRows) -> str:
    return ", ".join(map(str, study.baseline.values()))


def _in_units(study: StudyRows) -> str:
    """Name the unit of a difference, and what is better where that is not the usual; empty if there is nothing to say.

    >>> rows = StudyRows("error", "", "", (), {}, ())
    >>> _in_units(rows)
    ', in points'
    """
    metric = study.metric
    unit = f", in {metric.change_unit}" if metric.change_unit else ""
    return unit if metric.higher_is_better else f"{unit}, lower is better"


def _differences(study: StudyRows) -> dict[str, Difference]:
    judged = _judged(study)
    if not (judged and study.baseline):
        return {}
    return against_baseline(study.rows, study.baseline, lambda row: row.values[judged])


def _picture(study: StudyRows) -> Section | None:
    judged, cost = _judged(study), _cost(study)
    points = list(grouped(study.rows).values())
    if not (judged and cost) or len(points) < 2:
        return None
    accuracy = [cell_of([row.values[judged] for row in own]) for own in points]
    costs = [cell_of([row.values[cost] for row in own]).mean for own in points]
    measured, metric = measure_of_row(judged, study.metric), study.metric
    best = set(front_of([(c, a.mean) for c, a in zip(costs, accuracy, strict=True)], metric.higher_is_better))
    series = _series(study, points)
    places = tuple(
        StudyPlace(
            label=", ".join(map(str, own[0].point.values())), series=series[index], cost=costs[index],
            score=accuracy[index].mean, spread=accuracy[index].sd or 0.0, best=index in best,
        )
        for index, own in enumerate(points)
        if math.isfinite(costs[index])
    )  # fmt: skip
    images = "validation images" if judged == "validation" else "test images"
    figure = Front(
        points=places, cost=measure_of_row(cost, metric).title, accuracy=measured.title, images=images, metric=metric
    )  # fmt: skip
    return Section(title="Accuracy against cost", blocks=(figure.block(),))


def _series(study: StudyRows, points: Sequence[Sequence[StudyRow]]) -> list[str]:
    """Name the series of each point: its values of all settings but the last with numbers only, such as prune.macs."""
    keys = _keys(study)
    numeric = [key for key in keys if all(isinstance(own[0].point.get(key), int | float) for own in points)]
    along = numeric[-1] if numeric else None
    return [", ".join(str(own[0].point.get(key, "")) for key in keys if key != along) for own in points]


def _compared(study: StudyRows) -> Section | None:
    """Show the judged measure as a table of two settings, if two vary."""
    keys, points, judged = _keys(study), grouped(study.rows), _judged(study)
    if len(keys) != 2 or not judged:
        return None
    first, second = ([str(row.point.get(key, "")) for row in study.rows] for key in keys)
    across, down = list(dict.fromkeys(second)), list(dict.fromkeys(first))
    if len(across) < 2 or len(down) < 2:
        return None
    cells = {
        (str(own[0].point.get(keys[0], "")), str(own[0].point.get(keys[1], ""))): _written(
            cell_of([row.values[judged] for row in own]), measure_of_row(judged, study.metric)
        )
        for own in points.values()
    }
    table = Table(
        columns=(Column(title=keys[0], format="name"), *(Column(title=f"{keys[1]} = {one}") for one in across)),
        rows=tuple((one, *(cells.get((one, other), "") for other in across)) for one in down),
    )
    return Section(title=f"{measure_of_row(judged, study.metric).title} side by side", blocks=(table,))


def _failures(study: StudyRows) -> Section | None:
    failed = [row for row in study.rows if row.status == "failed"]
    if not failed:
        return None
    keys = _keys(study)
    table = Table(
        columns=(*(Column(title=key, format="name") for key in keys), Column(title="seed"), Column(title="reason")),
        rows=tuple((*(str(row.point.get(key, "")) for key in keys), row.seed, row.why) for row in failed),
    )
    return Section(title="Failed runs", blocks=(table,))


def _protocol(study: StudyRows) -> Section:
    said = [
        "A run chooses on validation images only; the test images are read once per run, at its end.",
        "Steps that several points begin with ran once; the time of a run includes them.",
    ]
    if study.left:
        said.append(f"{formatting.plural(study.left, 'run')} not finished yet: run the same command to go on.")
    trained = [row.epochs for row in study.rows if row.epochs is not None]
    if trained:
        best = sorted(one for one, _ in trained)
        last = sorted({one for _, one in trained})
        kept = f"{best[0]} to {best[-1]} (median {best[len(best) // 2]})" if best[0] != best[-1] else f"{best[0]}"
        said.append(f"Kept epoch: {kept} of {', '.join(map(str, last))}.")
    table = Table(
        columns=(Column(title="measured on"), Column(title="value", format="name")),
        rows=tuple((key, ", ".join(values)) for key, values in _environments(study.rows).items()),
    )
    seeds = ", ".join(map(str, sorted({row.seed for row in study.rows})))
    said.append(f"Seeds: {seeds or 'none yet'}.")
    return Section(title="How it was measured", blocks=(*(Text(text=one) for one in said), table))


def _environments(rows: Sequence[StudyRow]) -> dict[str, list[str]]:
    """Return every fact about the machines with all its values."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for key, value in (row.environment or {}).items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return found


def _source(study: StudyRows) -> Section:
    lines = tuple((line,) for line in study.source.splitlines() if line.strip())
    columns = (Column(title=study.command or SOURCE, format="name"),)
    return Section(title="How to repeat it", blocks=(Table(columns=columns, rows=lines, folded=True, title=SOURCE),))


def card(study: StudyRows) -> str:
    """Return the study as a card: what was compared, the results, the command, seeds, hardware and epochs."""
    repeat = f"## How to repeat it\n\n`{study.command}`, with\n\n```toml\n{study.source.strip()}\n```\n"
    return markdown(study.title, headline(study), sections(study)) + (f"\n{repeat}" if study.source else "")


def publish(study: StudyRows, path: Path) -> Path:
    """Write the card to a file, or as card.md into a folder; return its path."""
    file = path / CARD if path.is_dir() else path
    write_text(file, card(study))
    return file
