"""Pruning targets, in the user's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slimcnn.errors import TargetError

SHARES = ("macs", "params")
"""Quantities that a target limits relative to the original network."""

AMOUNTS = ("bytes", "memory")
"""Quantities that a target limits in bytes."""

UNEVEN = ("memory",)
"""Quantities that most removals do not reduce: only channels that are alive at the peak count."""

SIZES = (*SHARES, *AMOUNTS, "latency_ms")
"""All quantities that a target can limit. With several, scope="sensitivity" uses latency_ms if it is given, else the
first in this order."""

UNITS = ("B", "kB", "MB", "GB")


@dataclass(frozen=True)
class Target:
    """A pruning target: how small the network must become.

    Give any of `macs`, `params` (share of the original to keep), `bytes`, `memory` and `latency_ms` (absolute), which
    must all be met; or `pruning_ratio` (share of the channels to remove); or only `per_layer`.

    Args:
        macs: keep at most this share of the original MACs, in (0, 1]; 0.5 means at most half.
        params: keep at most this share of the original parameters, in (0, 1].
        bytes: maximum size of the tensors in the weights file (`measure(...).bytes`).
        memory: maximum peak of live activations in bytes, batch 1, float32 (`measure(...).peak_memory`).
        latency_ms: maximum latency of one call in milliseconds, as a `LatencyModel` predicts it for `runtime`.
        runtime: the runtime of `latency_ms`: openvino, onnxruntime, ...
        pruning_ratio: share of channels to remove, in [0, 1).
        per_layer: pattern (`layer1.*`, shell style, on names of groups, layers or modules) → pruning ratio of exactly
            these groups.
        scope: "local" removes the same share everywhere; "global" ranks all channels of the network together by their
            scores; "sensitivity" first removes the channels with the least measured output error per MAC saved.
        min_channels: every group keeps at least this many channels. With 0, residual branches may lose all their
            inner channels and vanish; only the constant that such a branch adds (its last bias and shift) remains.
        min_share: every group keeps at least this share of its channels, in [0, 1].
        round_to: kept channel counts are multiples of this (8 or 16 suit most hardware).
        residual: whether to prune channels that several layers add into (the residual stream). "inner": never, only
            channels inside the blocks; "cut": like all others; "auto": with macs, params, bytes or memory, only if
            the target cannot be met without them, and then after two thirds of the channels inside the blocks; with
            pruning_ratio, like all others; "scatter": the stream keeps its width, but each layer that adds into it
            loses channels independently, in a network rewritten by `scatter`.
        protect: patterns of groups, layers or modules that keep all their channels; a module's name includes all layers
            inside it.

    Raises:
        TargetError: a value is out of range, or targets exclude each other.

    >>> Target(macs=0.5).describe()
    'macs <= 0.5, local'
    >>> Target(macs=1.5)
    Traceback (most recent call last):
    slimcnn.errors.TargetError: macs=1.5: the share of the original to keep must be above 0 and at most 1
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
                raise TargetError(f"{name}={value}: the share of the original to keep must be above 0 and at most 1")
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
                raise TargetError(f"{name}={value}: the share of channels to remove must be at least 0 and below 1")
        if self.pruning_ratio is not None and self.sized:
            raise TargetError(
                f"pruning_ratio is the share to remove, {', '.join(SIZES)} limit what is kept; give one or the other"
            )
        if self.pruning_ratio is None and not self.sized and not self.per_layer:
            raise TargetError(
                "no target: give macs=0.5 (keep at most half of the MACs), params=, bytes=, memory=, latency_ms=, "
                "pruning_ratio= or per_layer="
            )
        if self.scope not in ("local", "global", "sensitivity"):
            raise TargetError(f"scope={self.scope!r}: choose 'local', 'global' or 'sensitivity'")
        if self.residual not in ("auto", "inner", "cut", "scatter"):
            raise TargetError(f"residual={self.residual!r}: choose 'auto', 'inner', 'cut' or 'scatter'")
        if not (_is_number(self.min_share) and 0 <= self.min_share <= 1):
            raise TargetError(f"min_share={self.min_share}: the share of channels to keep must be within 0 and 1")
        for name, least in (("min_channels", 0), ("round_to", 1)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise TargetError(f"{name}={value}: must be a whole number, {least} or more")
            if value >= 2**31:
                raise TargetError(f"{name}={value}: no layer has so many channels; give a number below 2**31")

    @property
    def sized(self) -> tuple[str, ...]:
        """Names of the limited quantities, from `SIZES`."""
        return tuple(name for name in SIZES if getattr(self, name) is not None)

    def describe(self) -> str:
        """Describe the target in one line."""
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
    """Format a quantity in its unit; bytes are rounded up, so that a target with the formatted value can be met.

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
