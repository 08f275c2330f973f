"""Residual branches: groups of channels without which a network still passes its signal on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from slimcnn.graph.channels import Mask, Positions
from slimcnn.graph.ids import core
from slimcnn.graph.ledger import Ledger
from slimcnn.graph.walking import named_modules
from slimcnn.layers.emptied import EMPTY

WEIGHTED = {"convolution", "native_batch_norm", "_native_batch_norm_legit_no_training"}
"""Operations that a tensor without channels passes if the module is one of `EMPTY`."""

HARMLESS = """relu relu_ hardtanh hardtanh_ hardswish hardswish_ silu silu_ sigmoid sigmoid_ hardsigmoid hardsigmoid_
    gelu leaky_relu leaky_relu_ elu elu_ mish mish_ tanh tanh_ add add_ mul mul_ sub sub_ mean clone
    _adaptive_avg_pool2d dropout native_dropout cat alias detach round _to_copy slimcnn::shift
    slimcnn::interpolate""".split()
"""Operations that a tensor without channels passes."""


def feeding(ledger: Ledger, component: Positions, owner: Positions, groups: int) -> list[tuple[int, ...]]:
    """List for every group the groups that the layers which read it make; -1 stands for channels that must stay."""
    found: list[set[int]] = [set() for _ in range(groups)]
    for record in ledger.contractions:
        if record.read is None:
            continue
        made = {-1} if record.produced is None else _owners(record.produced.numpy(), component, owner)
        for reader in _owners(record.read.numpy(), component, owner) - {-1}:
            found[reader] |= made
    return [tuple(sorted(made)) for made in found]


def needed(model: nn.Module, ledger: Ledger, ids: int) -> Mask:
    """Mark the ids that cannot all go, because of an operation that no tensor without channels passes."""
    modules = dict(named_modules(model))
    found = np.zeros(ids + 1, dtype=np.bool_)  # the last one for "no id"
    for site, label in ledger.passed:
        if site.op in HARMLESS or (site.op in WEIGHTED and type(modules[site.module]) in EMPTY):
            continue
        if site.op in ("addmm", "mm", "view", "t") and type(modules[site.module]) is nn.Linear:
            continue
        for facet in label:
            found[core(facet).reshape(-1).numpy()] = True
    for record in ledger.contractions:
        if record.produced is not None and type(modules[record.module]) not in (*EMPTY, nn.Linear):
            found[record.produced.numpy()] = True
    return found[:-1]


def branches(
    needed: Mask, component: Positions, owner: Positions, feeds: Sequence[Sequence[int]], residual: Sequence[bool]
) -> list[bool]:
    """Say of every group whether all its channels may go: what reads it adds into a stream that has other sources.

    Groups inside a branch that feed one another (the gate of squeeze and excitation, the convolutions of a
    bottleneck) may go together.
    """
    free = [not stream and bool(made) for stream, made in zip(residual, feeds, strict=True)]
    for group in _owners(np.flatnonzero(needed), component, owner) - {-1}:
        free[group] = False
    settled = False
    while not settled:
        settled = True
        for group, made in enumerate(feeds):
            if free[group] and not all(to >= 0 and (residual[to] or free[to]) for to in made):
                free[group] = settled = False
    return free


def _owners(ids: Positions, component: Positions, owner: Positions) -> set[int]:
    return set(np.unique(owner[component[ids[ids >= 0]]]).tolist())
