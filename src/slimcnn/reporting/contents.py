"""What a report holds, as data: report.json is exactly this, and report.html shows it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
"""Grows when a field changes its meaning; an older slimcnn refuses newer reports."""


class Part(BaseModel):
    """A part of a report: read-only, nothing unknown in it."""

    # A number that is not finite is written as "NaN" or "Infinity": bare, it is no JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Numbers(Part):
    """One network in five numbers."""

    top1: float
    """Percent, on the test images."""
    params: int
    macs: int
    """Of one image."""
    bytes: int
    """Of the checkpoint file on disk."""
    latency_ms: float
    """Median of one call."""


class Stage(Part):
    """How good the network was after a step of the run, on the validation images."""

    name: str
    """"original", "cut", "constants folded", "recalibrated", "re-solved", "re-solved without images",
    "fine-tuned", "distilled", "rewritten", "teacher", "student before", "student"."""
    top1: float
    seconds: float


class Law(Part):
    """The outcome of prune == mask."""

    equal: bool
    error: float
    text: str


class LockedChannels(Part):
    """Output channels of a layer that had to stay, and why."""

    layer: str
    channels: int
    of: int
    reason: str
    where: str


class Group(Part):
    """A channel group: its width before and after."""

    name: str
    channels: int
    kept: int
    layers: tuple[str, ...]


class LayerChange(Part):
    """One layer before and after; shapes are of outputs, without the batch."""

    name: str
    kind: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int


class Norms(Part):
    """Filter norms of one layer: all of the original's, and those that were kept."""

    layer: str
    original: tuple[float, ...]
    kept: tuple[float, ...]
    ks: float
    """Kolmogorov-Smirnov distance between the two distributions, 0 to 1."""


class Curve(Part):
    """One epoch of recovery training."""

    epoch: int
    loss: float
    terms: dict[str, float]
    gradients: dict[str, float] = Field(default_factory=dict)
    """Of every term, the L1 norm of its gradient with respect to an image's logits, mean over the epoch."""
    train_top1: float
    validation_top1: float
    learning_rate: float
    seconds: float


class Scales(Part):
    """Batch-norm scales of one layer's channels, and how these relate to the others of the layer."""

    layer: str
    gamma: tuple[float, ...]
    """Absolute values."""
    sr: tuple[float, ...]
    """Between 0 and 1; empty without relations."""
    kept: tuple[bool, ...]


class Tried(Part):
    """One point of a search."""

    point: dict[str, int | float | str]
    macs: float
    """Share of the MACs that stays."""
    top1: float | None
    """On the validation images; None where the evaluation was stopped."""


class Searched(Part):
    """A search: the smallest network that loses at most so much."""

    tried: tuple[Tried, ...]
    best: Tried
    base: float
    """Top-1 of the network before, on the validation images."""
    drop: float


class Rewrite(Part):
    """What a rewrite did to one layer."""

    layer: str
    what: str
    """Empty where nothing was done ..."""
    why_left: str
    """... for this reason."""


class ReuseUnit(Part):
    """A unit of feature reuse: what its convolutions read and make, and what is joined to the last."""

    place: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    reused: str
    """"input", "first" or "half"."""
    dense: bool
    residual: str
    """"sum", "joined" or empty."""


class Closeness(Part):
    """How close two networks find classes: entry (i, j) is the mean of log(q_j / q_i) over images of class i."""

    classes: tuple[str, ...]
    teacher: tuple[tuple[float, ...], ...]
    student: tuple[tuple[float, ...], ...]
    temperature: float
    """Of the softmax q."""
    images: int


class Timing(Part):
    """How latency was measured: interleaved runs of both networks."""

    batch: int
    threads: int
    runtime: str
    device: str
    n: int
    before_ms: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""
    after_ms: tuple[float, float, float]
    ratio: float
    """Median of after / before, round by round."""


class Report(Part):
    """One compression run, with everything that is needed to judge and to repeat it."""

    format: int = FORMAT
    title: str
    command: str
    """What to type to run it again."""
    network: str
    dataset: str
    images: dict[str, int]
    """train, validation, test."""
    normalisation: str
    """Which one, and how it was found."""
    criterion: str = ""
    """Empty where nothing was pruned."""
    target: str
    """Of a rewritten network, the rewrite; of a student, what it was taught by."""
    recovery: str
    before: Numbers
    after: Numbers
    stages: tuple[Stage, ...]
    verdict: Law | None
    """None of a network that was rewritten or distilled: it computes something else."""
    locked: tuple[LockedChannels, ...] = ()
    groups: tuple[Group, ...] = ()
    layers: tuple[LayerChange, ...]
    norms: tuple[Norms, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    units: tuple[ReuseUnit, ...] = ()
    closeness: Closeness | None = None
    curves: tuple[Curve, ...]
    sparse: tuple[Curve, ...] = ()
    """The epochs of sparse training."""
    scales: tuple[Scales, ...] = ()
    search: Searched | None = None
    timing: Timing
    not_counted: tuple[str, ...]
    """Operations that take time and count 0 MACs."""
    notes: tuple[str, ...] = ()
    environment: dict[str, str]
    recipe: str
    """The resolved recipe, as TOML."""
    checkpoint: str
    """File name of the compressed network."""
    seconds: float = Field(ge=0)
    """The whole run, without interruptions."""
