"""Compact networks side by side: what papers say of them, and what they cost on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from slimcnn.errors import UnknownName
from slimcnn.measuring import Latency, latency, measure
from slimcnn.measuring.runtimes import RUNTIMES, installed, onnx_of, open_in, refuse_absent
from slimcnn.models import build, networks
from slimcnn.models.published import PUBLISHED, SURVEYED, Published
from slimcnn.start import SILENT, Show


@dataclass(frozen=True)
class Compared:
    """One network of the comparison."""

    published: Published
    family: str
    """"spatial" or "shift"."""
    params: int
    macs: int
    latencies: Mapping[str, Latency]
    """Runtime → time."""


def rows_of(names: Sequence[str] = (), everything: bool = False) -> list[Published]:
    """Choose rows of `PUBLISHED`: networks by name, all, or by default the survey's.

    Raises `UnknownName` for a network about which nothing is published here.

    >>> [row.title for row in rows_of(["shiftnet_b", "igcv3"])]
    ['igcv3', 'shiftnet_b']
    """
    known = {row.network for row in PUBLISHED}
    for name in names:
        if name not in known:
            raise UnknownName("compact network", name, sorted(known))
    chosen = known if everything else set(names or SURVEYED)
    return [row for row in PUBLISHED if row.network in chosen]


def compare(
    rows: Sequence[Published], *, runtimes: Sequence[str] = (), batch: int = 1, threads: int | None = None,
    seconds: float = 20.0, show: Show = SILENT,
) -> list[Compared]:  # fmt: skip
    """Count every network, and time all in turns in each runtime (by default, all that are installed).

    `seconds` is for a runtime, all networks together; `batch` and `threads` are those of the timing.
    """
    chosen = list(runtimes) or installed()
    for runtime in chosen:
        refuse_absent(runtime)
    models, examples, exported = {}, {}, {}
    for index, row in enumerate(rows):
        show.progress(f"building {row.title}", index, len(rows))
        models[row.title] = build(row.network, **row.arguments).eval()
        examples[row.title] = torch.randn(batch, *networks[row.network].facts["input"])
        if chosen != ["eager"]:
            exported[row.title] = onnx_of(models[row.title], examples[row.title])
    show.progress("", 1, 1)
    found = {row.title: measure(models[row.title], examples[row.title][:1]) for row in rows}
    times: dict[str, dict[str, Latency]] = {row.title: {} for row in rows}
    shapes = {tuple(example.shape): example for example in examples.values()}
    for runtime in chosen:
        show.say(f"timing {len(rows)} networks in {RUNTIMES[runtime]}, batch {batch}")
        for shape, example in shapes.items():  # networks of one input size are timed in turns
            same = [title for title in models if tuple(examples[title].shape) == shape]
            ready = {t: models[t] if runtime == "eager" else open_in(runtime, exported[t], threads) for t in same}
            for title, time in latency(ready, example, seconds=seconds, threads=threads).items():
                times[title][runtime] = replace(time, runtime=RUNTIMES[runtime])
    return [
        Compared(
            row, networks[row.network].facts["family"], found[row.title].params, found[row.title].macs, times[row.title]
        )
        for row in rows
    ]
