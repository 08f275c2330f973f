"""The plan: the channels to remove, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slimcnn.errors import PlanError
from slimcnn.files import read_text, write_text
from slimcnn.graph import ChannelGraph, ChannelGroup
from slimcnn.graph.removal import Removed
from slimcnn.notebook import html_table

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A plan: the channels to remove from every group, with the criterion and target that selected them.

    `removed` maps a group's name to its removed channels, ascending; groups that keep all channels are left out.
    `network` is the fingerprint of the graph that the plan was made for. `to_json` writes the same data as text, one
    line per group, so that plans can be compared line by line and edited by hand.
    """

    network: str
    removed: Mapping[str, tuple[int, ...]]
    criterion: str = ""
    target: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        ordered = {name: tuple(sorted({int(c) for c in channels})) for name, channels in self.removed.items()}
        object.__setattr__(self, "removed", {name: channels for name, channels in ordered.items() if channels})
        object.__setattr__(self, "notes", tuple(self.notes))

    def __repr__(self) -> str:
        made = "".join(f", {name} {text!r}" for name in ("criterion", "target") if (text := getattr(self, name)))
        gone = sum(map(len, self.removed.values()))
        return f"Plan(removes {gone:,} channels of {len(self.removed)} groups{made}, network {self.network})"

    def _repr_html_(self) -> str:
        """Return a table of the removed channels for a notebook."""
        rows = [(name, len(channels), _brief(channels)) for name, channels in self.removed.items()]
        return html_table(repr(self), ["group", "removed", "channels"], rows)

    def to_json(self, graph: ChannelGraph) -> str:
        """Return the plan as JSON, one line per group, unchanged groups included."""
        rows = [
            {"group": g.name, "channels": g.channels, "removed": list(self.removed.get(g.name, ()))}
            for g in graph.groups
        ]
        head = {"slimcnn_plan": FORMAT, "network": self.network, "criterion": self.criterion, "target": self.target}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        lines += ['  "notes": ' + json.dumps(list(self.notes)) + ","]
        body = ",\n".join(f"    {json.dumps(row)}" for row in rows)
        return "{\n" + "\n".join(lines) + '\n  "groups": [\n' + body + "\n  ]\n}\n"

    @classmethod
    def from_json(cls, text: str, graph: ChannelGraph) -> Plan:
        """Read a plan and check that it belongs to this graph.

        Raises:
            PlanError: the text is not a plan, or the plan is for another network or names unknown groups or channels.
        """
        try:
            data = json.loads(text)
            if data["slimcnn_plan"] != FORMAT:
                raise PlanError(f"the plan has format {data['slimcnn_plan']!r}; this version reads format {FORMAT}")
            rows = [(str(row["group"]), _channels(row["removed"])) for row in _list(data["groups"])]
            plan = cls(
                network=str(data["network"]),
                removed=dict(rows),
                criterion=str(data.get("criterion", "")),
                target=str(data.get("target", "")),
                notes=tuple(map(str, data.get("notes", ()))),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise PlanError(f"this is not a plan ({reason}); write one with slimcnn compress --dry-run") from error
        twice = next((name for i, (name, _) in enumerate(rows) if name in dict(rows[:i])), None)
        if twice is not None:
            raise PlanError(f"the plan lists {twice!r} twice; delete one of the lines")
        check(plan, graph)
        return plan

    def save(self, path: Path, graph: ChannelGraph) -> None:
        """Write the plan to a file."""
        write_text(path, self.to_json(graph))

    @classmethod
    def load(cls, path: Path, graph: ChannelGraph) -> Plan:
        """Read a plan from a file (see `from_json`)."""
        return cls.from_json(read_text(Path(path), PlanError, "plan"), graph)

    def counts(self, graph: ChannelGraph) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Count the removed channels of every group, in the graph's order."""
        return np.array([len(self.removed.get(g.name, ())) for g in graph.groups], dtype=np.int64)

    def by_index(self, graph: ChannelGraph) -> Removed:
        """Return the removed channels by group index."""
        return {graph.index(name): np.array(channels, dtype=np.int64) for name, channels in self.removed.items()}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.50} is not a list")
    return value


def _channels(value: Any) -> tuple[int, ...]:
    found = tuple(map(_channel, _list(value)))
    twice = next((channel for i, channel in enumerate(found) if channel in found[:i]), None)
    if twice is not None:
        raise ValueError(f"it lists channel {twice} twice in {value!r:.50}")
    return found


def _channel(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a channel number")
    return value


def check(plan: Plan, graph: ChannelGraph) -> None:
    """Raise `PlanError` if a plan does not fit this network."""
    names = {group.name for group in graph.groups}
    unknown = sorted(set(plan.removed) - names)
    if plan.network != graph.fingerprint:
        differ = f"; it names the group {unknown[0]!r}, which this network does not have" if unknown else ""
        raise PlanError(
            f"the plan was made for another network (fingerprint {plan.network}, this one is {graph.fingerprint})"
            f"{differ}; make a plan for this network"
        )
    if unknown:
        raise PlanError(f"the plan removes channels of {unknown[0]!r}, which is not a group of this network")
    for name, channels in plan.removed.items():
        group = graph[name]
        outside = [c for c in channels if not 0 <= c < group.channels]
        if outside:
            raise PlanError(
                f"the plan removes channel {outside[0]} of {name!r}, which has channels 0 to {group.channels - 1}"
            )
        left = group.channels - len(channels)
        if left < group.least and not (left == 0 and group.branch):
            raise PlanError(
                f"the plan leaves {left} of {group.channels} channels of {name!r}; at least {group.least} must stay"
            )
    for bundle in graph.bundles:
        _check_bundle(plan, [graph.groups[i] for i in bundle])


def _check_bundle(plan: Plan, groups: Sequence[ChannelGroup]) -> None:
    if len(groups) == 1 and len(groups[0].parts) == 1:
        return
    removed: dict[tuple[str, tuple[int, ...]], int] = {}
    for group in groups:
        gone = np.zeros(group.channels, dtype=np.bool_)
        gone[list(plan.removed.get(group.name, ()))] = True
        removed |= {(group.name, tuple(part.tolist())): int(gone[part].sum()) for part in group.parts}
    (one, most), (other, least) = (extreme(removed.items(), key=lambda item: item[1]) for extreme in (max, min))
    if most != least:
        raise PlanError(
            f"the plan removes {most} of the channels {_brief(one[1])} of {one[0]!r} but {least} of {_brief(other[1])} "
            f"of {other[0]!r}; the network's code splits the channels there, so remove equally many of each part"
        )


def _brief(channels: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, channels[:4]))
    return f"{shown} ..." if len(channels) > 4 else shown
