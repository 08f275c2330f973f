"""Operations where tensors meet, element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import NONE, Label, core, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer


@dataclass(frozen=True)
class Operand:
    """A tensor at a meeting, seen in the shape of the result."""

    sizes: tuple[int, ...]
    """Its own size along every dimension of the result; 1 where it is spread out."""
    facets: Label
    constant: Tensor | None = None
    """Its numbers, if they were made on the way and owe nothing to weights or input."""

    def uniform(self, dims: Iterable[int]) -> bool:
        """Ask whether it is a constant whose numbers are the same along these dimensions."""
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
@rule(*aten("_prelu_kernel where masked_fill masked_fill_ clamp clamp_ prelu rsub"))
def pointwise(tracer: Tracer, call: Call) -> Labels:
    """Unify the channels that meet."""
    shape = call.out.shape
    different = {id(t): t for t in call.tensors}.values()
    return [combine(tracer, call, [operand(tracer, t, shape) for t in different], shape)] * len(call.outputs)


def operand(tracer: Tracer, tensor: Tensor, shape: torch.Size) -> Operand:
    """See a tensor in the shape of the result that it is broadcast to."""
    offset = len(shape) - tensor.dim()
    own = (1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    constant = tensor.expand(shape) if tracer.mark(tensor) is None else None
    return Operand((1,) * offset + tuple(own), tuple(f.expand(shape) for f in tracer.label(tensor)), constant)


def combine(tracer: Tracer, call: Call, operands: list[Operand], shape: torch.Size) -> Label:
    """Unify the facets of tensors that are broadcast together to one shape, and give the label of the result.

    Facets that change along the same dimensions meet. A tensor that has many positions where a facet changes,
    but no channels there, cannot shrink with it: the facet is locked, unless the tensor is the same number all along.
    """
    result: list[Tensor] = []
    single: list[Tensor] = []
    for i, one in enumerate(operands):
        for facet in one.facets:
            if not varying(facet):
                single.append(core(facet).reshape(-1)[:1])
                continue
            met = [_meet_one(tracer, call, facet, other) for j, other in enumerate(operands) if j != i]
            if None not in met and not any(met[:i]):
                result.append(facet)
    return (*result, *_one_channel(tracer, call, single, shape))


def _meet_one(tracer: Tracer, call: Call, facet: Tensor, other: Operand) -> bool | None:
    """Let a facet meet a tensor: True if facets met, False if there was nothing to meet, None if it was locked."""
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
    tracer.lock_label((facet,), "meets a tensor whose channels must stay", call)
    return None


def _one_channel(tracer: Tracer, call: Call, ids: list[Tensor], shape: torch.Size) -> Label:
    """Tie tensors that belong to one channel as a whole (`x[:, i]`), and spread that channel over the result."""
    known = [channel for channel in ids if len(channel) and int(channel) != NONE]
    for other in known[1:]:
        tracer.unify(known[0], other, call)
    return tuple(channel.expand(shape) for channel in known[:1])


@rule("aten.glu", moves=True)
def glu(tracer: Tracer, call: Call) -> Labels:
    """Tie channel j of the first half to channel j of the gate."""
    d = call["dim"] % call["self"].dim()
    halves = [facet.chunk(2, dim=d) for facet in tracer.label(call["self"])]
    for a, b in halves:
        tracer.tie(a, b, call)
    return [tuple(a for a, _ in halves)]
