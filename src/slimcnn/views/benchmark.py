"""Compare networks in several runtimes, and recommend which one to ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import nan

from slimcnn.benchmarking import TITLES, Benchmark, BenchmarkRow, Recommendation, rule
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.figures.benchmark import TimedNetwork, Timings
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Format, Section, Table, Text, Value
from slimcnn.views.view import View, table


def benchmark(found: Benchmark) -> View:
    """Show a benchmark: recommendation, figure, one table per batch size and number of threads, and the spread.

    Args:
        found: the result of `slimcnn.benchmark`.

    Data: `rows` (the fields of each row, with `speed` and `noise`), `ship` (a sentence and a row for each batch size
    and number of threads), `rule`, `images`, `part`, `notes`, `environment` and `complete`; for other tasks than
    classification `metric` (name, unit, direction), and `metric` in each row in the place of `top1`.
    """
    chosen = found.recommendations
    sentences = [one.sentence for one in chosen] or ["Nothing could be run."]
    return View(
        title="Benchmark",
        headline=chosen[0].headline if chosen else sentences[0],
        sections=(_shipped(found, sentences), *_picture(found, chosen), _tables(found), _spread(found), _how(found)),
        data={
            "ship": [{"sentence": one.sentence, "row": _plain(one.row)} for one in chosen],
            "rule": rule(found.max_drop, found.images > 0, found.metric),
            "rows": [_plain(row) for row in found.rows],
            "images": found.images, "part": found.part, "seconds": found.seconds, "no_energy": found.no_energy,
            "notes": list(found.notes), "environment": dict(found.environment), "complete": found.complete,
        } | ({} if found.metric == TOP1 else {"metric": found.metric.model_dump()}),
    )  # fmt: skip


def setting_of(row: BenchmarkRow) -> str:
    """Format the batch size and the number of threads."""
    return f"batch {row.batch}, {plural(row.threads, 'thread')}"


def _plain(row: BenchmarkRow) -> dict[str, object]:
    unused = "metric" if row.metric is None else "top1"
    plain = {name: value for name, value in asdict(row).items() if name != unused}
    return plain | {"speed": row.speed, "noise": row.noise}


def _shipped(found: Benchmark, sentences: Sequence[str]) -> Section:
    blocks = [Text(text=sentence) for sentence in sentences]
    blocks.append(Text(text=f"The rule: {rule(found.max_drop, found.images > 0, found.metric)}", tone="note"))
    if not found.complete:
        blocks.append(Text(text="The benchmark was interrupted; the results are incomplete.", tone="bad"))
    return Section(title="What to ship", blocks=tuple(blocks))


def _picture(found: Benchmark, chosen: Sequence[Recommendation]) -> tuple[Section, ...]:
    shipped = [one.row for one in chosen]
    points = tuple(
        TimedNetwork(
            network=row.network, runtime=TITLES[row.runtime], score=nan if row.score is None else row.score,
            milliseconds=(row.latency.lower_ms, row.latency.median_ms, row.latency.upper_ms),
            setting=setting_of(row), ship=row in shipped,
        )
        for row in found.rows
        if row.latency is not None
    )  # fmt: skip
    if all(point.score != point.score for point in points):  # NaN: nothing to draw
        return ()
    drawn = Timings(points=points, images=_images(found), metric=found.metric)
    return (Section(title="Accuracy against milliseconds", blocks=(drawn.block(),)),)


def _tables(found: Benchmark) -> Section:
    blocks: list[Text | Table] = []
    energy = any(row.joules is not None for row in found.rows)
    for setting in dict.fromkeys(map(setting_of, found.rows)):
        rows = [row for row in found.rows if setting_of(row) == setting]
        blocks.append(_table(rows, setting, energy, found.metric))
        blocks += [
            Text(text=f"{row.network} in {TITLES[row.runtime]}: {row.why}.", tone="note") for row in rows if row.why
        ]
    return Section(title="Networks", blocks=tuple(blocks) or (Text(text="Nothing was measured.", tone="note"),))


def _table(rows: Sequence[BenchmarkRow], setting: str, energy: bool, metric: MetricName) -> Table:
    columns: dict[str, Format] = {
        "network": "name", "runtime": "text", "ms": "milliseconds", "ratio": "share", "speed": "text",
        metric.name: metric.format, "file": "bytes", "memory": "bytes",
    }  # fmt: skip
    values = [_cells(row, energy) for row in rows]
    return table(columns | ({"mJ": "small"} if energy else {}), values, title=setting.capitalize())


def _cells(row: BenchmarkRow, energy: bool) -> tuple[Value, ...]:
    time = (row.latency.median_ms, row.latency.relative) if row.latency is not None else (None, None)
    speed = {"first": "", "not run": "failed"}.get(row.speed, row.speed)
    memory = row.memory.bytes if row.memory is not None else None
    joules = () if not energy else (None if row.joules is None else 1000 * row.joules,)
    return (row.network, TITLES[row.runtime], *time, speed, row.score, row.bytes, memory, *joules)


def _spread(found: Benchmark) -> Section:
    columns: dict[str, Format] = {
        "network": "name", "runtime": "text", "batch": "exact", "threads": "exact", "lower, ms": "milliseconds",
        "upper, ms": "milliseconds", "ratio, lower": "share", "upper": "share", "noise": "share", "calls": "exact",
        **_differences(found.metric), "least memory": "bytes", "most": "bytes", "whole process": "bytes",
    }  # fmt: skip
    values: list[tuple[Value, ...]] = [
        (
            row.network, TITLES[row.runtime], row.batch, row.threads, row.latency.lower_ms, row.latency.upper_ms,
            row.latency.relative_lower, row.latency.relative_upper, row.noise, row.latency.n, row.points,
            *((row.points_error,) if found.metric == TOP1 else ()),
            *((row.memory.least, row.memory.most, row.memory.whole) if row.memory is not None else (None,) * 3),
        )
        for row in found.rows
        if row.latency is not None
    ]  # fmt: skip
    if not values:
        return Section(title="Spread", blocks=(Text(text="Nothing was measured.", tone="note"),))
    title = f"Quartiles of times and ratios, differences of {found.metric.name}, least and most memory"
    return Section(title="Spread", blocks=(table(columns, values, title=title, folded=True),))


def _differences(metric: MetricName) -> dict[str, Format]:
    """Return the columns of the difference from the reference; that of top-1 has a standard error."""
    if metric == TOP1:
        return {"points": "points", "± points": "percent"}
    return {metric.change_unit or "change": metric.change_format}


def _how(found: Benchmark) -> Section:
    first = {row.reference for row in found.rows if row.reference}
    reference = next(iter(first)) if len(first) == 1 else "the first network that runs there"
    times = (
        "ms: median time of one call. Calls of all networks of a runtime are interleaved, for "
        f"{found.seconds:g} s at each batch size and number of threads, after a warm-up. ratio: median over the "
        f"rounds of the time divided by that of {reference} in the same round. alike: the ratio differs from 1 by "
        "less than the noise, the 95 % interval of the median from the quartiles of the n ratios, "
        "1.57 (q3 - q1) / sqrt(n), at least 0.02. Calls of different runtimes are not interleaved: times in two "
        "runtimes are alike if their quartiles overlap."
    )
    metric = found.metric
    unit = {"%": "percent, ", "": ""}.get(metric.unit, f"{metric.unit}, ")
    score = f"{metric.name}: {unit}in that runtime, on {_images(found)}{metric.direction}." if found.images else ""
    file = "file: size of the file that the runtime opens; for PyTorch, of the checkpoint."
    energy = (
        f"energy: not measured, {found.no_energy}."
        if found.no_energy
        else "mJ: energy of the processor package per image, including idle power, over one second of calls."
    )
    known = found.environment
    machine = ", ".join(f"{name} {known[name]}" for name in ("cpu", "cores", "torch", "os") if name in known)
    notes = (times, score, file, _memory(found), energy, *found.notes, machine and f"Machine: {machine}.")
    return Section(title="How it was measured", blocks=tuple(Text(text=one, tone="note") for one in notes if one))


def _memory(found: Benchmark) -> str:
    n = max((row.memory.processes for row in found.rows if row.memory is not None), default=0)
    if not n:
        return "memory: not measured."
    return (
        "memory: the increase in resident memory from opening the file and predicting three times, in a fresh process "
        f"that has run a one-layer network in the same runtime; the peak, median of {n} "
        f"{'process' if n == 1 else 'processes'}. For PyTorch eager: the same network as a TorchScript file."
    )


def _images(found: Benchmark) -> str:
    return plural(found.images, f"{found.part} image")
