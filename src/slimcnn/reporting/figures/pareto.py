"""The trials of a search: accuracy against MACs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 360, 220


class Trial(Part):
    """One configuration that a search evaluated."""

    point: dict[str, int | float | str]
    macs: float
    """Share of the MACs that remains."""
    metric: float | None = Field(validation_alias=AliasChoices("metric", "top1"))
    """The metric on the validation images, in its unit; None if the evaluation was stopped."""


@figures.add("pareto", source="slimcnn")
class Pareto(Drawing):
    """The trials of a search: accuracy against MACs.

    Shows the trials that were evaluated on all images, the best trial, and the minimum accuracy.
    """

    layout: ClassVar[str] = "columns"

    tried: tuple[Trial, ...]
    best: Trial
    base: float
    """The metric of the original network on the validation images, in its unit."""
    drop: float
    """How much of the metric the best trial may lose, in points or in its unit."""
    metric: MetricName = MetricName()

    @model_serializer(mode="wrap")
    def _without_the_usual_metric(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave top-1 out: figures of earlier versions have no metric."""
        found: dict[str, Any] = plain(self)
        return {name: value for name, value in found.items() if name != "metric" or self.metric != MetricName()}

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel."""
        return [_panel(self, name)]


def _panel(search: Pareto, name: str) -> Panel:
    points = [(one.macs, one.metric) for one in search.tried if one.metric is not None]
    metric = search.metric
    least = search.base + (-search.drop if metric.higher_is_better else search.drop)
    unit = ("point" if search.drop == 1 else "points") if metric.unit == "%" else metric.unit
    bound = f"{f'{search.drop:g} {unit}'.rstrip()} {'less' if metric.higher_is_better else 'more'}"

    def draw(axes: Axes) -> None:
        axes.axhline(search.base, color=INK, linewidth=1, dashes=(2, 2), label="original")
        axes.axhline(least, color=RULE, linewidth=1.5, label=bound)
        axes.plot([macs for macs, _ in points], [value for _, value in points], "o", color=BEFORE, ms=3, alpha=0.6)
        axes.plot([search.best.macs], [search.best.metric or 0], "o", color=AFTER, ms=7, label="chosen")
        axes.set_xlim(0, 1)
        axes.set_xlabel("remaining share of the MACs", color=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", handlelength=1.4)

    stopped = len(search.tried) - len(points)
    note = f"{formatting.plural(len(points), 'trial')} evaluated, {stopped} stopped early because they could not win"
    label = (
        f"Validation {metric.name} against the remaining share of the MACs, {len(points)} points; chosen: "
        f"{search.best.macs:.3f} of the MACs, {metric.written(search.best.metric or 0)}"
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=(36, 6, 8, 34))
    return Panel(f"{formatting.capital(metric.title)}, on validation images", note + metric.direction, svg)
