"""Compare a network before and after a run: headline, verdict and the rows of the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimcnn.reporting import formatting
from slimcnn.reporting.outcome import Comparison, CutVerdict, MetricName, Numbers, Ratio, Timing

TOP1 = MetricName()

ALIKE = 0.02
"""Times with a smaller relative difference are reported as about equal: repeated measurements vary as much."""

UNPROVABLE = "cannot be equal, because "
"""Prefix of the verdict of a cut that cannot be exact by construction."""

ALARMING = 5.0
"""Percentage points of test top-1."""


@dataclass(frozen=True)
class Row:
    """One line of the before/after table."""

    name: str
    before: str
    after: str
    change: str
    exact: tuple[str, str] | None = None
    """Both values with all digits, if `before` and `after` are rounded."""


def headline(run: Comparison) -> str:
    """Summarize the run in one sentence."""
    before, after = run.before, run.after
    return (
        f"{run.network} on {run.dataset}: {formatting.ratio(before.macs, after.macs)} of the MACs, "
        f"{formatting.ratio(before.params, after.params)} of the parameters, "
        f"{run.metric.name} {run.metric.number(before.score)} → {run.metric.number(after.score)} "
        f"({run.metric.signed(run.metric.change(before.score, after.score))})"
    )


def verdict_in_words(run: Comparison) -> list[str]:
    """Describe size, time, accuracy, exactness of the cut and next steps, as sentences in this order."""
    return [
        size_in_words(run.before, run.after),
        time_in_words(run.before.latency_ms, run.after.latency_ms, run.timing),
        accuracy_in_words(run.before.score, run.after.score, run.images.get("test", 0), run.metric),
        exactness_in_words(run.verdict),
        *run.next_steps,
    ]


def is_alarming(run: Comparison) -> bool:
    """Whether the page begins in the color of an alarm: the cut is not exact, or 5 points of the metric are lost."""
    lost = -run.metric.gain(run.before.score, run.after.score)
    return (run.metric.unit == "%" and lost > ALARMING) or (run.verdict is not None and not run.verdict.equal)


def size_in_words(before: Numbers, after: Numbers) -> str:
    """Describe the change of MACs, parameters, file size and running memory.

    >>> old = Numbers(top1=90, params=100, macs=1000, bytes=480, peak_memory=64, latency_ms=2)
    >>> new = Numbers(top1=90, params=80, macs=500, bytes=400, peak_memory=64, latency_ms=2)
    >>> size_in_words(old, new)
    'The network needs 50 % fewer MACs and 20 % fewer parameters; its file is 17 % smaller.'
    >>> size_in_words(old, old)
    'The network is as large as before: 1.000 k MACs and 100 parameters.'
    """
    if (before.macs, before.params) == (after.macs, after.params):
        macs, params = formatting.count(after.macs), formatting.count(after.params)
        return f"The network is as large as before: {macs} MACs and {params} parameters."
    macs = _many(before.macs, after.macs, "MACs")
    params = _many(before.params, after.params, "parameters")
    file = _change(before.bytes, after.bytes)
    ending = f"{file[0]} {'smaller' if file[1] else 'larger'}" if file else "as large as before"
    memory = _change(before.peak_memory, after.peak_memory)
    running = f" It runs in {memory[0]} {'less' if memory[1] else 'more'} memory." if memory else ""
    return f"The network needs {macs} and {params}; its file is {ending}.{running}"


def time_in_words(before: float, after: float, measured: Timing) -> str:
    """Describe the change of the time of a call, and how it was measured; the ratio is that of interleaved calls."""
    where = (
        f"{measured.runtime}, batch {measured.batch}, {formatting.plural(measured.threads, 'thread')}, "
        f"{measured.device}"
    )
    if not (math.isfinite(before) and math.isfinite(after)) or before <= 0:
        return "The time of a call was not measured."
    old, new = formatting.milliseconds(before), formatting.milliseconds(after)
    times, unsure = f"{new} ms, previously {old} ms ({where}).", unsure_in_words(measured.ratio)
    change = _change(1.0, measured.ratio.median)
    if change is None or abs(measured.ratio.median - 1) < ALIKE:
        return f"A call takes about as long as before: {times}{unsure}"
    return f"A call takes {change[0]} {'less' if change[1] else 'more'} time: {times}{unsure}"


def unsure_in_words(ratio: Ratio) -> str:
    """Return a warning with a leading space if the latency ratio has wide quartiles; else an empty string.

    >>> unsure_in_words(Ratio(median=0.9, lower=0.7, upper=1.1))
    ' The ratio varied widely between calls (quartiles 0.70 and 1.10): measure again on an idle machine.'
    """
    if not ratio.is_wide:
        return ""
    lower, upper = (formatting.ratio(1.0, value) for value in (ratio.lower, ratio.upper))
    return f" The ratio varied widely between calls (quartiles {lower} and {upper}): measure again on an idle machine."


def accuracy_in_words(before: float, after: float, images: int, metric: MetricName = TOP1) -> str:
    """Describe the change of the metric in its unit; of top-1 in test images too.

    >>> accuracy_in_words(98.61, 97.5, 360)
    'Top-1 falls by 1.11 points, from 98.61 % to 97.50 %: 4 more of 360 test images are misclassified.'
    >>> accuracy_in_words(90.0, 90.0, 1)
    'Top-1 stays at 90.00 %, measured on 1 test image.'
    >>> accuracy_in_words(0.1271, 0.1338, 0, MetricName(name="depth error", unit="m", higher_is_better=False))
    'Depth error rises by 0.0067 m (worse), from 0.127 m to 0.134 m, measured on the test images.'
    """
    name = formatting.capital(metric.name)
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"{name} on the test images is not known for both networks, so its change is not known."
    where = f"measured on {formatting.plural(images, 'test image')}" if images else "measured on the test images"
    old, new = metric.written(before), metric.written(after)
    if old == new:
        return f"{name} stays at {new}, {where}."
    difference = metric.change(before, after)
    moved = f"{name} {'falls' if difference < 0 else 'rises'}"
    by = f"{formatting.write(abs(difference), metric.format)} {metric.change_unit}".rstrip()
    judged = "" if metric.higher_is_better else f" ({'worse' if difference > 0 else 'better'})"
    words = f"{moved} by {by}{judged}, from {old} to {new}"
    wrong = round((before - after) / 100 * images)
    if wrong < 1 or metric != TOP1:
        return f"{words}, {where}."
    return (
        f"{words}: {wrong:,} more of {formatting.plural(images, 'test image')} {'is' if wrong == 1 else 'are'} "
        "misclassified."
    )


def exactness_in_words(verdict: CutVerdict | None) -> str:
    """Describe whether the cut is exact.

    >>> exactness_in_words(None)
    'No channels were removed, so there is no cut to check.'
    """
    if verdict is None:
        return "No channels were removed, so there is no cut to check."
    error, text = formatting.small(verdict.error), verdict.text.rstrip(".")
    if verdict.equal:
        return (
            "The cut is exact: the pruned network’s outputs equal those of the original with the removed channels set "
            f"to zero (largest relative difference {error})."
        )
    if text.startswith(UNPROVABLE):
        return f"Exactness of the cut cannot be proven, because {text.removeprefix(UNPROVABLE)}."
    return f"The cut is not exact (largest relative difference {error}): {text}."


def rows(run: Comparison) -> tuple[Row, ...]:
    """Return the table rows of both networks.

    `change` is after / before; for the metric the difference in its unit, for latency the ratio of interleaved calls.
    """
    before, after = run.before, run.after
    score = Row(
        run.metric.title,
        run.metric.number(before.score),
        run.metric.number(after.score),
        run.metric.changed(before.score, after.score),
    )
    time = Row(
        "latency, ms",
        formatting.milliseconds(before.latency_ms),
        formatting.milliseconds(after.latency_ms),
        ratio_of(after, run.timing.ratio),
    )
    sizes = (
        Row(
            name,
            write(old),
            write(new),
            times(old, new),
            (formatting.whole(old), formatting.whole(new)),
        )
        for name, write, old, new in (
            ("parameters", formatting.count, before.params, after.params),
            ("MACs", formatting.count, before.macs, after.macs),
            ("bytes on disk", formatting.size, before.bytes, after.bytes),
            ("running memory", formatting.size, before.peak_memory, after.peak_memory),
        )
    )
    return (score, *sizes, time)


def times(before: float, after: float) -> str:
    """Format after / before as a factor.

    >>> times(1000, 500)
    '× 0.50'
    """
    value = formatting.ratio(before, after)
    return value if value == formatting.NOTHING else f"× {value}"


def ratio_of(after: Numbers, ratio: Ratio) -> str:
    """Format the latency ratio of interleaved calls; a dash if the network was not timed."""
    return times(1.0, ratio.median if math.isfinite(after.latency_ms) else math.nan)


def _many(before: int, after: int, noun: str) -> str:
    change = _change(before, after)
    if change is None:
        return f"as many {noun}" if before == after else f"{formatting.count(after)} {noun} instead of none"
    if after > 2 * before > 0:
        return f"{after / before:.1f} times as many {noun}"
    return f"{change[0]} {'fewer' if change[1] else 'more'} {noun}"


def _change(before: float, after: float) -> tuple[str, bool] | None:
    """Return the difference in percent of `before` and whether it is a decrease; None if there is no difference.

    >>> _change(100, 49), _change(1000, 968), _change(1e6, 1), _change(7, 7)
    (('51 %', True), ('3.2 %', True), ('over 99.9 %', True), None)
    """
    if before == after or before <= 0:
        return None
    share = 100 * abs(after - before) / before
    if share < 0.05:
        words = "under 0.1 %"
    elif after < before and 99.95 <= share < 100:
        words = "over 99.9 %"
    else:
        words = f"{share:.0f} %" if 10 <= share < 99 or share >= 100 else f"{share:.1f} %"
    return words, after < before
