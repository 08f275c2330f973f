"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from slimcnn.reporting import figures, phrases
from slimcnn.reporting.comparison import closest_pairs, headline, rows
from slimcnn.reporting.contents import LockedChannels, Report

if TYPE_CHECKING:
    from jinja2 import Template

UNFOLDED = 12
"""Rows of a table of locked channels that need no folding."""


def render(report: Report) -> str:
    """One self-contained HTML page: style and pictures inside, no script, no reference to anything outside.

    The same report gives the same bytes.  Everything in it is escaped.
    """
    return template("page.html").render(
        report=report,
        title=report.title,
        headline=headline(report),
        rows=rows(report.before, report.after),
        locked=_by_reason(report.locked),
        unfolded=UNFOLDED,
        parts=_parts(report),
        total_seconds=phrases.duration(report.seconds),
        **_pictures(report),
    )


def _pictures(report: Report) -> dict[str, Any]:
    with figures.house_style():
        return {
            "stage_picture": figures.stages(report.stages),
            "width_pictures": figures.widths(report.groups) if report.groups else [],
            "closeness_panels": figures.closeness(report.closeness) if report.closeness else [],
            "pairs": closest_pairs(report.closeness) if report.closeness else [],
            "unit_panels": figures.units(report.units) if report.units else [],
            "norm_panels": figures.norms(report.norms),
            "scale_panels": figures.scales(report.scales, report.criterion) if report.scales else [],
            "front": figures.front(report.search) if report.search else None,
            "sparse_panels": figures.curves(report.sparse, None, "sparse-") if report.sparse else [],
            "curve_panels": figures.curves(report.curves, _original_level(report)) if report.curves else [],
        }


def _parts(report: Report) -> list[tuple[str, str]]:
    """What the page has, as (id, name), for its table of contents."""
    cut = [("law", "exactness")], [("widths", "widths"), ("norms", "filter norms")], [("locked", "locked")]
    other = [("rewritten", "what was rewritten")] if report.rewrites else []
    other += [("closeness", "closeness of classes")] if report.closeness else []
    first, second, third = cut if report.verdict is not None else (other, [], [])
    rest = [("layers", "layers"), ("timing", "measuring"), ("repeat", "repeating"), ("glossary", "glossary")]
    return [*first, ("stages", "steps"), *second, ("curves", "recovery"), *third, *rest]


def _original_level(report: Report) -> float | None:
    """What the network reached on the validation images before anything was done to it."""
    levels = [stage.top1 for stage in report.stages if stage.name == "original" and math.isfinite(stage.top1)]
    return levels[0] if levels else None


def _by_reason(locked: Sequence[LockedChannels]) -> list[tuple[str, int, list[LockedChannels]]]:
    """(reason, channels, layers), most channels first."""
    found: dict[str, list[LockedChannels]] = defaultdict(list)
    for layer in locked:
        found[layer.reason].append(layer)
    sums = [(reason, sum(layer.channels for layer in layers), layers) for reason, layers in found.items()]
    return sorted(sums, key=lambda entry: (-entry[1], entry[0]))


@cache
def template(name: str) -> Template:
    """Load one of the templates, with the phrases that it may use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slimcnn.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for say in (
        phrases.distance,
        phrases.whole,
        phrases.percent,
        phrases.milliseconds,
        phrases.small,
        phrases.duration,
        phrases.shape,
        phrases.plural,
        phrases.points,
        phrases.ratio,
    ):
        environment.globals[say.__name__] = say
    return environment.get_template(name)
