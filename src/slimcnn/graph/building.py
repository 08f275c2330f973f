"""From what one run taught to the graph: components, locks, and groups of what is left."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from slimcnn.graph.activations import LiveTensor, Timeline
from slimcnn.graph.atoms import Atoms
from slimcnn.graph.branches import branches, feeding, needed
from slimcnn.graph.cells import Cells, same_rows, same_value
from slimcnn.graph.channels import (
    Axis,
    ChannelGraph,
    ChannelGroup,
    Contraction,
    Locked,
    Mask,
    Positions,
    SizeAttribute,
    StoredTensor,
    layer_of,
)
from slimcnn.graph.guesses import SizeGuess, guess_sizes, modules_at
from slimcnn.graph.ids import core, ids_in, varying
from slimcnn.graph.ledger import EqualParts, Ledger, LockRecord, as_pairs
from slimcnn.graph.locks import Locks
from slimcnn.graph.sharing import Owners, Share
from slimcnn.graph.walking import named_parameters, named_tensors

UNMADE, TRAINED = "no layer produces these", "runs in training mode only"

TOO_FEW = "its channels hang together in one or two parts: too few to try a cut"

ONE_EACH = "a single channel in a part of its own: without it the part would be empty"

Alike = tuple[tuple[int, ...], Positions, Positions]
"""The axis of every column, components, and their atoms (components, columns)."""


class GraphBuilder:
    """Components of the equalities, the locks on them, and the groups that are left."""

    def __init__(self, atoms: Atoms, ledger: Ledger, n_ids: int) -> None:
        self.atoms = atoms
        self.ledger = ledger
        self._n_ids = n_ids
        self._pairs_known = [as_pairs(ledger), _pads_of_one_module(ledger)]
        self._parts = list(ledger.parts)
        """Parts that keep equally many channels, whichever they are."""
        self._records: list[LockRecord] = []
        self.blamed: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Lines of code that broke a trial cut, with the modules in which they did."""
        self.guesses: list[SizeGuess] = []
        """Numbers that modules keep and that are taken to say how many channels there are."""
        self._refuted: set[str] = set()
        """Modules for which such a guess did not help."""
        self._trained = {axis for axes in self._produced(training=True) for axis in axes}
        """Axes of weights that make channels in training mode only."""
        self._needed: Mask | None = None
        """Ids that cannot all go."""
        self._connect()
        self.lock(ledger.locks)

    def _connect(self) -> None:
        """Find the components of what is equal, and lock anew what was locked."""
        pairs = np.concatenate(self._pairs_known)
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(self._n_ids, self._n_ids))
        self.component: Positions = connected_components(links, directed=False)[1].astype(np.int64)
        self.owner: Positions = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        """Group of every component in the graph built last; -1 for locked ones."""
        self.channel: Positions = self.owner
        """Its channel there."""
        self.locks = Locks(len(self.owner))
        self._added = np.zeros(len(self.owner), dtype=np.bool_)
        """Components in which channels of different layers are added."""
        for a, _, site in self.ledger.equal:
            if site.op in ("add", "add_", "sub", "sub_"):
                self._added[self.component[a.numpy()]] = True
        self._squeezed = np.zeros(len(self.owner), dtype=np.bool_)
        """Components on an axis that a `squeeze` would swallow if one channel were left."""
        self._inexact: dict[int, str] = {}
        """Components that are normalised together with others, and where."""
        for record in self.ledger.inexact:
            for component in np.unique(self.component[record.ids.numpy()]).tolist():
                self._inexact.setdefault(component, str(record.site))
        for label in self.ledger.squeezed:
            self._squeezed[self.component[ids_in(label).numpy()]] = True
        known, self._records = self._records, []
        self.lock(known)

    def guess(self, model: nn.Module, records: list[LockRecord]) -> bool:
        """Where code failed with a number of channels, look for that number among the attributes of its module.

        False if there is none, or if it was changed already and did not help.
        """
        places = modules_at(self.ledger, [record.site for record in records if record.site is not None])
        if any(guess.module in places for guess in self.guesses):
            self._refuted.update(places)
            self.guesses = [guess for guess in self.guesses if guess.module not in self._refuted]
            return False
        found = guess_sizes(model, self.ledger, [place for place in places if place not in self._refuted])
        self.guesses += found
        return bool(found)

    def tie_parts(self, parts: list[EqualParts]) -> None:
        """Let parts that kept equally many channels keep equal offsets from now on."""
        self._parts = [other for other in self._parts if not any(other is one for one in parts)]
        for one in parts:
            rows = one.rows.numpy()
            first = np.broadcast_to(rows[:1], rows[1:].shape)
            self._pairs_known.append(np.stack([first.reshape(-1), rows[1:].reshape(-1)], axis=1))
        self._connect()

    def parts_through(self, records: list[LockRecord]) -> list[EqualParts]:
        """List what parts the bundles of these ids and leaves them a choice: operations that move channels first.

        After a shuffle, channels arrive in the order of their offsets; only equal offsets arrive as before.
        """
        components = [self.component[record.ids.numpy()] for record in records]
        touched = np.unique(self.owner[np.concatenate(components)]) if components else np.zeros(0, np.int64)
        bundles = {i for bundle in self.bundles if set(bundle) & set(touched.tolist()) for i in bundle}
        inside = np.isin(self.owner, list(bundles))
        found = [part for part in self._parts if inside[self.component[part.rows.numpy()]].any()]
        return [part for part in found if part.site.op != "convolution"] or found

    @property
    def moves_parts(self) -> bool:
        """Code, and not only grouped convolutions, parts channels that may still go: it may order them anew."""
        return any(
            (self.owner[self.component[part.rows.numpy()]] >= 0).any()
            for part in self._parts
            if part.site.op != "convolution"
        )

    def lock(self, records: list[LockRecord]) -> None:
        """Lock the components of these ids; the first reason that names a place stays."""
        self._records += records
        for record in records:
            self.locks.add(record, self.component[record.ids.numpy()])

    def graph(self, model: nn.Module, example: Any, batch: int) -> ChannelGraph:
        """Assemble the graph from what is not locked."""
        groups, owner, channel = self._groups(model)
        self.owner, self.channel = owner, channel
        owners = Owners.of(self.component, owner)
        shared = self._shares(owners)
        contractions = tuple(
            Contraction(
                module=record.module,
                macs=record.macs // (2 * batch) if record.per_batch else record.macs,  # traced on every sample twice
                shares=tuple(map(owners.share, record.shares)),
            )
            for record in self.ledger.contractions
        )
        pads = [
            SizeGuess(name, side, None, ids)
            for name, *both in self.ledger.pads
            for side, ids in zip(("front", "back"), both, strict=True)
        ]
        sizes = {
            guess.key: SizeAttribute(*guess.key, self._pairs(guess.ids, owner, channel))
            for guess in (*pads, *self.guesses)
        }
        return ChannelGraph(
            groups=groups,
            locked=self._locked(),
            contractions=contractions,
            parameters={name: _shares_of(name, one, shared) for name, one in named_parameters(model).items()},
            stored=_stored(model, shared),
            sizes=tuple(sizes.values()),
            bundles=self.bundles,
            fingerprint=_fingerprint(self.atoms, groups),
            example=example,
            timeline=self._timeline(owners, len(groups), batch),
            batch=batch,
        )

    def _groups(self, model: nn.Module) -> tuple[tuple[ChannelGroup, ...], Positions, Positions]:
        """Gather free components that look alike and are bound alike; give owner and channel of every component."""
        order: dict[int, int] = {}
        for axes_here in self._produced():
            for axis in axes_here:
                order.setdefault(axis, len(order))
        norms = {axis for ids in self.ledger.norms for axis in self._axes_of(ids)}
        readers = [c.read for c in self.ledger.contractions if c.read is not None and not c.training]
        reads = {axis for read in readers for axis in self._axes_of(read)}
        found = []
        alike, cell, bundle = self._settle(order)
        for axes, components, atoms in alike:
            makers = [axis for axis in dict.fromkeys(axes) if axis in order]
            first = min(makers, key=order.__getitem__)
            for bound in np.unique(bundle[components]):
                here = bundle[components] == bound
                first_atoms = atoms[here][:, np.array(axes) == first].min(axis=1)
                rows = np.flatnonzero(here)[np.argsort(first_atoms)]
                place = (order[first], int(first_atoms.min()))
                found.append((place, first, axes, components[rows], atoms[rows], int(bound)))
        found.sort(key=lambda item: item[0])
        owner = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        channel = owner.copy()
        bundles: dict[int, list[int]] = defaultdict(list)
        groups: list[ChannelGroup] = []
        for index, (_, first, axes, components, atoms, bound) in enumerate(found):
            owner[components], channel[components] = index, np.arange(len(components))
            bundles[bound].append(index)
            group = self._group(first, axes, atoms, order, norms, reads)
            taken = any(group.name == other.name for other in groups)
            name = f"{group.name}:{self.atoms.axes[first]}" if taken else group.name
            parts = same_value(cell[components])
            groups.append(replace(group, name=name, parts=parts, least=max(group.least, len(parts))))
        self.bundles = tuple(map(tuple, bundles.values()))
        feeds = feeding(self.ledger, self.component, owner, len(groups))
        residual = [group.residual for group in groups]
        if self._needed is None:
            self._needed = needed(model, self.ledger, self._n_ids)
        free = branches(self._needed, self.component, owner, feeds, residual)
        return (
            tuple(replace(g, feeds=made, branch=may) for g, made, may in zip(groups, feeds, free, strict=True)),
            owner,
            channel,
        )

    def _settle(self, order: Mapping[int, int]) -> tuple[list[Alike], Positions, Positions]:
        """Lock and tie until what is left can be cut: components that look alike, and the cell and bundle of each.

        A cell is what lies in the same part of everything that is parted; all cells of a bundle lose equally many.
        """
        while True:
            alike, locks = self._alike(), len(self.locks)
            for axes, components, atoms in alike:
                makers = any(axis in order for axis in axes)
                if not makers or _leaves_one(axes, len(components)):
                    reason = TOO_FEW if makers else UNMADE if self._trained.isdisjoint(axes) else TRAINED
                    self.lock([LockRecord(torch.from_numpy(atoms.reshape(-1)), reason, None)])
            if len(self.locks) > locks:
                continue
            cells = Cells.of([components for _, components, _ in alike], len(self.owner))
            tables = [self.component[part.rows.numpy()] for part in self._parts]
            for table in tables:
                cells.refine(table)
            for piece in self.ledger.pieces:
                cells.separate(self.component[piece.numpy()])
            uneven = [part for part, table in zip(self._parts, tables, strict=True) if not cells.even(table)]
            if uneven:
                self.tie_parts(uneven)
                continue
            lonely = cells.lonely(tables)
            if not len(lonely):
                return alike, cells.cell, cells.bundles(tables)
            members = np.flatnonzero(np.isin(self.component[: len(self.atoms)], lonely))
            self.lock([LockRecord(torch.from_numpy(members), ONE_EACH, None)])

    def _alike(self) -> list[Alike]:
        """List free components that own equally many positions of the same axes.

        Each entry has the axis of every column, the components, and their atoms (components, columns).
        """
        atoms = np.arange(len(self.atoms), dtype=np.int64)
        atoms = atoms[~self.locks.mask[self.component[atoms]]]
        atoms = atoms[np.argsort(self.component[atoms], kind="stable")]
        axes, components = self.atoms.locate(atoms), self.component[atoms]
        borders = np.flatnonzero(np.r_[True, np.diff(components) > 0, True]) if len(atoms) else np.zeros(0, np.int64)
        alike = []
        lengths = np.diff(borders)
        for length in np.unique(lengths).tolist():
            firsts = borders[:-1][lengths == length]
            index = firsts[:, None] + np.arange(length)
            for signature, rows in same_rows(axes[index]):
                alike.append((tuple(signature.tolist()), components[firsts[rows]], atoms[index[rows]]))
        return alike

    def _group(
        self,
        first: int,
        axes: tuple[int, ...],
        atoms: Positions,
        order: Mapping[int, int],
        norms: set[int],
        reads: set[int],
    ) -> ChannelGroup:
        owned = {
            axis: Axis(
                parameter=self.atoms.names[axis],
                axis=self.atoms.axes[axis],
                size=int(self.atoms.sizes[axis]),
                positions=atoms[:, np.array(axes) == axis] - self.atoms.starts[axis],
                blocks=self.atoms.blocks[axis],
            )
            for axis in dict.fromkeys(axes)
        }
        name = _name_of(owned[first].parameter)
        if owned[first].positions.size < self.atoms.sizes[first]:
            name += f"[{_ranges(np.sort(owned[first].positions.reshape(-1)))}]"
        return ChannelGroup(
            name=name,
            channels=len(atoms),
            axes=tuple(owned.values()),
            filters=tuple(owned[axis] for axis in sorted(owned, key=lambda a: order.get(a, -1)) if axis in order),
            norms=tuple(owned[axis] for axis in owned if axis in norms),
            reads=tuple(owned[axis] for axis in owned if axis in reads),
            residual=sum(axis in order for axis in owned) > 1 and bool(self._added[self.component[atoms[0, 0]]]),
            inexact=self._inexact.get(int(self.component[atoms[0, 0]]), ""),
            least=2 if self._squeezed[self.component[atoms[0, 0]]] else 1,
        )

    def _why_lost(self, layer: str) -> tuple[str, str]:
        """Say why the weight of a layer cannot be followed: because of what was done to its parameters."""
        for name, start in zip(self.atoms.names, self.atoms.starts, strict=True):
            record = self.locks.of(self.component[start]) if _name_of(name) == layer else None
            if record is not None and record.site is not None:
                return record.reason, str(record.site)
        return "its weight is made in a way that is not followed", ""

    def _produced(self, training: bool = False) -> Iterator[dict[int, Positions]]:
        """Give for every layer, in the order of the network, the weight axes that make its channels, with their ids.

        Either for those that run in eval mode, or for those that run in training mode only.
        """
        for record in self.ledger.contractions:
            if record.produced is not None and record.training == training:
                yield self._axes_of(record.produced)

    def _axes_of(self, ids: Tensor) -> dict[int, Positions]:
        """Sort ids by the axis that they belong to; ids of no axis (zeros that were padded) are left out."""
        numbers = ids.numpy()
        if len(numbers):
            first, last = self.atoms.locate(np.array([numbers.min(), numbers.max()])).tolist()
            if first == last:
                return {first: numbers} if first >= 0 else {}
        axes = self.atoms.locate(numbers)
        return {int(axis): numbers[axes == axis] for axis in dict.fromkeys(axes.tolist()) if axis >= 0}

    def _shares(self, owners: Owners) -> dict[tuple[str, int], Share]:
        """Say for every axis of every tensor how it is shared; an axis of size 1 has no channels."""
        atoms = self.atoms
        ids = torch.arange(len(atoms)).split(atoms.sizes.tolist())
        rows = zip(atoms.names, atoms.axes, ids, atoms.blocks, strict=True)
        return {(name, axis): owners.share(here, len(here) // blocks, blocks) for name, axis, here, blocks in rows}

    def _timeline(self, owners: Owners, groups: int, batch: int) -> Timeline:
        """Take the activations of the run, which was one of every sample twice, for one image."""
        found = []
        for life, label in self.ledger.activations:
            shares = tuple(owners.share(core(facet).reshape(-1)) for facet in label if varying(facet))
            whole = life.elements // (2 * batch) if life.elements % (2 * batch) == 0 else life.elements
            found.append(LiveTensor(life, whole, shares))
        return Timeline(found, groups)

    def _pairs(self, ids: Tensor, owner: Positions, channel: Positions) -> Positions:
        components = self.component[ids.numpy()]
        return np.stack([owner[components], channel[components]], axis=1)

    def _locked(self) -> tuple[Locked, ...]:
        """Say for every layer which of its output channels must stay, and why."""
        found: dict[tuple[str, str, str], int] = {}
        totals: dict[str, int] = {}
        seen: set[int] = set()
        for axes in chain(self._produced(), self._produced(training=True)):
            for axis in axes.keys() - seen:
                seen.add(axis)
                layer = _name_of(self.atoms.names[axis])
                first, size = int(self.atoms.starts[axis]), int(self.atoms.sizes[axis])
                totals[layer] = size
                for record, channels in self.locks.counted(self.component[first : first + size]):
                    key = (layer, record.reason, str(record.site) if record.site else "")
                    found[key] = found.get(key, 0) + channels
        for made in self.ledger.contractions:
            if made.lost and made.module not in totals:
                totals[made.module] = made.lost
                found[(made.module, *self._why_lost(made.module))] = made.lost
        return tuple(Locked(layer, n, totals[layer], why, where) for (layer, why, where), n in found.items())


def _leaves_one(axes: tuple[int, ...], channels: int) -> bool:
    """Ask whether an axis has a single position left without one channel: too few to see where they arrive."""
    return min(map(axes.count, set(axes))) * (channels - 1) < 2


def _name_of(parameter: str) -> str:
    """Name the channels that a parameter makes: by its layer if that is the layer's weight, or by its own name.

    >>> _name_of("stem.conv.weight"), _name_of("stem.mixing")
    ('stem.conv', 'stem.mixing')
    """
    layer, own = layer_of(parameter), parameter.rpartition(".")[2]
    return layer if layer and (own in ("weight", "weight_v") or own.startswith("original")) else parameter


def _pads_of_one_module(ledger: Ledger) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tie the zeros of every call of a ChannelPad: it has the same two numbers each time."""
    first: dict[str, Tensor] = {}
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for name, *sides in ledger.pads:
        ids = torch.cat(sides)
        pairs.append(torch.stack([first.setdefault(name, ids), ids], dim=1).numpy())
    return np.concatenate(pairs)


def _stored(model: nn.Module, shared: Mapping[tuple[str, int], Share]) -> tuple[StoredTensor, ...]:
    """List what `state_dict` holds; buffers that it leaves out are in no weights file."""
    held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)}
    return tuple(
        StoredTensor(_shares_of(name, tensor, shared), tensor.element_size())
        for name, tensor in named_tensors(model)
        if id(tensor) in held
    )


def _shares_of(name: str, tensor: Tensor, shared: Mapping[tuple[str, int], Share]) -> tuple[Share, ...]:
    return tuple(shared.get((name, axis), Share(size, {})) for axis, size in enumerate(tensor.shape))


def _ranges(positions: Positions) -> str:
    """Write positions briefly.

    >>> _ranges(np.array([0, 1, 2, 7]))
    '0-2,7'
    """
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts, ends = np.r_[positions[0], positions[breaks + 1]], np.r_[positions[breaks], positions[-1]]
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in zip(starts, ends, strict=True))


def _fingerprint(atoms: Atoms, groups: tuple[ChannelGroup, ...]) -> str:
    shapes = [(name, tuple(shape)) for name, shape in atoms.shapes.items()]
    owned = [
        (g.name, g.channels, len(g.parts), [(a.parameter, a.axis, a.positions.shape) for a in g.axes]) for g in groups
    ]
    return hashlib.sha256(repr((shapes, owned)).encode()).hexdigest()[:16]
