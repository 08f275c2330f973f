"""Run the points of a study, together with all processes that share its storage."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimcnn.digests import json_digest
from slimcnn.errors import FolderInUse, SlimcnnError, StudyError
from slimcnn.files import read_text, write_text
from slimcnn.measuring import environment
from slimcnn.reporting import Report
from slimcnn.running.sharing import Sharing
from slimcnn.running.starting import run
from slimcnn.searching.trial_storage import TrialStorage, open_study, storage_errors
from slimcnn.show import SILENT, Show
from slimcnn.studying.measures import MeasuredRun, measure_named
from slimcnn.studying.points import StudyPoint, baseline_of, check_points, find_point, folder_name, points_of, recipe_at
from slimcnn.studying.publishing import render
from slimcnn.studying.rows import DATA, SOURCE, StudyRow, StudyRows, epochs_of, read_rows, row_of, write_rows
from slimcnn.studying.settings import MOST, Range, Study, parse_study

JOURNAL = "study.log"
JOINING = ".joining.json"
"""Name and storage of the study, for workers that join; readable by its owner only: a URL may hold a password."""

VERSIONS = ("slimcnn", "torch", "torchvision")
"""Versions that all workers of a study share, unless the user accepts others."""

AGAIN = 1.0
"""Seconds before a point is tried again whose folder another process uses."""

MOST_LISTED = 4
"""Most runs without a row that are named."""

WORST = 1e30
"""Objective of a point that failed."""


@dataclass(frozen=True)
class Worker:
    """One process of a study."""

    study: Study
    source: str
    """The study's file, for repeating it."""
    out: Path
    storage: TrialStorage
    show: Show = SILENT
    command: str = ""
    sharing: Sharing | None = None

    def row(self, point: StudyPoint, seed: int) -> StudyRow:
        """Run a point with a seed, and measure it; a run that fails gives a row with the reason."""
        recipe = recipe_at(self.study, point, seed, self.out)
        folder = self.out / "points" / folder_name(recipe, point, seed)
        began = time.perf_counter()
        place = folder.relative_to(self.out).as_posix()
        self.show.say(f"=== {point}, seed {seed} ===")
        try:
            found = run(recipe.model_copy(update={"out": str(folder)}), show=self.show, sharing=self.sharing)
            assert isinstance(found.report, Report)
            finished = MeasuredRun(folder, found.report)
            values = {name: measure_named(name)(finished) for name in self._measured}
            return StudyRow(
                dict(point.label), seed, values, seconds=time.perf_counter() - began, folder=place,
                epochs=epochs_of(found.report.sections), environment=environment(), metric=found.report.metric,
            )  # fmt: skip
        except FolderInUse:
            raise
        except SlimcnnError as error:
            why = str(error)
        except Exception as error:  # a bug must not end the other points; its traceback is kept
            kept = self.out / "errors" / f"{folder.name}.txt"  # not in the run's folder, which must hold a run
            write_text(kept, traceback.format_exc())
            why = f"{type(error).__name__}: {error}".split("\n")[0] + f" (a bug: see {kept.relative_to(self.out)})"
        self.show.warn(f"{point}, seed {seed} failed: {why}")
        return StudyRow(
            dict(point.label), seed, {}, "failed", why, time.perf_counter() - began, place, environment=environment()
        )

    @property
    def _measured(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.study.study.measure, *self.study.study.objectives)))

    def rows(self) -> list[StudyRow]:
        """List the rows of all workers; a row of a value or a seed that the study no longer has is left out."""
        order, seeds = self._order, self.study.study.seeds

        def place(row: StudyRow) -> tuple[int, int]:
            return order.get(json_digest(dict(row.point)), 0), seeds.index(row.seed)

        return sorted((row for row in self._stored() if self._asks_for(row, order)), key=place)

    def say_what_is_left_out(self) -> None:
        """Say which finished runs have no row, because their value or seed is no longer in the study."""
        order = self._order
        hidden = [row for row in self._stored() if not self._asks_for(row, order)]
        if hidden:
            names = sorted({f"{StudyPoint(row.point, {})}, seed {row.seed}" for row in hidden})
            listed = "; ".join(names[:MOST_LISTED]) + (" ..." if len(names) > MOST_LISTED else "")
            self.show.warn(
                f"{len(names)} finished runs are left out of {DATA}, because the study no longer asks for them "
                f"({listed}): put their values and seeds back to have their rows again"
            )

    def _stored(self) -> list[StudyRow]:
        return [
            row_of(plain, "a row in the storage") for _, facts in self.storage.complete() for plain in facts["rows"]
        ]

    def _asks_for(self, row: StudyRow, order: Mapping[str, int]) -> bool:
        return row.seed in self.study.study.seeds and (not order or json_digest(dict(row.point)) in order)

    @property
    def _order(self) -> dict[str, int]:
        """Digest of a point → its place; empty if a sampler chooses the points."""
        points = points_of(self.study) if self.study.study.sampler == "all" else []
        return {json_digest(dict(point.label)): index for index, point in enumerate(points)}

    def take_rows(self) -> None:
        """Take the rows of study.json that the storage does not have: it was copied here, or the storage is new."""
        if not (self.out / DATA).exists() or self.study.study.sampler != "all":
            return
        found = read_rows(self.out)
        if found.digest != self.study.digest:
            raise StudyError(f"{self.out / DATA} holds rows of another study: choose another --out, or delete the file")
        known = {json_digest([dict(row.point), row.seed]) for row in self.rows()}
        for row in found.rows:
            if json_digest([dict(row.point), row.seed]) not in known:
                self.storage.add({"point": dict(row.point), "seed": row.seed}, {"rows": [row.plain()]})

    def write(self) -> StudyRows:
        """Write study.json, study.md and study.html from the rows so far."""
        rows, asked = self.rows(), self.study.study
        found = StudyRows(
            asked.name, without_password(self.command), without_password(self.source), asked.measure,
            baseline_of(self.study), tuple(rows), max(self.study.runs - len(rows), 0), self.study.digest,
        )  # fmt: skip
        write_rows(found, self.out)
        render(found, self.out)
        return found

    def work(self, budget: float | None = None) -> None:
        """Run waiting points until none is left, or until the next one would probably end after so many seconds."""
        began = time.monotonic()
        spent: list[float] = []
        tpe = self.study.study.sampler == "tpe"
        while claimed := self.storage.sample(self.study.study.trials) if tpe else self.storage.claim():
            trial, asked = claimed
            used = time.monotonic() - began
            if budget is not None and used + (sum(spent) / len(spent) if spent else 0.0) > budget:
                self.storage.release(trial, asked)
                self.show.say(f"the budget of {budget:g} s is used up")
                break
            try:
                with self.storage.alive(trial):
                    rows = self._rows_of(asked)
            except FolderInUse:
                self.storage.release(trial, asked)
                time.sleep(AGAIN)
                continue
            except BaseException:  # Ctrl-C in a notebook: the process, which runs on, would wait for its own trial
                self.storage.release(trial, asked)
                raise
            spent.append(time.monotonic() - began - used)
            self.storage.finish(trial, {"rows": [row.plain() for row in rows]}, self._values(rows))
            self.write()
            done, whole = self.storage.progress
            self.show.say(f"{done} of {whole} points done")

    def _rows_of(self, asked: Mapping[str, Any]) -> list[StudyRow]:
        if "point" in asked:
            return [self.row(find_point(self.study, asked["point"]), asked["seed"])]
        point = find_point(self.study, asked)
        return [self.row(point, seed) for seed in self.study.study.seeds]

    def _values(self, rows: list[StudyRow]) -> list[float]:
        """Return what the sampler minimizes or maximizes: means over the seeds."""
        objectives = self.study.study.objectives
        if not objectives:
            return [0.0]
        if any(row.status == "failed" for row in rows):
            return [WORST if way == "min" else -WORST for way in objectives.values()]
        return [sum(row.values[name] for row in rows) / len(rows) for name in objectives]


def run_study(
    study: Study | Path | str,
    out: Path | str,
    *,
    source: str = "",
    show: Show = SILENT,
    command: str = "",
    budget: float | None = None,
    retry: bool = False,
    many: bool = False,
    other_versions: bool = False,
) -> StudyRows:
    """Run a study, or go on with it; any number of processes may do so at once, in the same folder or storage.

    Every point is a run in its own folder below `out`. Steps that several points begin with run once. Values and
    seeds may be added later; rows that exist stay. Rows of values and seeds that were taken away are left out, with a
    warning, until these are put back. A run that fails has a row with the reason.

    Args:
        study: the study, or the path of its file.
        out: its folder.
        source: its TOML text, for the page; default: that of the file.
        show: progress output.
        command: the command that repeats it, for the page.
        budget: seconds; no point starts that would probably end later.
        retry: run the points again that failed.
        many: accept more than `MOST` runs.
        other_versions: accept workers with other versions of slimcnn or torch.

    Raises:
        StudyError: the study is invalid, or differs from the one in its folder or storage.
        SearchError: the storage cannot be used.
    """
    if not isinstance(study, Study):
        source = source or read_text(Path(study), StudyError, "study")
        study = parse_study(source, Path(study).stem, str(study))
    out = Path(out)
    if study.runs > MOST and not many:
        raise StudyError(f"the study has {study.runs:,} runs: shorten the lists, or pass --yes")
    points = points_of(study) if study.study.sampler == "all" else [_first(study)]
    check_points(study, points)
    baseline_of(study)
    with storage_errors():
        storage = _opened(study, out, show, other_versions)
        worker = Worker(study, source, out, storage, show, command, Sharing(out))
        if source:
            write_text(out / SOURCE, source)
            write_text(out / JOINING, json.dumps({"name": study.study.name, "storage": study.study.storage}) + "\n")
            (out / JOINING).chmod(0o600)
        if study.study.sampler == "all":
            runs = [{"point": dict(one.label), "seed": seed} for one in points for seed in study.study.seeds]
            worker.take_rows()
            worker.say_what_is_left_out()
            storage.enqueue(runs)
            if retry:
                failed = [row for row in worker.rows() if row.status == "failed"]
                storage.enqueue([{"point": dict(row.point), "seed": row.seed} for row in failed], again=True)
        try:
            worker.work(budget)
        finally:
            found = worker.write()
    return found


def study_to_join(folder: Path) -> tuple[Study, str]:
    """Read the study that another worker has started in a folder, with its name and storage; also return its text.

    Raises:
        StudyError: there is none, or a file of it is damaged.
    """
    if not (folder / SOURCE).exists() or not (folder / JOINING).exists():
        raise StudyError(
            f"there is no study to join in {folder}: start it with slimcnn study STUDY.toml --out {folder}"
        )
    text = read_text(folder / SOURCE, StudyError, "study")
    study = parse_study(text, place=str(folder / SOURCE))
    try:
        known = json.loads(read_text(folder / JOINING, StudyError, "study"))
        settings = study.study.model_copy(update={name: known[name] for name in ("name", "storage")})
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise StudyError(f"{folder / JOINING} is damaged: run the first worker's command again") from error
    return study.model_copy(update={"study": settings}), text


def without_password(text: str) -> str:
    """Hide the passwords of URLs, for pages.

    >>> without_password("--storage postgresql://me:secret@host/db")
    '--storage postgresql://me:***@host/db'
    """
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", text)


def _first(study: Study) -> StudyPoint:
    """Return one point of a sampled study, to check its recipe."""
    labels = {
        key: values.low if isinstance(values, Range) else next(iter(values)) for key, values in study.vary.items()
    }
    return find_point(study, labels)


def _opened(study: Study, out: Path, show: Show, other_versions: bool) -> TrialStorage:
    """Open the storage; refuse another study under the same name, and other versions."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    asked = study.study
    ranges: dict[str, BaseDistribution] = {}
    if asked.sampler == "tpe":
        for key, values in study.vary.items():
            ranges[key] = (
                FloatDistribution(values.low, values.high)
                if isinstance(values, Range)
                else CategoricalDistribution(list(values))
            )
    ways = {"min": "minimize", "max": "maximize"}
    name = f"slimcnn-study-{asked.name}"
    opened = open_study(
        asked.storage or out / JOURNAL, name, what="study", say=show.say,
        directions=[ways[way] for way in asked.objectives.values()] or ["minimize"],  # type: ignore[misc]
    )  # fmt: skip
    storage = TrialStorage(opened, ranges, enqueued=asked.sampler == "all")
    known = storage.get_attr("study")
    if known is None:
        storage.set_attr("study", study.digest)
        storage.set_attr("versions", _versions())
    elif known != study.digest:
        where = asked.storage or out
        raise StudyError(
            f"{where} holds another study named {asked.name!r}, with another recipe, other settings that vary or other "
            "measures: choose another --out or another name (values and seeds may be added)"
        )
    versions = storage.get_attr("versions") or _versions()
    differ = [f"{n} was {versions.get(n)}, here {now}" for n, now in _versions().items() if versions.get(n) != now]
    if differ and not other_versions:
        raise StudyError(
            f"the study was started with other versions ({'; '.join(differ)}): install those, or pass --other-versions"
        )
    return storage


def _versions() -> dict[str, str]:
    known = environment()
    return {name: known.get(name, "") for name in VERSIONS}
