"""Finish a run: measure both networks and write the report."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slimcnn.checkpoints import save
from slimcnn.errors import RunError
from slimcnn.layers.reusing import FeatureReuse
from slimcnn.manifest import RUN, withdraw
from slimcnn.measuring import Latency, Measurement, environment, file_bytes, latency, measure
from slimcnn.reporting import fragment, read_report, write_report
from slimcnn.reporting.curve import curve_headline, curve_sections
from slimcnn.reporting.schema import (
    CurveReport,
    CutVerdict,
    LockedLayer,
    MetricName,
    Numbers,
    Ratio,
    Report,
    StepResult,
    Timing,
)
from slimcnn.reporting.sections import Column, Section, Table
from slimcnn.running import folder as disk
from slimcnn.running.advice import next_steps
from slimcnn.running.delivering import deliver
from slimcnn.running.normalization import described
from slimcnn.running.recipe import Recipe
from slimcnn.running.saving import Done, information_of, read_state, sections_of
from slimcnn.running.side_by_side import about_examples
from slimcnn.running.step import Cut, State
from slimcnn.tasks import task_of
from slimcnn.training import judge
from slimcnn.training.processes import from_rank_zero

if TYPE_CHECKING:
    from slimcnn.running.job import Job

CONTAMINATED = (
    "The weights come from a file. If they were trained on the validation images too, validation {0} is optimistic; "
    "only test {0}, evaluated once at the end, is unbiased."
)


@dataclass(frozen=True)
class Result:
    """Result of a run: ``model, report = slimcnn.run("recipe.toml")``."""

    model: nn.Module
    """The final network, on the CPU, in eval mode."""
    report: Report | CurveReport
    folder: Path

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.report))

    def __repr__(self) -> str:
        return f"Result({self.report!r}, folder={str(self.folder)!r})"

    def _repr_html_(self) -> str:
        if isinstance(self.report, Report):
            return self.report._repr_html_()
        return fragment(self.report.title, curve_headline(self.report), curve_sections(self.report))


def finish(job: Job, results: list[Done], start: Done) -> Result:
    """Measure, and write report and checkpoints to the run folder; if the run was finished before, read its report."""
    state = read_state(job.root, results[-1], job.loaded.data, job.given)

    def reported() -> Report:
        if isinstance(known := report_of(job, results[-1]["digest"]), Report):
            return known
        disk.require(job.root)
        withdraw(job.root)
        job.show.say("measuring both networks and evaluating them on the test images")
        networks = {"before": state.reference, "after": state.model}
        times = latency(networks, state.example, seconds=job.recipe.latency_seconds)
        report = write_results(job, job.recipe, state, [start, *results], job.root, times["before"], times["after"])
        disk.remember(job.root, finished=results[-1]["digest"])
        return report

    return Result(state.model, from_rank_zero(job.fabric, reported), job.root)


def report_of(job: Job, digests: str | list[str]) -> Report | CurveReport | None:
    """Return the report of a finished run; None if it belongs to other results, or must be written again."""
    if disk.read_sealed(job.root / RUN).get("finished") != digests:
        return None
    if not all((job.root / name).exists() for name in disk.REPORTS):
        return None
    try:
        return read_report(job.root)
    except RunError as error:  # damaged, or of another version of slimcnn
        job.show.say(f"writing the report again: {error}")
        return None


def write_results(
    job: Job, recipe: Recipe, state: State, results: Sequence[Done], folder: Path, before: Latency, after: Latency
) -> Report:
    """Write the checkpoints, the last plan and the report to a folder."""
    final = results[-1]
    files = {"before": folder / disk.ORIGINAL, "after": folder / disk.COMPRESSED}
    for path, network, measured in (
        (files["before"], state.reference, final["reference_metric"]),
        (files["after"], state.model, final["metric"]),
    ):
        save(network, path, information=information_of(state.data) | {"validation_metric": measured})
    deliver(job.root, state, folder)
    plans = [job.root / done["origin"]["plan"] for done in results if done["origin"] and done["origin"]["plan"]]
    if plans:
        shutil.copyfile(plans[-1], folder / disk.PLAN)
    sizes = {"before": measure(state.reference, state.example), "after": measure(state.model, state.example)}
    times = {"before": before, "after": after}
    data = state.data
    networks = {"before": state.reference, "after": state.model}
    named = MetricName.of(state.task.metric)
    scores = {when: judge(networks[when], data.test, data).score for when in networks}
    top1 = scores if data.task == "classification" else dict.fromkeys(networks)
    numbers = {
        when: Numbers(
            top1=top1[when], metric=scores[when], params=sizes[when].params, macs=sizes[when].macs,
            bytes=file_bytes(files[when]), peak_memory=sizes[when].peak_memory, latency_ms=times[when].median_ms,
        )
        for when in networks
    }  # fmt: skip
    report = Report(
        title=f"{name_of(state)} on {data.name}",
        command=job.command or f"slimcnn run {shlex.quote(str(folder / disk.RECIPE))}",
        network=name_of(state),
        dataset=data.name,
        images={part: len(getattr(data, part)) for part in ("train", "validation", "test")},
        metric=named,
        before=numbers["before"],
        after=numbers["after"],
        reference_metric=final["reference_metric"],
        steps=tuple(step_result(done) for done in results[1:]),
        verdict=verdict_of(state.cuts),
        locked=tuple(LockedLayer(**lock) for lock in state.cuts[-1].locked) if state.cuts else (),
        sections=(
            *about_examples(state),
            *sections_of(results[1:]),
            _layers(sizes["before"], sizes["after"], state.model),
        ),
        warnings=tuple(done["warning"] for done in results[1:] if done["warning"]),
        next_steps=tuple(next_steps(recipe, numbers["before"], numbers["after"], folder, named)),
        timing=_timing(before, after),
        not_counted=sizes["after"].not_counted,
        notes=_notes(job, recipe),
        environment=environment(),
        recipe=recipe.to_toml(),
        checkpoint=disk.COMPRESSED,
        seconds=sum(done["seconds"] for done in results),
    )
    write_report(report, folder)
    return report


def name_of(state: State) -> str:
    """Return the name of the reference network."""
    named: dict[str, Any] = getattr(state.reference, "architecture", None) or {}
    return state.reference_network.model or named.get("model") or type(state.reference).__name__


def step_result(done: Done) -> StepResult:
    """Return the numbers that the report shows for a step."""
    return StepResult(**{name: done[name] for name in ("name", "metric", "seconds", "macs", "params")})


def verdict_of(cuts: Sequence[Cut]) -> CutVerdict | None:
    """Return one verdict for all cuts of a run: equal if every cut is; None if there are none.

    >>> verdict_of([Cut(True, 1e-15, "equal", ()), Cut(True, 3e-15, "equal", ())])
    CutVerdict(equal=True, error=3e-15, text='2 cuts, each proven. Cut 1: equal. Cut 2: equal')
    """
    if not cuts:
        return None
    equal, error = all(cut.equal for cut in cuts), max(cut.error for cut in cuts)
    if len(cuts) == 1:
        return CutVerdict(equal=equal, error=error, text=cuts[0].text)
    said = ". ".join(f"Cut {number}: {cut.text}" for number, cut in enumerate(cuts, 1))
    return CutVerdict(equal=equal, error=error, text=f"{len(cuts)} cuts, each proven. {said}")


def _notes(job: Job, recipe: Recipe) -> tuple[str, ...]:
    found = [f"Normalization: {described(job.loaded.data.normalization)}, {job.loaded.normalization}."]
    if job.decision.exists():
        made = " and ".join(map(str, disk.read_json(job.decision).values()))
        found.append(
            f"Where layout and precision are auto, this run trains in {made}, the fastest when the run first started. "
            "--deterministic fixes both."
        )
    return (
        (*found, CONTAMINATED.format(task_of(job.loaded.data).metric.name))
        if recipe.network.weights is not None
        else tuple(found)
    )


def _layers(before: Measurement, after: Measurement, model: nn.Module) -> Section:
    """Return the table of layers before and after; layers moved into feature reuse units keep their old names."""
    new = {layer.name: layer for layer in after.layers}
    new |= {old: new[name] for old, name in _moved(model).items() if name in new}
    columns = [("layer", "name"), ("kind", "text")]
    for title, kind in (("shape", "shape"), ("parameters", "exact"), ("MACs", "exact")):
        columns += [(f"{title} before", kind), ("after", kind)]
    rows = [
        (
            old.name or "(the network itself)", old.kind,
            (old.output or ())[1:], (new[old.name].output or ())[1:], old.params, new[old.name].params,
            old.macs, new[old.name].macs,
        )
        for old in before.layers
        if old.name in new
    ]  # fmt: skip
    table = Table(
        columns=tuple(Column(title=title, format=kind) for title, kind in columns),  # type: ignore[arg-type]
        rows=tuple(rows),
        folded=True,
        title=f"{len(rows)} layers with output shape, parameters and MACs before and after",
    )
    return Section(title="Layer by layer", blocks=(table,))


def _moved(model: nn.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, FeatureReuse):
            for number, (conv, norm) in enumerate(module.unit.layers):
                found |= {conv: f"{name}.steps.{number}.conv"} | ({norm: f"{name}.steps.{number}.norm"} if norm else {})
    return found


def _timing(before: Latency, after: Latency) -> Timing:
    return Timing(
        batch=before.batch, threads=before.threads, runtime=before.runtime, device=before.device, n=before.n,
        before_ms=(before.lower_ms, before.median_ms, before.upper_ms),
        after_ms=(after.lower_ms, after.median_ms, after.upper_ms),
        ratio=ratio_of(after),
    )  # fmt: skip


def ratio_of(found: Latency) -> Ratio:
    """Return the latency ratio of interleaved calls for a report."""
    return Ratio(median=found.relative, lower=found.relative_lower, upper=found.relative_upper)
