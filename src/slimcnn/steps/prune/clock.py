"""A target in milliseconds: channels and blocks chosen by the times of layers, then measured, until the clock agrees.

A prediction from single layers is off by a few percent, so every plan is cut, exported and timed side by side with the
original; the prediction is corrected by what was measured, and the next plan is closer.
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
"""The share of the target by which the measured time may be off."""

ROUNDS = 7
"""Plans that are timed at most."""

SECONDS = 1.5
"""For which a plan is timed beside the original."""


@dataclass(frozen=True)
class Clock:
    """What a network's time is a target of, and where it is measured."""

    asked: str
    """0.4ms, or a share such as 0.5 of the time of the network that comes in."""
    runtime: str
    batch: int
    threads: int

    def milliseconds(self, whole: float) -> float:
        """The target, for a network that takes `whole` milliseconds.

        >>> Clock("0.5", "openvino", 1, 1).milliseconds(3.0), Clock("0.4ms", "openvino", 1, 1).milliseconds(3.0)
        (1.5, 0.4)
        """
        return parsed(self.asked, whole)


def parsed(asked: str, whole: float = 1.0) -> float:
    """Read a target: milliseconds with their unit, or a share of `whole`.

    Raises:
        TargetError: it is neither.

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
    """The fastest runtime that is installed: OpenVINO, else ONNX Runtime, else PyTorch itself."""
    return next(name for name in ("openvino", "onnxruntime", "torch") if not why_not(name))


@dataclass(frozen=True)
class Timed:
    """A plan and its time: predicted from layers, measured in the runtime."""

    plan: Plan
    predicted_ms: float
    measured_ms: float
    macs: float
    """Share that stays."""


@dataclass(frozen=True)
class ClockResult:
    """How the clock's target was met."""

    plan: Plan
    timed: tuple[Timed, ...]
    """Every plan that was measured; the last but not always the chosen one."""
    chosen: Timed
    target_ms: float
    model: LatencyModel
    alone: bool = True
    """Whether milliseconds were the only target: then a faster plan than asked for cut more than it had to."""

    @property
    def miss(self) -> str:
        """By how much the chosen plan misses the target, in a sentence; empty within 5 %."""
        off = self.chosen.measured_ms / self.target_ms - 1
        if off > CLOSE:
            return f"The chosen plan is {off:.0%} slower than asked: the target is missed."
        if off < -CLOSE and self.alone:
            return f"The chosen plan is {-off:.0%} faster than asked: it cuts more than it had to."
        return ""


def plan_by_clock(
    clock: Clock, target: Target, whole: nn.Module, graph: ChannelGraph, scores: Scores, times: LatencyModel,
    show: Show,
) -> ClockResult:  # fmt: skip
    """Allocate, cut, export and measure, until the time is within 5 % of the target or seven plans were timed.

    The plan that is nearest below the target (or at most 5 % above it) is chosen; if none is, the fastest.

    Raises:
        TargetUnreachable: the smallest possible network is slower, as measured.
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
            f"{asked:.3f} asked ({RUNTIMES[clock.runtime].title}, batch {clock.batch})"
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
    """Allocate; where the target is predicted to be out of reach, give the fastest plan, for the clock to judge."""
    try:
        return allocate(graph, scores, target, model)
    except TargetUnreachable as error:
        fastest = error.best.get("latency_ms", 0.0)
        if target.latency_ms is None or fastest <= target.latency_ms:
            raise  # another target is in the way
        return allocate(graph, scores, replace(target, latency_ms=fastest * (1 + 1e-9)), model)


def _nearest(found: Sequence[Timed], asked: float) -> Timed:
    good = [one for one in found if one.measured_ms <= asked * (1 + CLOSE)]
    return max(good, key=lambda one: one.measured_ms) if good else min(found, key=lambda one: one.measured_ms)


def _time(original: Opened, small: nn.Module, example: Example, clock: Clock, whole_ms: float) -> float:
    """Milliseconds of a network: its share of the original's time, side by side, times the original's."""
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
    """Say what was asked and what was measured, plan by plan."""
    whole, chosen = found.model.whole_ms, found.chosen
    said = (
        f"Asked: {found.target_ms:.3f} ms a call in {RUNTIMES[clock.runtime].title}, batch {clock.batch}, "
        f"{clock.threads} thread{'s' * (clock.threads > 1)}. Measured: {chosen.measured_ms:.3f} ms, "
        f"{chosen.measured_ms / whole:.2f} of the original's {whole:.3f} ms, with {chosen.macs:.2f} of its MACs."
    )
    blocks: list[Text | Table] = [Text(text=said)]
    if found.miss:
        blocks.append(Text(text=found.miss, tone="bad"))
    if found.model.round_to > 1:
        blocks.append(
            Text(
                text=f"Kept channels are multiples of {found.model.round_to}, as these are fast in this runtime.",
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
