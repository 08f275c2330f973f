"""Rules of elementwise operations with broadcasting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import NONE, Label, core, varies, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer

BY_ITS_POSITION = "selected by its position"


@dataclass(frozen=True)
class Operand:
    """An operand of an elementwise operation, broadcast to the shape of the result."""

    sizes: tuple[int, ...]
    """Its size along every dimension of the result before broadcasting; 1 where it is broadcast."""
    facets: Label
    constant: Tensor | None = None
    """Its values, if they depend neither on weights nor on the input."""

    def uniform(self, dims: Iterable[int]) -> bool:
        """Return whether it is a constant whose values do not change along these dimensions."""
        c = self.constant
        return c is not None and all(bool((c == c.narrow(d, 0, 1)).all()) for d in dims)


@rule("aten.add", kind="sum", passes_empty=True, keeps_sign=True, values="as inputs", shape=shapes.elementwise)
@rule("aten.add_", kind="sum", passes_empty=True, values="as inputs", shape=shapes.elementwise_in_place)
@rule("aten.sub", kind="difference", passes_empty=True, values="as inputs", shape=shapes.elementwise)
@rule("aten.sub_", kind="difference", passes_empty=True, values="as inputs", shape=shapes.elementwise_in_place)
@rule(
    *aten("relu hardtanh silu sigmoid leaky_relu elu mish tanh mul hardswish hardsigmoid gelu"),
    passes_empty=True,
    values="as inputs",
    shape=shapes.elementwise,
)
@rule(
    *aten("relu_ hardtanh_ silu_ sigmoid_ leaky_relu_ elu_ mish_ tanh_ mul_ hardswish_ hardsigmoid_"),
    passes_empty=True,
    values="as inputs",
    shape=shapes.elementwise_in_place,
)
@rule(*aten("div sqrt rsqrt"), values="as inputs", shape=shapes.elementwise)
@rule("aten.div_", values="as inputs", shape=shapes.elementwise_in_place)
@rule("aten.round", passes_empty=True)
@rule(*aten("_prelu_kernel where masked_fill masked_fill_ clamp clamp_ prelu rsub floor_divide"))
def pointwise(tracer: Tracer, call: Call) -> Labels:
    """Unify the channels of all operands."""
    shape = call.out.shape
    different = {id(t): t for t in call.tensors}.values()
    return [combine(tracer, call, [operand(tracer, t, shape) for t in different], shape)] * len(call.outputs)


def operand(tracer: Tracer, tensor: Tensor, shape: torch.Size) -> Operand:
    """Return a tensor as an operand, broadcast to the shape of the result."""
    offset = len(shape) - tensor.dim()
    own = (1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    constant = tensor.expand(shape) if tracer.mark(tensor) is None else None
    return Operand((1,) * offset + tuple(own), tuple(f.expand(shape) for f in tracer.label(tensor)), constant)


def combine(tracer: Tracer, call: Call, operands: list[Operand], shape: torch.Size) -> Label:
    """Unify the facets of operands that are broadcast to one shape, and return the label of the result.

    Facets that vary along the same dimensions are unified. If a facet varies along a dimension in which another operand
    has several positions but no channels, that operand cannot shrink with it: the facet is locked, unless the operand
    is constant along that dimension.
    """
    result: list[Tensor] = []
    single: list[Tensor] = []
    for i, one in enumerate(operands):
        for facet in one.facets:
            if not varies(facet):
                single.append(core(facet).reshape(-1)[:1])
                continue
            met = [_unify_facet(tracer, call, facet, other) for j, other in enumerate(operands) if j != i]
            if None not in met and not any(met[:i]):
                result.append(facet)
    if result:
        if single:  # every channel of the result depends on it
            tracer.lock(torch.cat(single), BY_ITS_POSITION, call)
        return tuple(result)
    return _one_channel(tracer, call, single, shape)


def _unify_facet(tracer: Tracer, call: Call, facet: Tensor, other: Operand) -> bool | None:
    """Unify a facet with an operand: True if it has facets there, False if there was nothing to do, None if locked."""
    dims = varying(facet)
    if all(other.sizes[d] == 1 for d in dims):
        return False
    meeting = [f for f in other.facets if varying(f) & dims]
    for partner in meeting:
        tracer.tie(facet, partner, call)
    if meeting:
        return True
    if other.uniform(dims):
        return False
    tracer.lock_label((facet,), "combined with a tensor that cannot be pruned", call)
    return None


def _one_channel(tracer: Tracer, call: Call, ids: list[Tensor], shape: torch.Size) -> Label:
    """Unify operands that each belong to a single channel (`x[:, i]`), and broadcast that channel to the result."""
    known = [channel for channel in ids if len(channel) and int(channel) != NONE]
    for other in known[1:]:
        tracer.unify(known[0], other, call)
    return tuple(channel[0].expand(shape) for channel in known[:1])


@rule("aten.glu", moves=True)
def glu(tracer: Tracer, call: Call) -> Labels:
    """Tie channel j of the first half to channel j of the gate."""
    d = call["dim"] % call["self"].dim()
    halves = [facet.chunk(2, dim=d) for facet in tracer.label(call["self"])]
    for a, b in halves:
        tracer.tie(a, b, call)
    return [tuple(a for a, _ in halves)]
