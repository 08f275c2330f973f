"""Compare compact networks: published accuracy, and cost measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError
from slimcnn.exporting import RUNTIMES, transfer, why_not
from slimcnn.measuring import Latency, latency, measure
from slimcnn.models import build, networks
from slimcnn.models.published import Published
from slimcnn.reporting.figures.trade import CompactNetwork, Trade
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.sections import Format, Section, Text, Value
from slimcnn.show import SILENT, Show
from slimcnn.views.view import View, table

TITLES = {"eager": "torch eager"} | {name: RUNTIMES[name].title for name in ("onnxruntime", "openvino")}
"""Runtime → title."""


def installed() -> list[str]:
    """Return the names of the installed runtimes of the comparison.

    >>> "eager" in installed()
    True
    """
    return [name for name in TITLES if name == "eager" or not why_not(name)]


@dataclass(frozen=True)
class Compared:
    """One network of the comparison."""

    published: Published
    family: Literal["spatial", "shift"]
    params: int
    macs: int
    latencies: Mapping[str, Latency]
    """Runtime → latency."""


def zoo(
    rows: Sequence[Published], *, runtimes: Sequence[str] = (), batch: int = 1, threads: int | None = None,
    seconds: float = 20.0, show: Show = SILENT,
) -> View:  # fmt: skip
    """Compare the published accuracy of compact networks with their params, MACs and times measured here.

    Args:
        rows: the networks (see `published_rows`).
        runtimes: eager, onnxruntime, openvino; by default all installed ones.
        batch: batch size.
        threads: CPU threads; by default as many as PyTorch uses.
        seconds: time per runtime for timing all networks.
        show: where progress is shown.

    Data: a list of `network`, `arguments`, `family`, `params`, `macs`, `published`, `note` and `latency`.
    """
    return view_of(compare(rows, runtimes=runtimes, batch=batch, threads=threads, seconds=seconds, show=show))


def compare(
    rows: Sequence[Published], *, runtimes: Sequence[str] = (), batch: int = 1, threads: int | None = None,
    seconds: float = 20.0, show: Show = SILENT,
) -> list[Compared]:  # fmt: skip
    """Count params and MACs of every network, and time all networks in each runtime; arguments as for `zoo`."""
    chosen = list(runtimes) or installed()
    absent = [name for name in chosen if name not in installed()]
    if absent:
        raise ExportError(f"runtime {absent[0]!r} is not installed: choose from {', '.join(installed())}")
    models, examples = {}, {}
    for index, row in enumerate(rows):
        show.progress(f"building {row.title}", index, len(rows))
        models[row.title] = build(row.network, **row.arguments).eval()
        examples[row.title] = torch.randn(batch, *networks[row.network].facts["input"])
    show.progress("", 1, 1)
    found = {row.title: measure(models[row.title], examples[row.title][:1]) for row in rows}
    times: dict[str, dict[str, Latency]] = {row.title: {} for row in rows}
    shapes = {tuple(example.shape): example for example in examples.values()}
    for runtime in chosen:
        show.say(f"timing {len(rows)} networks in {TITLES[runtime]}, batch {batch}")
        for shape, example in shapes.items():  # calls of networks with the same input size are interleaved
            same = [title for title in models if tuple(examples[title].shape) == shape]
            ready = {t: _in(runtime, models[t], example, threads) for t in same}
            for title, time in latency(ready, example, seconds=seconds, threads=threads).items():
                times[title][runtime] = replace(time, runtime=TITLES[runtime])
    return [
        Compared(
            row, networks[row.network].facts["family"], found[row.title].params, found[row.title].macs, times[row.title]
        )
        for row in rows
    ]


def _in(runtime: str, model: nn.Module, example: Tensor, threads: int | None) -> nn.Module:
    return model if runtime == "eager" else transfer(model, example, runtime, threads, dynamic_batch=False)


def view_of(compared: Sequence[Compared]) -> View:
    """Show a comparison: figures, measured costs, and published numbers."""
    return View(
        title="Compact networks on ImageNet",
        headline=f"{len(compared)} compact networks: published accuracy, measured cost",
        sections=(_pictures(compared), _measured(compared), _published(compared)),
        data=[_plain(one) for one in compared],
    )


def _plain(one: Compared) -> dict[str, Any]:
    published = one.published
    return {
        "network": published.network, "arguments": dict(published.arguments), "family": one.family,
        "params": one.params, "macs": one.macs,
        "published": {"params": published.params, "macs": published.macs, "top1": published.top1,
                      "source": published.source},
        "note": published.note,
        "latency": {runtime: asdict(time) for runtime, time in one.latencies.items()},
    }  # fmt: skip


def _pictures(compared: Sequence[Compared]) -> Section:
    drawn = Trade(
        runtimes=tuple(time.runtime for time in compared[0].latencies.values()),
        networks=tuple(
            CompactNetwork(
                title=one.published.title, family=one.family, macs=one.macs, top1=one.published.top1,
                milliseconds=tuple(time.median_ms for time in one.latencies.values()),
            )
            for one in compared
        ),
    )  # fmt: skip
    return Section(title="Accuracy against cost", blocks=(drawn.block(),))


def _measured(compared: Sequence[Compared]) -> Section:
    times = list(compared[0].latencies.values())
    formats: dict[str, Format] = {"network": "name", "params": "count", "MACs": "count", "top-1, %": "percent"}
    formats |= dict.fromkeys(compared[0].latencies, "milliseconds")  # short headings, to fit into 80 columns
    rows: list[tuple[Value, ...]] = [
        (one.published.title, one.params, one.macs, one.published.top1, *(t.median_ms for t in one.latencies.values()))
        for one in compared
    ]
    note = (
        "Params and MACs are counted here; top-1 is published, not measured. MACs: multiply-accumulates of "
        "convolutions and linear layers, one image; shifts have none. Runtimes: median milliseconds, calls of all "
        f"networks interleaved. {times[0].device}, {plural(times[0].threads, 'thread')}, batch {times[0].batch}."
    )
    return Section(title="Networks", blocks=(table(formats, rows), Text(text=note, tone="note")))


def _published(compared: Sequence[Compared]) -> Section:
    published = [one.published for one in compared]
    rows = [
        (row.title, one.family, row.params, row.macs or None, row.source)
        for row, one in zip(published, compared, strict=True)
    ]
    listed = table(
        {"network": "name", "family": "text", "params": "text", "MACs": "text", "source of top-1": "text"}, rows
    )
    notes = {row.note: [other.title for other in published if other.note == row.note] for row in published if row.note}
    words = tuple(Text(text=f"{', '.join(titles)}: {note}.", tone="note") for note, titles in notes.items())
    return Section(title="As published", blocks=(listed, *words))
