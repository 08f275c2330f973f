"""What the user wants: a target in the user's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slimcnn.errors import TargetError


@dataclass(frozen=True)
class Target:
    """How small the network shall become.

    Give `macs` and/or `params` (share of the original that may stay), or `ratio` (share of the channels that
    goes), or only `per_layer`.

    Args:
        macs: at most this share of the original MACs stays, in (0, 1]; 0.5 means at most half.
        params: at most this share of the original parameters stays, in (0, 1].
        ratio: share of channels removed, in [0, 1).
        per_layer: pattern (`layer1.*`, shell style, on group or layer names) → ratio for exactly these groups.
        scope: "local" removes the same share everywhere; "global" ranks all channels of the network together by their
            scores; "sensitivity" takes first what costs the output least for the MACs that it saves, as measured.
        min_channels: no group keeps fewer channels than this.  With 0, residual branches may lose all their inner
            channels and vanish; what stays of one is the constant that it adds (its last bias and shift).
        min_share: no group keeps less than this share of its channels, in [0, 1].
        round_to: kept channel counts are multiples of this (8 or 16 suit most hardware).
        residual: whether channels into which several layers add (the stream of a residual network) go too.
            "inner": never, only those inside the blocks; "cut": like all others; "auto": with macs or params, only
            where the target cannot be met without them, and then after two thirds of the channels inside the blocks are
            gone; with ratio like all others; "scatter":
            the stream keeps its width but each layer that adds into it loses channels of its own, in a network that
            `scatter` has rewritten.
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
    ratio: float | None = None
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
        for name in ("macs", "params"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise TargetError(
                    f"{name}={value}: the share of the original that may stay must be above 0 and at most 1"
                )
        for name, value in {"ratio": self.ratio, **{f"per_layer[{k!r}]": v for k, v in self.per_layer.items()}}.items():
            may_be_all = self.min_channels == 0 and value == 1
            if value is not None and not (_is_number(value) and (0 <= value < 1 or may_be_all)):
                raise TargetError(f"{name}={value}: the share of channels removed must be at least 0 and below 1")
        if self.ratio is not None and (self.macs is not None or self.params is not None):
            raise TargetError("ratio says how much goes, macs and params how much may stay: give one or the other")
        if self.ratio is None and self.macs is None and self.params is None and not self.per_layer:
            raise TargetError("no target: give macs=0.5 (half of the MACs may stay), params=, ratio= or per_layer=")
        if self.scope not in ("local", "global", "sensitivity"):
            raise TargetError(f"scope={self.scope!r}: choose 'local', 'global' or 'sensitivity'")
        if self.residual not in ("auto", "inner", "cut", "scatter"):
            raise TargetError(f"residual={self.residual!r}: choose 'auto', 'inner', 'cut' or 'scatter'")
        if not (_is_number(self.min_share) and 0 <= self.min_share <= 1):
            raise TargetError(f"min_share={self.min_share}: the share of channels that stays must be within 0 and 1")
        for name, least in (("min_channels", 0), ("round_to", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TargetError(f"{name}={value}: must be a whole number, {least} or more")

    def describe(self) -> str:
        """Say the target in one line."""
        parts = [f"{name} <= {getattr(self, name):g}" for name in ("macs", "params") if getattr(self, name) is not None]
        parts += [f"ratio = {self.ratio:g}"] if self.ratio is not None else []
        parts += [f"{pattern}: ratio = {ratio:g}" for pattern, ratio in self.per_layer.items()]
        parts += [self.scope]
        parts += [f"residual = {self.residual}"] if self.residual != "auto" else []
        parts += [f"min_share = {self.min_share:g}"] if self.min_share else []
        parts += [f"min_channels = {self.min_channels}"] if self.min_channels != 1 else []
        parts += [f"round_to = {self.round_to}"] if self.round_to > 1 else []
        parts += [f"protected: {', '.join(self.protect)}"] if self.protect else []
        return ", ".join(parts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
