"""Rows of a study: one per point and seed, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimcnn.digests import json_digest
from slimcnn.errors import StudyError
from slimcnn.files import read_text, write_text
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName

DATA, PAGE, TABLE, SOURCE, CARD = "study.json", "study.html", "study.md", "study.toml", "card.md"
FORMAT = 1
SEAL = "sha256"
"""Key of a row's digest, by which damage is found."""


@dataclass(frozen=True)
class StudyRow:
    """One run of a study."""

    point: Mapping[str, Any]
    """Varied setting → value, or its label."""
    seed: int
    values: Mapping[str, float]
    """Measure → value; empty if the run failed."""
    status: Literal["done", "failed"] = "done"
    why: str = ""
    """Why the run failed."""
    seconds: float = 0.0
    folder: str = ""
    """The run folder, relative to the study's folder on the machine that ran it."""
    epochs: tuple[int, int] | None = None
    """Best and last epoch of the last training; the best is 0 if the start was better."""
    environment: Mapping[str, str] | None = None
    metric: MetricName = TOP1
    """The metric of the run's task."""

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON data with a digest of its content; top-1 is not written, as in earlier versions."""
        content = vars(self) | {"epochs": None if self.epochs is None else list(self.epochs)}
        metric = content.pop("metric")
        content |= {} if metric == TOP1 else {"metric": metric.model_dump()}
        content = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
        return content | {SEAL: json_digest(content)}


@dataclass(frozen=True)
class StudyRows:
    """The rows of a study, and what it takes to repeat and to render them."""

    title: str
    command: str
    source: str
    """The study, as TOML."""
    measure: tuple[str, ...]
    baseline: Mapping[str, Any]
    rows: tuple[StudyRow, ...]
    left: int = 0
    """Number of runs that are not finished."""
    digest: str = ""
    """Digest of what all rows have in common (see `Study.digest`)."""

    @property
    def metric(self) -> MetricName:
        """The metric of all finished runs; of runs with different metrics, one without name, unit and direction."""
        found = {row.metric.title: row.metric for row in self.rows if row.status == "done"}
        return next(iter(found.values()), TOP1) if len(found) < 2 else MetricName(name="metric", unit="")

    def to_json(self) -> str:
        """Return the content of study.json."""
        content = {"format": FORMAT} | vars(self) | {"rows": [row.plain() for row in self.rows]}
        return json.dumps(content, indent=1) + "\n"


def row_of(plain: Mapping[str, Any], place: str) -> StudyRow:
    """Read a row.

    Raises:
        StudyError: the row is damaged.
    """
    content = {key: value for key, value in plain.items() if key != SEAL}
    if plain.get(SEAL) != json_digest(content):
        raise StudyError(f"{place} has changed since it was written: restore it, or delete it to run the point again")
    metric = MetricName.model_validate(content.pop("metric", {}))
    row = StudyRow(**content, metric=metric)
    return replace(row, epochs=None if row.epochs is None else (row.epochs[0], row.epochs[1]))


def read_rows(folder: Path) -> StudyRows:
    """Read study.json from a folder.

    Raises:
        StudyError: there is none, it is not JSON, or a row is damaged.
    """
    file = folder / DATA
    try:
        plain = json.loads(read_text(file, StudyError, "study"))
        version = plain.pop("format")
        if version != FORMAT:
            raise StudyError(f"{file} has format {version}, this slimcnn reads format {FORMAT}")
        rows = tuple(row_of(row, f"{file}: row {number}") for number, row in enumerate(plain.pop("rows"), 1))
        return StudyRows(**plain | {"rows": rows, "measure": tuple(plain["measure"])})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{file} is not the file of a study ({type(error).__name__}: {error})") from error


def write_rows(rows: StudyRows, folder: Path) -> None:
    """Write study.json."""
    write_text(folder / DATA, rows.to_json())


def epochs_of(sections: Sequence[Any]) -> tuple[int, int] | None:
    """Return best and last epoch from the report sections of a run; None if nothing was trained."""
    figures = [
        block.data for section in sections for block in section.blocks
        if block.kind == "figure" and block.figure == "training"
    ]  # fmt: skip
    if not figures:
        return None
    epochs, kept = figures[-1]["epochs"], figures[-1].get("kept")
    last = int(epochs[-1]["epoch"])
    return (last if kept is None else int(kept), last)
