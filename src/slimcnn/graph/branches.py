"""Residual branches: channel groups that can be removed entirely, because the residual stream remains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from slimcnn.graph.channels import Mask, Positions
from slimcnn.graph.fast.module_tree import named_modules
from slimcnn.graph.ids import core
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Partition
from slimcnn.graph.trace_record import TraceRecord
from slimcnn.layers.emptied import EMPTY


def feeding(record: TraceRecord, partition: Partition, groups: int) -> list[tuple[int, ...]]:
    """Return, for every group, the groups produced by the layers that read it; -1 for locked channels."""
    found: list[set[int]] = [set() for _ in range(groups)]
    for contraction in record.contractions:
        if contraction.read is None:
            continue
        made = {-1} if contraction.produced is None else _owners(contraction.produced.numpy(), partition)
        for reader in _owners(contraction.read.numpy(), partition) - {-1}:
            found[reader] |= made
    return [tuple(sorted(made)) for made in found]


def needed(model: nn.Module, record: TraceRecord, ids: int) -> Mask:
    """Mark the ids that cannot all be removed, because an operation does not accept a tensor without channels."""
    modules = dict(named_modules(model))
    found = np.zeros(ids + 1, dtype=np.bool_)  # the last one for "no id"
    for run in record.runs:
        passes = operation(run.site.op).passes_empty
        if passes is True or (passes and type(modules[run.site.module]) in passes):
            continue
        for facet in (facet for label in run.activations for facet in label):
            found[core(facet).reshape(-1).numpy()] = True
    for contraction in record.contractions:
        if contraction.produced is not None and type(modules[contraction.module]) not in (*EMPTY, nn.Linear):
            found[contraction.produced.numpy()] = True
    return found[:-1]


def branches(
    needed: Mask, partition: Partition, feeds: Sequence[Sequence[int]], residual: Sequence[bool]
) -> list[bool]:
    """Return, for every group, whether all its channels may be removed: its readers add into a stream.

    Groups of one branch that feed one another (the gate of squeeze and excitation, the convolutions of a bottleneck)
    can be removed together.
    """
    free = [not stream and bool(made) for stream, made in zip(residual, feeds, strict=True)]
    for group in _owners(np.flatnonzero(needed), partition) - {-1}:
        free[group] = False
    settled = False
    while not settled:
        settled = True
        for group, made in enumerate(feeds):
            if free[group] and not all(to >= 0 and (residual[to] or free[to]) for to in made):
                free[group] = settled = False
    return free


def _owners(ids: Positions, partition: Partition) -> set[int]:
    return set(np.unique(partition.owner[partition.component[ids[ids >= 0]]]).tolist())
