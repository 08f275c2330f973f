"""Criteria, the evidence that they use, and the channel scores that they compute."""

from __future__ import annotations

import cmath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.errors import CriterionError, SlimcnnError, WeightsError
from slimcnn.graph import Axis, ChannelGraph, ChannelGroup
from slimcnn.graph.channels import layer_of
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import first_line, outputs_of
from slimcnn.graph.fast.module_tree import named_tensors
from slimcnn.notebook import html_table
from slimcnn.pruning.input_statistics import Reading, not_followed, readings_of
from slimcnn.registry import Registry

Batches = Iterable[tuple[Tensor, Tensor]]

CHUNK = 2**21
"""Values that are copied to float64 at once."""


@dataclass(frozen=True)
class Evidence:
    """The data that a criterion may use, for one channel group of n channels.

    `filters` holds one (n, values) float64 tensor per layer that produces the channels; `scales` one (n,) tensor of
    batch-norm gammas per norm on them; `relations` one (n,) tensor of `sr` per norm with relations. `contributions`
    is (batches, n), the sum of weight times gradient over a channel's filters, one row per batch of data. Only the
    field that the criterion `needs` is filled.
    """

    group: str
    filters: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()
    relations: tuple[Tensor, ...] = ()
    contributions: Tensor | None = None
    readings: tuple[Reading, ...] = ()
    """Input statistics of the layers that read the channels."""
    seed: int = 0
    channels: int = 0
    """n; `score` always sets it."""

    def of(self, part: Tensor) -> Evidence:
        """Return the evidence of some of the channels."""
        return replace(
            self,
            filters=tuple(values[part] for values in self.filters),
            scales=tuple(values[part] for values in self.scales),
            relations=tuple(values[part] for values in self.relations),
            contributions=None if self.contributions is None else self.contributions[:, part],
            readings=tuple(reading.of(part) for reading in self.readings),
            channels=len(part),
        )

    def over_layers(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to each layer's filters; divide each result by its mean and average over the layers.

        With one layer, the result is returned without division.
        """
        if len(self.filters) == 1:
            return function(self.filters[0])
        values = [function(filters) for filters in self.filters]
        return torch.stack([v / v.mean().clamp_min(1e-30) for v in values]).mean(dim=0)


@dataclass(frozen=True)
class Criterion:
    """A pruning criterion.

    `score` returns one number per channel, higher = keep. `choose(evidence, m)` selects the m channels to keep; by
    default those with the m highest scores. `needs` names the evidence that the criterion uses. `comparable` means
    that raw scores are comparable between layers; other scores are divided by their group's mean before channels of
    different groups are ranked together. `again` maps the initial evidence of every group to the criterion that
    selects filters during soft filter pruning (see `SoftPruning`); default: this criterion.
    """

    name: str
    score: Callable[[Evidence], Tensor]
    choose: Callable[[Evidence, int], Tensor] | None = None
    needs: Literal["filters", "scales", "relations", "contributions", "readings", "filters and readings", "nothing"] = (
        "filters"
    )
    comparable: bool = False
    again: Callable[[Mapping[str, Evidence]], Criterion] | None = None


criteria: Registry[Callable[..., Criterion]] = Registry("criterion", home="slimcnn.pruning.criteria")


@dataclass(frozen=True)
class Scores:
    """The score of every channel of every group, and the selection rule.

    `unscored` maps groups that the criterion cannot score to the reason; they keep all their channels.
    """

    criterion: str
    values: Mapping[str, Tensor]
    unscored: Mapping[str, str] = field(default_factory=dict)
    comparable: bool = False
    choose: Callable[[str, Tensor, int], Tensor] | None = None
    parts: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """For every group with several parts: the channels of each part. All parts keep equally many."""
    costs: Mapping[str, Tensor] = field(default_factory=dict)
    """For every group, the cost of removing each further channel (of each part), from `sensitivity`."""
    errors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """For every group, channels removed (of each part) → output MSE, from `sensitivity`; including all channels if
    the group is inside a branch that may vanish."""

    def __repr__(self) -> str:
        channels = sum(map(len, self.values.values()))
        more = f", {len(self.unscored)} unscored" if self.unscored else ""
        more += ", with costs" if self.costs else ""
        return f"Scores({self.criterion!r}: {channels:,} channels of {len(self.values)} groups{more})"

    def _repr_html_(self) -> str:
        """Return a table of the range of scores in every group for a notebook."""
        rows = [
            (name, len(values), *([""] * 3 if name in self.unscored else _range(values)), self.unscored.get(name, ""))
            for name, values in self.values.items()
        ]
        return html_table(repr(self), ["group", "channels", "lowest", "median", "highest", "not scored because"], rows)

    def keep(self, group: str, m: int) -> Tensor:
        """Choose the m channels of a group to keep, ascending; of equal scores, the earlier channel is kept.

        If a group has several parts, m / parts channels of each are kept.
        """
        if m == 0:
            return torch.empty(0, dtype=torch.int64)
        parts = self.parts.get(group, (torch.arange(len(self.values[group])),))
        if self.choose is not None:
            return torch.cat([part[self.choose(group, part, m // len(parts))] for part in parts]).sort().values
        table = torch.stack(parts)
        best = self.values[group][table].argsort(dim=1, descending=True, stable=True)[:, : m // len(parts)]
        return table.gather(1, best).flatten().sort().values

    def ranked(self, group: str) -> Tensor:
        """Return the values by which channels of different groups are ranked."""
        values = self.values[group].double()
        return values if self.comparable else values / values.mean().clamp_min(1e-30)


def _range(values: Tensor) -> list[float]:
    return [float(values.min()), float(values.median()), float(values.max())]


def criterion_named(spec: str) -> Criterion:
    """Build a criterion from its name and options: `fpdf`, `fpdf:bins=4`, `random:seed=3`.

    >>> criterion_named("fpdf:bins=4,norm=1").name, criterion_named("fpdf:fit=optimal").name
    ('fpdf:bins=4,norm=1', 'fpdf:fit=optimal')
    """
    build, options = criteria.split(spec, CriterionError)
    return build(**options)


def score(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: str | Criterion,
    data: Batches | None = None,
    seed: int = 0,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda model, x, y: F.cross_entropy(
        outputs_of(model(x))[0], y
    ),
) -> Scores:
    """Score every channel of every group; higher = keep.

    With several processes, scores are averaged over them, so that all processes agree.

    Args:
        model: the traced network; it is not changed.
        graph: its channel graph, from `trace`.
        criterion: a name (`slimcnn list criteria`), with options such as `fpdf:bins=4`, or a `Criterion`.
        data: batches (x, y) for criteria that use data (`taylor`, `reconstruction`).
        loss: the loss of a network on a batch (x, y), for `taylor`; default: cross entropy.
        seed: seed of criteria that draw random numbers (`random`).

    Raises:
        CriterionError: the criterion lacks the data or layers that it needs; WeightsError: weights are not finite.

    >>> from slimcnn.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    >>> with torch.no_grad(): _ = net[0].weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]).view(4, 1, 1, 1))
    >>> score(net, trace(net, torch.zeros(1, 1, 2, 2)), "l1").values["0"].tolist()
    [3.0, 1.0, 4.0, 2.0]
    """
    chosen = criterion_named(criterion) if isinstance(criterion, str) else criterion
    _check_weights_finite(model)
    tensors: dict[str, Tensor] = dict(named_tensors(model))
    contributions = _contributions(model, graph, chosen.name, data, loss) if chosen.needs == "contributions" else {}
    readings = readings_of(model, graph, _images(chosen.name, data)) if "readings" in chosen.needs else {}

    def evidence(group: ChannelGroup) -> Evidence:
        known = Evidence(
            group.name, contributions=contributions.get(group.name), readings=readings.get(group.name, ()), seed=seed,
            channels=group.channels,
        )  # fmt: skip
        return _with_weights(known, group, chosen.needs, tensors)

    values, unscored = {}, {}
    for group in graph.groups:
        why = _why_unscored(group, chosen.needs, readings)
        if why:
            unscored[group.name] = why
            values[group.name] = torch.full((group.channels,), torch.inf)
        else:
            values[group.name] = _check_scores(chosen.score(evidence(group)), group, chosen.name)
    if graph.groups and len(unscored) == len(graph.groups):
        raise CriterionError(
            f"criterion {chosen.name!r} cannot score any group: {next(iter(unscored.values()))}; "
            "choose a criterion that uses filters, such as l2 or fpdf"
        )
    choose = None
    if chosen.choose is not None:  # it runs later and must use the scored weights, even if the network changes
        tensors.update({name: tensor.detach().clone() for name, tensor in tensors.items()})
        pick = chosen.choose
        choose = lambda name, part, m: pick(evidence(graph[name]).of(part), m)  # noqa: E731
    parts = {g.name: tuple(map(torch.from_numpy, g.parts)) for g in graph.groups if len(g.parts) > 1}
    return Scores(chosen.name, _average_over_processes(values), unscored, chosen.comparable, choose, parts)


def evidence_of(model: nn.Module, graph: ChannelGraph, criterion: Criterion) -> dict[str, Evidence]:
    """Collect, by group, the current weights that a criterion needs."""
    tensors = dict(named_tensors(model))
    return {
        group.name: _with_weights(Evidence(group.name, channels=group.channels), group, criterion.needs, tensors)
        for group in graph.groups
    }


def _why_unscored(group: ChannelGroup, needs: str, readings: Mapping[str, tuple[Reading, ...]]) -> str:
    if needs == "scales" and not group.norms:
        return "no batch norm with a scale on these channels"
    if needs == "relations" and not _related(group):
        return "no batch norm with relations on these channels: see insert_relations"
    if "readings" in needs:
        if not readings[group.name]:
            return "no layer that reads these channels has input statistics"
        unknown = not_followed(group, readings[group.name])
        if unknown:  # channels that only this layer needs would look useless
            return f"{unknown[0].parameter} reads these channels too and has no input statistics"
    return ""


def _images(criterion: str, data: Batches | None) -> Iterable[Tensor]:
    if data is None:
        raise CriterionError(f"criterion {criterion!r} needs images: pass batches (x, y) as data=")
    return (batch[0] for batch in data)


def _with_weights(known: Evidence, group: ChannelGroup, needs: str, tensors: Mapping[str, Tensor]) -> Evidence:
    """Return the evidence with the weights that a criterion needs."""
    if needs.startswith("filters"):
        return replace(known, filters=tuple(rows(tensors[axis.parameter], axis) for axis in group.filters))
    if needs == "scales":
        return replace(known, scales=_columns(group.norms, tensors))
    if needs == "relations":
        related = _related(group)
        scales = [norm for norm in group.norms if norm.parameter in related]
        relations = [related[norm.parameter] for norm in scales]
        return replace(known, scales=_columns(scales, tensors), relations=_columns(relations, tensors))
    return known


def _related(group: ChannelGroup) -> dict[str, Axis]:
    """Find the relations of a group's batch norms: name of the scale → axis of `sr`."""
    here = {axis.parameter: axis for axis in group.axes}
    found = {norm.parameter: here.get(f"{layer_of(norm.parameter)}.sr") for norm in group.norms}
    return {scale: axis for scale, axis in found.items() if axis is not None}


def _columns(axes: Iterable[Axis], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(column for axis in axes for column in rows(tensors[axis.parameter], axis).unbind(dim=1))


def rows(tensor: Tensor, axis: Axis) -> Tensor:
    """Collect the values of each channel on a parameter axis: (n, values), float64."""
    positions = torch.from_numpy(axis.positions).to(tensor.device)
    values = tensor.numel() // tensor.shape[axis.axis]
    found = torch.empty(len(positions), positions[:1].numel() * values, dtype=torch.float64)
    rows_at_once = max(1, CHUNK // max(1, found.shape[1]))  # a whole copy of a large layer in its own dtype is avoided
    for part, here in zip(found.split(rows_at_once), positions.split(rows_at_once), strict=True):
        chosen = tensor.detach().index_select(axis.axis, here.reshape(-1)).movedim(axis.axis, 0)
        part.copy_(chosen.reshape(part.shape))
    return found


def _check_scores(values: Tensor, group: ChannelGroup, criterion: str) -> Tensor:
    if tuple(values.shape) != (group.channels,) or bool(values.isnan().any()):
        found = f"shape {tuple(values.shape)}" + (" with NaN" if bool(values.isnan().any()) else "")
        raise CriterionError(
            f"criterion {criterion!r} must return one number for each of the {group.channels} channels of "
            f"{group.name!r}; it returned {found}"
        )
    return values


def _check_weights_finite(model: nn.Module) -> None:
    tensors = [(name, t.detach()) for name, t in named_tensors(model)]
    if all(cmath.isfinite(t.sum().item()) for _, t in tensors):  # a sum with a NaN or infinity is not finite
        return
    for name, tensor in tensors:
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise WeightsError(f"{name} holds {bad} values that are NaN or infinite; load finite weights")


def _contributions(
    model: nn.Module, graph: ChannelGraph, criterion: str, data: Batches | None,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """Sum weight times gradient of the loss over each channel's filters, one row per batch."""
    if data is None:
        raise CriterionError(f"criterion {criterion!r} needs data: pass batches (x, y) as data=")
    copied = duplicate(model).eval().requires_grad_(True)
    tensors = dict(copied.named_parameters())
    device = next(copied.parameters()).device
    rows: dict[str, list[Tensor]] = {group.name: [] for group in graph.groups}
    for x, y in data:
        copied.zero_grad()
        try:
            with torch.enable_grad():
                loss(copied, x.to(device), y.to(device)).backward()
        except (RuntimeError, ValueError, IndexError) as error:
            raise CriterionError(
                f"criterion {criterion!r} needs batches (x, y) of inputs and class labels that fit the network; with "
                f"x {tuple(x.shape)} and y {tuple(y.shape)} it failed: {first_line(error)}"
            ) from error
        for group in graph.groups:
            rows[group.name].append(_weight_times_gradient(group, tensors))
    if not any(rows.values()):
        raise CriterionError(f"criterion {criterion!r} needs data, but the batches are empty")
    return {name: torch.stack(found) for name, found in rows.items()}


def _weight_times_gradient(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    total = torch.zeros(group.channels, dtype=torch.float64)
    for axis in group.filters:
        weight = tensors[axis.parameter]
        if weight.grad is not None:
            total += rows(weight * weight.grad, axis).sum(dim=1)
    return total


def _average_over_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    gathered: list[dict[str, Tensor] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, values)
    present = [found for found in gathered if found is not None]
    if any(found.keys() != values.keys() for found in present):
        raise SlimcnnError("the processes hold different networks; build the same network in every process")
    return {name: torch.stack([found[name] for found in present]).mean(dim=0) for name in values}
