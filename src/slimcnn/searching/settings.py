"""Settings of a search, and the points that it evaluates."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SettingValue = int | float | str
Point = dict[str, SettingValue]
"""The size, `macs` or `pruning_ratio`, and the options of the criterion by name."""

MACS, RATIO = "macs", "pruning_ratio"
"""The key of a point's size; all other keys are options of the criterion."""

SHARES = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""The sizes to try, unless others are given."""


def _shares(given: tuple[float, ...]) -> tuple[float, ...]:
    if not given or not all(0 < share < 1 for share in given):
        raise ValueError("give one or more shares, each above 0 and below 1")
    return tuple(sorted({round(share, 4) for share in given}))


class Search(BaseModel):
    """Search for the smallest network that loses at most `max_drop` of the validation metric without training.

    >>> settings = Search(macs=(0.4, 0.8), options={"a": (0.5, 1)})
    >>> settings.grid()
    [{'macs': 0.4, 'a': 0.5}, {'macs': 0.4, 'a': 1}, {'macs': 0.8, 'a': 0.5}, {'macs': 0.8, 'a': 1}]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: float = Field(default=0.5, ge=0)
    """Largest loss on the validation images: percentage points of top-1, or units of the metric of another task."""
    macs: Annotated[tuple[float, ...], AfterValidator(_shares)] | None = None
    """Shares of the MACs to keep; default, unless pruning_ratios are given: 0.05, 0.1 ... 0.95."""
    pruning_ratios: Annotated[tuple[float, ...], AfterValidator(_shares)] | None = None
    """Shares of the channels to remove, in place of shares of the MACs."""
    options: dict[str, tuple[SettingValue, ...]] = Field(default_factory=dict)
    """Options of the criterion and the values to try, such as {"a": (0.25, 0.5, 0.75, 1)}."""
    refine: float = Field(default=0.01, ge=0, lt=1)
    """Step of the second, finer grid of sizes around the best point of the first; 0: no second grid."""
    recover: tuple[str, ...] = ()
    """Names of steps that recover accuracy at every point before its evaluation, such as fold_constants."""
    sampler: Literal["grid", "tpe"] = "grid"
    """grid: every point; tpe: Optuna's tree-structured Parzen estimator chooses `trials` points in the same ranges."""
    trials: int = Field(default=60, ge=1)
    """Number of points for `tpe`."""
    complete: bool = False
    """Evaluate every point on all images, even if it cannot win, for the figure."""
    storage: str | None = None
    """Optuna storage URL that several processes share; default: a journal file in the run's folder."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_kind_of_size(self) -> Search:
        if self.macs is not None and self.pruning_ratios is not None:
            raise ValueError("a search varies macs or pruning_ratios, not both: leave one out")
        return self

    @property
    def varied(self) -> str:
        """The key of a point's size: "macs", or "pruning_ratio"."""
        return MACS if self.pruning_ratios is None else RATIO

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes to try, ascending."""
        return self.pruning_ratios or self.macs or SHARES

    @property
    def mildest(self) -> float:
        """The size that removes least."""
        return max(self.sizes) if self.varied == MACS else min(self.sizes)

    def grid(self) -> list[Point]:
        """List the points of the first grid."""
        names = (self.varied, *self.options)
        return [dict(zip(names, values, strict=True)) for values in product(self.sizes, *self.options.values())]

    def around(self, best: Point) -> list[Point]:
        """List the points of the finer grid: between the neighbors of the best size."""
        if not self.refine:
            return []
        center = float(best[self.varied])
        low = max((size for size in self.sizes if size < center), default=0.0)
        high = min((size for size in self.sizes if size > center), default=min(2 * center - low, 1.0))
        steps = range(-int(1 / self.refine), int(1 / self.refine) + 1)
        finer = [round(center + step * self.refine, 4) for step in steps]
        return [best | {self.varied: size} for size in finer if low < size < high and size != center]


def spec_of(criterion: str, point: Point) -> str:
    """Return the name of a criterion with the options of a point.

    >>> spec_of("gfr", {"pruning_ratio": 0.3, "a": 0.25}), spec_of("fpdf:norm=1", {"pruning_ratio": 0.3})
    ('gfr:a=0.25', 'fpdf:norm=1')
    """
    given = [f"{name}={value}" for name, value in point.items() if name not in (MACS, RATIO)]
    return ("," if ":" in criterion else ":").join(filter(None, [criterion, ",".join(given)]))


def describe(point: Point) -> str:
    """Format a point as text.

    >>> describe({"pruning_ratio": 0.3, "a": 0.25})
    'pruning ratio 0.3, a 0.25'
    """
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in point.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
