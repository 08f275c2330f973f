"""What a run came to, in numbers: all that the words, the table and the headline are made from."""

from __future__ import annotations

from slimcnn.reporting.sections import Part


class Numbers(Part):
    """One network in six numbers."""

    top1: float
    """Percent, on the test images."""
    params: int
    macs: int
    """Of one image."""
    bytes: int
    """Of the checkpoint file on disk."""
    peak_memory: int
    """Bytes of the live activations of one image at their peak, float32, without the weights."""
    latency_ms: float
    """Median of one call."""


class CutVerdict(Part):
    """Whether `prune(model)` computes what `mask(model)` computes."""

    equal: bool
    error: float
    """Largest difference of any output, relative to the largest output."""
    text: str


class Conditions(Part):
    """What latency was measured with."""

    batch: int
    threads: int
    runtime: str
    device: str
    n: int
    """Calls of each network, in turns."""


class Timing(Conditions):
    """How latency was measured: interleaved runs of both networks."""

    before_ms: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""
    after_ms: tuple[float, float, float]
    ratio: float
    """Median of after / before, round by round."""

    @property
    def conditions(self) -> Conditions:
        """The conditions alone."""
        return Conditions(**{name: getattr(self, name) for name in Conditions.model_fields})


class Comparison(Part):
    """A run's result, compared with what it started from."""

    network: str
    dataset: str
    images: dict[str, int]
    """train, validation, test."""
    before: Numbers
    after: Numbers
    verdict: CutVerdict | None
    """None where nothing was cut."""
    next_steps: tuple[str, ...] = ()
    """What to do next, in sentences."""
    timing: Timing
