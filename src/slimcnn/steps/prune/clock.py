"""Latency targets: choose channels and blocks by the latencies of layers, measure the result, and repeat.

A prediction from single layers is off by a few percent. So every plan is cut, exported and timed side by side with the
original network; the measurement corrects the prediction, and the next plan is closer to the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from slimcnn.errors import TargetError, TargetUnreachable
from slimcnn.exporting import RUNTIMES, Opened, transfer, why_not
from slimcnn.graph import ChannelGraph
from slimcnn.measuring import latency
from slimcnn.measuring.examples import Example, with_batch
from slimcnn.pruning import LatencyModel, Plan, Scores, Target, allocate, latency_model, prune
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.show import Show

CLOSE = 0.05
"""Allowed deviation of the measured latency from the target, as a share of the target."""

ROUNDS = 7
"""Maximum number of plans to time."""

SECONDS = 1.5
"""Duration of the side-by-side timing of a plan and the original."""


@dataclass(frozen=True)
class Clock:
    """A latency target and the conditions of its measurement."""

    asked: str
    """0.4ms, or a share of the original's latency such as 0.5."""
    runtime: str
    batch: int
    threads: int

    def milliseconds(self, whole: float) -> float:
        """Return the target in milliseconds, for a network that takes `whole` milliseconds.

        >>> Clock("0.5", "openvino", 1, 1).milliseconds(3.0), Clock("0.4ms", "openvino", 1, 1).milliseconds(3.0)
        (1.5, 0.4)
        """
        return parsed(self.asked, whole)


def parsed(asked: str, whole: float = 1.0) -> float:
    """Parse a latency target into milliseconds: a time with its unit, or a share of `whole`.

    Raises:
        TargetError: the text is neither.

    >>> parsed("2e-3s"), parsed("1.5 ms"), parsed("0.75", 2.0)
    (2.0, 1.5, 1.5)
    >>> parsed("fast")
    Traceback (most recent call last):
    slimcnn.errors.TargetError: latency='fast': give milliseconds, such as 0.4ms, or a share, such as 0.5
    """
    text = asked.strip().lower()
    units = {"ms": 1.0, "us": 1e-3, "s": 1e3}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        number = float(text.removesuffix(unit))
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf") or (not unit and number > 1):
        raise TargetError(f"latency={asked!r}: give milliseconds, such as 0.4ms, or a share, such as 0.5")
    return number * units[unit] if unit else number * whole


def default_runtime() -> str:
    """Return the fastest installed runtime: OpenVINO, else ONNX Runtime, else PyTorch."""
    return next(name for name in ("openvino", "onnxruntime", "torch") if not why_not(name))


@dataclass(frozen=True)
class Timed:
    """A plan and its latency: predicted from layers, and measured in the runtime."""

    plan: Plan
    predicted_ms: float
    measured_ms: float
    macs: float
    """Share of the MACs that the plan keeps."""


@dataclass(frozen=True)
class ClockResult:
    """The result of `plan_by_clock`."""

    plan: Plan
    timed: tuple[Timed, ...]
    """All measured plans in order; the chosen one is not always the last."""
    chosen: Timed
    target_ms: float
    model: LatencyModel
    alone: bool = True
    """Whether latency was the only target; if so, a plan that is faster than the target cuts more than necessary."""

    @property
    def miss(self) -> str:
        """A sentence on how far the chosen plan is from the target; empty within 5 %."""
        off = self.chosen.measured_ms / self.target_ms - 1
        if off > CLOSE:
            return f"The chosen plan is {off:.0%} slower than the target: the target is missed."
        if off < -CLOSE and self.alone:
            return f"The chosen plan is {-off:.0%} faster than the target: it cuts more than necessary."
        return ""


def plan_by_clock(
    clock: Clock, target: Target, whole: nn.Module, graph: ChannelGraph, scores: Scores, times: LatencyModel,
    show: Show,
) -> ClockResult:  # fmt: skip
    """Allocate, cut, export and measure until a plan is close to the target or seven plans are timed.

    Of the plans at most 5 % above the target, the slowest is chosen; if there is none, the fastest plan.

    Raises:
        TargetUnreachable: the measured latency of the smallest possible network is above the target.
    """
    asked = clock.milliseconds(times.whole_ms)
    example = with_batch(graph.example, clock.batch)
    original = transfer(whole, example, clock.runtime, clock.threads, dynamic_batch=False)
    target = replace(target, latency_ms=asked, runtime=clock.runtime)
    found: list[Timed] = []
    model = times
    while len(found) < ROUNDS:
        plan = _plan_or_smallest(graph, scores, target, model)
        counts = plan.counts(graph)
        if any(plan.removed == other.plan.removed for other in found):
            break
        small = prune(whole, graph, plan, verify=False)
        measured = _time(original, small, example, clock, times.whole_ms)
        found.append(Timed(plan, model.ms(counts), measured, graph.macs(counts) / max(graph.macs(), 1)))
        show.say(
            f"  plan {len(found)}: {measured:.3f} ms measured, {found[-1].predicted_ms:.3f} predicted, "
            f"target {asked:.3f} ({RUNTIMES[clock.runtime].title}, batch {clock.batch})"
        )
        if abs(measured / asked - 1) <= CLOSE / 2:
            break
        if model.ms(counts) > asked < measured:
            raise TargetUnreachable(
                f"cannot reach {asked:.4g} ms in {RUNTIMES[clock.runtime].title}: the smallest network that these "
                f"settings allow takes {measured:.4g} ms, the original {times.whole_ms:.4g}",
                {"latency_ms": measured},
            )
        model = model.corrected(counts, measured)
    chosen = _nearest(found, asked)
    return ClockResult(chosen.plan, tuple(found), chosen, asked, times, target.sized == ("latency_ms",))


def _plan_or_smallest(graph: ChannelGraph, scores: Scores, target: Target, model: LatencyModel) -> Plan:
    """Allocate; if the prediction says that the latency is unreachable, return the fastest plan to be measured."""
    try:
        return allocate(graph, scores, target, model)
    except TargetUnreachable as error:
        fastest = error.best.get("latency_ms", 0.0)
        if target.latency_ms is None or fastest <= target.latency_ms:
            raise  # another limit of the target is unreachable
        return allocate(graph, scores, replace(target, latency_ms=fastest * (1 + 1e-9)), model)


def _nearest(found: Sequence[Timed], asked: float) -> Timed:
    good = [one for one in found if one.measured_ms <= asked * (1 + CLOSE)]
    return max(good, key=lambda one: one.measured_ms) if good else min(found, key=lambda one: one.measured_ms)


def _time(original: Opened, small: nn.Module, example: Example, clock: Clock, whole_ms: float) -> float:
    """Measure a network's latency: its ratio to the original, timed side by side, times the original's latency."""
    opened = transfer(small, example, clock.runtime, clock.threads, dynamic_batch=False)
    times = latency({"original": original, "small": opened}, example, seconds=SECONDS, threads=clock.threads)
    return times["small"].relative * whole_ms


def times_for(clock: Clock, whole: nn.Module, graph: ChannelGraph, round_to: int | None, show: Show) -> LatencyModel:
    """Time the network and its layers (see `latency_model`)."""
    title = RUNTIMES[clock.runtime].title
    show.say(f"  timing layers in {title}, batch {clock.batch}, {clock.threads} thread{'s' * (clock.threads > 1)}")
    return latency_model(
        whole, graph, clock.runtime, batch=clock.batch, threads=clock.threads, round_to=round_to,
        progress=show.counting("timing layers"),
    )  # fmt: skip


def about_clock(found: ClockResult, clock: Clock) -> Section:
    """Report the latency target and the measured latency of every plan."""
    whole, chosen = found.model.whole_ms, found.chosen
    said = (
        f"Target: {found.target_ms:.3f} ms per call in {RUNTIMES[clock.runtime].title}, batch {clock.batch}, "
        f"{clock.threads} thread{'s' * (clock.threads > 1)}. Measured: {chosen.measured_ms:.3f} ms, "
        f"{chosen.measured_ms / whole:.2f} of the original's {whole:.3f} ms, with {chosen.macs:.2f} of its MACs."
    )
    blocks: list[Text | Table] = [Text(text=said)]
    if found.miss:
        blocks.append(Text(text=found.miss, tone="bad"))
    if found.model.round_to > 1:
        blocks.append(
            Text(
                text=f"Kept channels are multiples of {found.model.round_to}, which are fast in this runtime.",
                tone="note",
            )
        )
    blocks.append(
        Table(
            columns=(
                Column(title="plan", format="exact"),
                Column(title="MACs", format="share"),
                Column(title="predicted", format="milliseconds"),
                Column(title="measured", format="milliseconds"),
                Column(title=""),
            ),
            rows=tuple(
                (number, one.macs, one.predicted_ms, one.measured_ms, "chosen" if one is chosen else "")
                for number, one in enumerate(found.timed, 1)
            ),
        )
    )
    return Section(title="Latency target", blocks=tuple(blocks))
