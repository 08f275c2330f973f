"""What a study measures of every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slimcnn.benchmarking import benchmark
from slimcnn.errors import ExportError, StudyError, UnknownName
from slimcnn.exporting import RUNTIMES, why_not
from slimcnn.registry import Registry
from slimcnn.reporting import Report
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Format
from slimcnn.running.opening import open_run

SECONDS = 4.0
"""Seconds of timing in a runtime."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run that a study measures."""

    folder: Path
    report: Report
    _timed: dict[str, tuple[float, float]] = field(default_factory=dict)

    def timed(self, runtime: str) -> tuple[float, float]:
        """Return milliseconds per call, batch 1, one thread, and the ratio to the original, timed in turns."""
        if not runtime:
            return self.report.after.latency_ms, self.report.timing.ratio.median
        if runtime not in self._timed:
            state = open_run(self.folder)
            networks = {"original": state.reference, "compressed": state.model}
            found = benchmark(networks, state.example, runtimes=[runtime], seconds=SECONDS, processes=0)
            last = found.rows[-1]
            if last.latency is None:
                raise ExportError(f"{runtime} cannot run the network: {last.why}")
            self._timed[runtime] = last.latency.median_ms, last.latency.relative
        return self._timed[runtime]


MeasureFunction = Callable[[MeasuredRun, str], float]
"""Measures a run; the second argument is what follows the colon of the measure's name."""

measures: Registry[MeasureFunction] = Registry("measure")
"""All measures; each has the facts `format`, `better` ("higher" or "lower") and `takes` ("" or "runtime").

Format, direction and title of a measure with the fact `of_metric` are those for top-1; `measure_of_row` has those for
another metric.
"""


@dataclass(frozen=True)
class Measure:
    """A measure of a study, by name and option."""

    name: str
    """The full name, such as latency:openvino."""
    format: Format
    better: Literal["higher", "lower"]
    title: str
    """Heading of the column, with its unit."""
    of: MeasureFunction
    option: str

    def __call__(self, run: MeasuredRun) -> float:
        """Measure a run."""
        return float(self.of(run, self.option))


def measure_named(name: str) -> Measure:
    """Return a measure.

    Raises:
        UnknownName: there is no such measure or runtime.
        ExportError: the runtime is not installed.
        StudyError: the measure takes no runtime.

    >>> measure_named("latency:openvino").title
    'ms in openvino'
    >>> measure_named("accuracy:openvino")
    Traceback (most recent call last):
    slimcnn.errors.StudyError: measure 'accuracy:openvino': accuracy takes nothing after a colon
    """
    first, colon, option = name.partition(":")
    if colon and not measures[first].facts["takes"]:
        raise StudyError(f"measure {name!r}: {first} takes nothing after a colon")
    if option and option not in RUNTIMES:
        raise UnknownName("runtime", option, RUNTIMES)
    if option and (why := why_not(option)):
        raise ExportError(why)
    return measure_of_row(name)


def measure_of_row(name: str, metric: MetricName = TOP1) -> Measure:
    """Return the measure of a row whose run was judged by a metric; its runtime need not be installed here.

    Raises:
        UnknownName: there is no such measure.

    >>> found = measure_of_row("validation", MetricName(name="error", unit="", higher_is_better=False))
    >>> found.title, found.format, found.better
    ('validation error', 'small', 'lower')
    """
    first, _, option = name.partition(":")
    entry = measures[first]
    facts: Mapping[str, Any] = entry.facts
    title, form, better = facts["title"], facts["format"], facts["better"]
    if facts.get("of_metric"):
        named = TOP1.title in title
        title = title.replace(TOP1.title if named else TOP1.name, metric.title if named else metric.name)
        form = metric.change_format if form == TOP1.change_format else metric.format
        better = "higher" if metric.higher_is_better else "lower"
    return Measure(name, form, better, f"{title} in {option}" if option else title, entry.value, option)


@measures.add(
    "accuracy", source="slimcnn", title="top-1, %", format="percent", better="higher", takes="", of_metric=True
)
def accuracy(run: MeasuredRun, _: str) -> float:
    """Top-1 of the final network on the test images, in percent; of another task its metric, in its unit."""
    return run.report.after.score


@measures.add(
    "change", source="slimcnn", title="change of top-1", format="points", better="higher", takes="", of_metric=True
)
def change(run: MeasuredRun, _: str) -> float:
    """Top-1, or the task's metric, of the final network minus the original's, on the test images."""
    return run.report.after.score - run.report.before.score


@measures.add(
    "validation", source="slimcnn", title="validation top-1, %", format="percent", better="higher", takes="",
    of_metric=True,
)  # fmt: skip
def validation(run: MeasuredRun, _: str) -> float:
    """Top-1, or the task's metric, of the final network on the validation images; for choices."""
    return run.report.steps[-1].metric if run.report.steps else run.report.reference_metric


@measures.add("macs", source="slimcnn", title="MACs", format="count", better="lower", takes="")
def macs(run: MeasuredRun, _: str) -> float:
    """MACs of the final network for one image."""
    return run.report.after.macs


@measures.add("macs_left", source="slimcnn", title="MACs left", format="share", better="lower", takes="")
def macs_left(run: MeasuredRun, _: str) -> float:
    """Share of the original's MACs that the final network keeps."""
    return run.report.after.macs / max(run.report.before.macs, 1)


@measures.add("params", source="slimcnn", title="params", format="count", better="lower", takes="")
def params(run: MeasuredRun, _: str) -> float:
    """Parameters of the final network."""
    return run.report.after.params


@measures.add("bytes", source="slimcnn", title="checkpoint", format="bytes", better="lower", takes="")
def checkpoint_bytes(run: MeasuredRun, _: str) -> float:
    """Size of the final network's checkpoint."""
    return run.report.after.bytes


@measures.add("memory", source="slimcnn", title="peak memory", format="bytes", better="lower", takes="")
def memory(run: MeasuredRun, _: str) -> float:
    """Peak bytes of live activations of the final network for one image, in float32."""
    return float(run.report.after.peak_memory or 0)


@measures.add("latency", source="slimcnn", title="ms", format="milliseconds", better="lower", takes="runtime")
def milliseconds(run: MeasuredRun, runtime: str) -> float:
    """Milliseconds per call, batch 1, one thread; latency:RUNTIME exports the network and times it there."""
    return run.timed(runtime)[0]


@measures.add("latency_left", source="slimcnn", title="time left", format="share", better="lower", takes="runtime")
def latency_left(run: MeasuredRun, runtime: str) -> float:
    """Time of a call relative to the original's, both timed in turns."""
    return run.timed(runtime)[1]


@measures.add("ks", source="slimcnn", title="KS of norms", format="share", better="lower", takes="")
def ks(run: MeasuredRun, _: str) -> float:
    """Kolmogorov-Smirnov distance of kept and original filter norms, 0 to 1: the mean over layers of the last cut."""
    layers = [
        block.data["layers"]
        for section in run.report.sections
        for block in section.blocks
        if block.kind == "figure" and block.figure == "norms"
    ]  # fmt: skip
    found = [float(one["ks"]) for one in layers[-1]] if layers else []
    return sum(found) / len(found) if found else 0.0


@measures.add("seconds", source="slimcnn", title="time of the run", format="seconds", better="lower", takes="")
def seconds(run: MeasuredRun, _: str) -> float:
    """Seconds of all steps, without interruptions; steps in common with other runs count in each of them."""
    return run.report.seconds
