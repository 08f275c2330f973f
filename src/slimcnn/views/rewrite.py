"""Show the changes of a rewrite layer by layer, and the costs before and after."""

from __future__ import annotations

from dataclasses import asdict

from slimcnn.measuring import Measurement
from slimcnn.reporting.sections import Section
from slimcnn.rewriting import Rewritten
from slimcnn.views.view import View, costs, table


def rewrite(found: Rewritten, before: Measurement, after: Measurement) -> View:
    """Show each layer that a rewrite considered, its change or why it is unchanged, and both networks' costs.

    Data: `changes` (`layer`, `what`, `why_left`), `macs` and `params` (each `before` and `after`).
    """
    changed = sum(bool(change.what) for change in found.changes)
    rows = [(change.layer, change.what, change.why_left) for change in found.changes]
    old, new = ({"macs": one.macs, "params": one.params} for one in (before, after))
    return View(
        title="Rewrite",
        headline=f"{changed} of {len(found.changes)} layers replaced; "
        f"{new['params'] / max(old['params'], 1):.1%} of the parameters remain",
        sections=(
            Section(
                title="Layers", blocks=(table({"layer": "name", "change": "text", "why unchanged": "text"}, rows),)
            ),
            Section(title="Costs", blocks=(costs(old, new),)),
        ),
        data={"changes": [asdict(change) for change in found.changes]}
        | {name: {"before": old[name], "after": new[name]} for name in old},
    )
