"""What the user wants: a target in the user's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slimcnn.errors import TargetError

SHARES = ("macs", "params")
"""What a target bounds relative to the network that is cut."""

AMOUNTS = ("bytes", "memory")
"""What a target bounds in bytes."""

UNEVEN = ("memory",)
"""What most removals do not lower: only the channels that are alive at the peak count."""

SIZES = (*SHARES, *AMOUNTS, "latency_ms")
"""What a target may bound, in the order in which the sensitivity of several is asked: the first that is given; but
milliseconds decide wherever they are given."""

UNITS = ("B", "kB", "MB", "GB")


@dataclass(frozen=True)
class Target:
    """How small the network shall become.

    Give any of `macs`, `params` (share of the original that may stay), `bytes`, `memory` and `latency_ms` (absolute),
    which then all hold together, or `pruning_ratio` (share of the channels that goes), or only `per_layer`.

    Args:
        macs: at most this share of the original MACs stays, in (0, 1]; 0.5 means at most half.
        params: at most this share of the original parameters stays, in (0, 1].
        bytes: the tensors of the weights file have at most this many bytes (`measure(...).bytes`).
        memory: live activations have at most this many bytes at their peak, batch 1, float32
            (`measure(...).peak_memory`).
        latency_ms: one call takes at most so many milliseconds, as a `LatencyModel` predicts it for `runtime`.
        runtime: what runs the network: openvino, onnxruntime, ...
        pruning_ratio: share of channels removed, in [0, 1).
        per_layer: pattern (`layer1.*`, shell style, on group or layer names) → ratio for exactly these groups.
        scope: "local" removes the same share everywhere; "global" ranks all channels of the network together by their
            scores; "sensitivity" takes first what costs the output least for the MACs that it saves, as measured.
        min_channels: no group keeps fewer channels than this. With 0, residual branches may lose all their inner
            channels and vanish; what stays of one is the constant that it adds (its last bias and shift).
        min_share: no group keeps less than this share of its channels, in [0, 1].
        round_to: kept channel counts are multiples of this (8 or 16 suit most hardware).
        residual: whether channels into which several layers add (the stream of a residual network) go too.
            "inner": never, only those inside the blocks; "cut": like all others; "auto": with macs, params, bytes or
            memory, only where the target cannot be met without them, and then after two thirds of the channels inside
            the blocks are gone; with pruning_ratio like all others; "scatter": the stream keeps its width but each
            layer that adds into it loses channels of its own, in a network that `scatter` has rewritten.
        protect: patterns of groups or layers that keep all their channels.

    Raises:
        TargetError: a value outside its range, or targets that exclude each other.

    >>> Target(macs=0.5).describe()
    'macs <= 0.5, local'
    >>> Target(macs=1.5)
    Traceback (most recent call last):
    slimcnn.errors.TargetError: macs=1.5: the share of the original that may stay must be above 0 and at most 1
    """

    macs: float | None = None
    params: float | None = None
    bytes: int | None = None
    memory: int | None = None
    latency_ms: float | None = None
    runtime: str = ""
    pruning_ratio: float | None = None
    per_layer: Mapping[str, float] = field(default_factory=dict)
    scope: Literal["local", "global", "sensitivity"] = "local"
    min_channels: int = 1
    min_share: float = 0.0
    round_to: int = 1
    residual: Literal["auto", "inner", "cut", "scatter"] = "auto"
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "protect", (self.protect,) if isinstance(self.protect, str) else tuple(self.protect))
        if not isinstance(self.per_layer, Mapping):
            raise TargetError(f"per_layer={self.per_layer!r}: give patterns and ratios, like {{'layer1.*': 0.3}}")
        for name in SHARES:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise TargetError(
                    f"{name}={value}: the share of the original that may stay must be above 0 and at most 1"
                )
        for name in AMOUNTS:
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value > 0):
                raise TargetError(f"{name}={value!r}: give a whole number of bytes, 1 or more")
        if self.latency_ms is not None and not (_is_number(self.latency_ms) and 0 < self.latency_ms < float("inf")):
            raise TargetError(f"latency_ms={self.latency_ms!r}: give milliseconds above 0")
        for name, value in {
            "pruning_ratio": self.pruning_ratio,
            **{f"per_layer[{k!r}]": v for k, v in self.per_layer.items()},
        }.items():
            may_be_all = self.min_channels == 0 and value == 1
            if value is not None and not (_is_number(value) and (0 <= value < 1 or may_be_all)):
                raise TargetError(f"{name}={value}: the share of channels removed must be at least 0 and below 1")
        if self.pruning_ratio is not None and self.sized:
            raise TargetError(
                f"pruning_ratio is how much goes, {' and '.join(SIZES)} how much may stay; give one or the other"
            )
        if self.pruning_ratio is None and not self.sized and not self.per_layer:
            raise TargetError(
                "no target: give macs=0.5 (half of the MACs may stay), params=, bytes=, memory=,"
                " latency_ms=, pruning_ratio= or per_layer="
            )
        if self.scope not in ("local", "global", "sensitivity"):
            raise TargetError(f"scope={self.scope!r}: choose 'local', 'global' or 'sensitivity'")
        if self.residual not in ("auto", "inner", "cut", "scatter"):
            raise TargetError(f"residual={self.residual!r}: choose 'auto', 'inner', 'cut' or 'scatter'")
        if not (_is_number(self.min_share) and 0 <= self.min_share <= 1):
            raise TargetError(f"min_share={self.min_share}: the share of channels that stays must be within 0 and 1")
        for name, least in (("min_channels", 0), ("round_to", 1)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise TargetError(f"{name}={value}: must be a whole number, {least} or more")

    @property
    def sized(self) -> tuple[str, ...]:
        """The quantities that may be at most so large: names out of `SIZES`."""
        return tuple(name for name in SIZES if getattr(self, name) is not None)

    def describe(self) -> str:
        """Say the target in one line."""
        parts = [f"{name} <= {written(name, getattr(self, name))}" for name in self.sized]
        parts[-1:] = [f"{parts[-1]} in {self.runtime}"] if self.latency_ms is not None and self.runtime else parts[-1:]
        parts += [f"pruning_ratio = {self.pruning_ratio:g}"] if self.pruning_ratio is not None else []
        parts += [f"{pattern}: pruning_ratio = {ratio:g}" for pattern, ratio in self.per_layer.items()]
        parts += [self.scope]
        parts += [f"residual = {self.residual}"] if self.residual != "auto" else []
        parts += [f"min_share = {self.min_share:g}"] if self.min_share else []
        parts += [f"min_channels = {self.min_channels}"] if self.min_channels != 1 else []
        parts += [f"round_to = {self.round_to}"] if self.round_to > 1 else []
        parts += [f"protected: {', '.join(self.protect)}"] if self.protect else []
        return ", ".join(parts)


def written(name: str, value: float) -> str:
    """Write a value of a target's quantity in its unit; bytes are rounded up, so that what is written can be reached.

    >>> written("macs", 0.5), written("memory", 147456), written("bytes", 300)
    ('0.5', '147.5 kB', '300 B')
    """
    if name not in AMOUNTS:
        return f"{value:.4g}"
    digits = len(str(int(value)))
    step = 10 ** max(digits - 4, 0)
    power = min((digits - 1) // 3, len(UNITS) - 1)
    return f"{-(-int(value) // step) * step / 1000**power:.10g} {UNITS[power]}"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
