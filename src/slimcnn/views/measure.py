"""Show the costs of a network: parameters, MACs, bytes, running memory and latency."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from slimcnn.measuring import Latency, Measurement, latency
from slimcnn.measuring import measure as count
from slimcnn.reporting.sections import Section, Text
from slimcnn.views.view import View, table


def measure(model: nn.Module, example: Any, *, layers: bool = False, seconds: float = 4.0) -> View:
    """Count parameters, MACs, bytes and running memory of a network, and time it on `example`.

    Args:
        model: the network; not changed.
        example: one input batch, or a tuple or dict of inputs.
        layers: also show every layer.
        seconds: duration of the timing.

    Data: the fields of `slimcnn.measure` (`layers` only if requested) and those of `slimcnn.latency` as `latency`.

    Raises:
        ModelError: the network does not accept the example.
    """
    found = count(model, example)
    timed = latency({"network": model}, example, seconds=seconds)["network"]
    data = asdict(found) | {"latency": asdict(timed)}
    if not layers:
        del data["layers"]
    every = (_layers(found),) if layers else ()
    return View(
        title="Costs",
        headline=f"{found.params:,} parameters, {found.macs:,} MACs, {timed.median_ms:.2f} ms",
        sections=(*every, _counts(found), _time(timed)),
        data=data,
    )


def _counts(found: Measurement) -> Section:
    counts = table(
        {
            "params": "exact",
            "MACs, one image": "exact",
            "bytes of weights": "exact",
            "running memory": "exact",
            "in int8": "exact",
        },
        [(found.params, found.macs, found.bytes, found.peak_memory, found.peak_memory_int8)],
    )
    memory = Text(text="Running memory: peak bytes of the live activations, one image, float32.", tone="note")
    ignored = Text(text=f"Counted as 0 MACs: {', '.join(found.not_counted)}.", tone="note")
    return Section(title="Counts", blocks=(counts, memory, ignored) if found.not_counted else (counts, memory))


def _time(timed: Latency) -> Section:
    times = table(
        {"median, ms": "milliseconds", "lower quartile": "milliseconds", "upper quartile": "milliseconds",
         "batch": "exact", "threads": "exact", "calls": "exact"},
        [(timed.median_ms, timed.lower_ms, timed.upper_ms, timed.batch, timed.threads, timed.n)],
    )  # fmt: skip
    return Section(title="Latency", blocks=(times, Text(text=f"{timed.runtime}, {timed.device}.", tone="note")))


def _layers(found: Measurement) -> Section:
    rows = [(one.name, one.kind, (one.output or ())[1:] or None, one.params, one.macs) for one in found.layers]
    columns = table({"layer": "name", "type": "text", "output": "shape", "params": "exact", "MACs": "exact"}, rows)
    return Section(title="Layers", blocks=(columns,))
