"""Rules of operations that reduce an axis, or whose outputs depend on all values along an axis."""

from __future__ import annotations

import weakref

from torch import Tensor

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import Label, core, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.rules.moving import narrowed
from slimcnn.graph.rules.pointwise import combine, operand, pointwise
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer


@rule("aten.mean", ordered=True, passes_empty=True, keeps_sign=True, values="as inputs", shape=shapes.averaged)
@rule("aten.var", values="as inputs", shape=shapes.varied)
@rule(
    *aten("""sum amax amin std var_mean std_mean linalg_vector_norm norm logsumexp argmax argmin any all prod
        median max min nanmean nansum"""),
)
def reduce(tracer: Tracer, call: Call) -> Labels:
    """Keep ids that do not vary along the reduced axes, and lock those that do."""
    source: Tensor = call["self"]
    if isinstance(call.arguments.get("other"), Tensor):
        return pointwise(tracer, call)
    if not source.numel():
        return [()] * len(call.outputs)  # of nothing, the result is a constant
    dims = _reduced(call, source)
    keepdim = bool(call.arguments.get("keepdim", False))
    if keepdim and source.dim() == 4 and dims >= {2, 3}:
        tracer.pixel = weakref.ref(call.out)
    facets = []
    for facet in tracer.label(source):
        if varying(facet) & dims and not _tied_along(tracer, call, facet, dims):
            tracer.lock_label((facet,), "reduced over its channels", call)
            continue
        for d in sorted(dims, reverse=True):
            facet = facet.narrow(d, 0, 1) if keepdim else facet.select(d, 0)
        facets.append(facet)
    return [tuple(facets)] * len(call.outputs)


def _tied_along(tracer: Tracer, call: Call, facet: Tensor, dims: set[int]) -> bool:
    """Tie channels that are mixed with some but not all others: they can only be removed together."""
    mixed = varying(facet) & dims
    if varying(facet) <= dims:
        return False
    first = facet
    for d in mixed:
        first = first.narrow(d, 0, 1)
    tracer.tie(first.expand_as(facet), facet, call)
    return True


def _reduced(call: Call, source: Tensor) -> set[int]:
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        return set(range(source.dim()))
    return {d % source.dim() for d in (dims if isinstance(dims, list | tuple) else [dims])}


@rule(*aten("_softmax _log_softmax softmax log_softmax cumsum sort topk cumprod"))
def mix_along(tracer: Tracer, call: Call) -> Labels:
    """Lock ids along the axis over which the operation works; keep all others."""
    source: Tensor = call["self"]
    d = call["dim"] % source.dim()
    facets = []
    for facet in tracer.label(source):
        if d in varying(facet) and not _tied_along(tracer, call, facet, {d}):
            tracer.lock_label((facet,), "computed across its channels", call)
        else:
            facets.append(core(facet, set(range(facet.dim())) - {d}).expand(call.out.shape))
    return [tuple(facets)] * 2


SPATIAL = """max_pool{n}d adaptive_avg_pool{n}d adaptive_max_pool{n}d _upsample_nearest_exact{n}d reflection_pad{n}d
    replication_pad{n}d upsample_bicubic{n}d upsample_linear{n}d upsample_trilinear{n}d _upsample_bilinear{n}d_aa
    _upsample_bicubic{n}d_aa grid_sampler_{n}d"""
ELSE_IN_1D_AND_3D = """max_pool{n}d_with_indices avg_pool{n}d _adaptive_avg_pool{n}d upsample_nearest{n}d
    upsample_bilinear{n}d"""


def _in_dimensions(names: str, *dimensions: int) -> list[str]:
    return [name for n in dimensions for name in aten(names.format(n=n))]


@rule(
    "aten.max_pool2d_with_indices", "aten.avg_pool2d", kind="pooling", ordered=True, keeps_sign=True, values="as inputs"
)
@rule("aten._adaptive_avg_pool2d", kind="pooling", ordered=True, passes_empty=True, keeps_sign=True, values="as inputs")
@rule("aten.upsample_nearest2d", "aten.upsample_bilinear2d", ordered=True, values="as inputs")
@rule(*_in_dimensions(SPATIAL, 1, 2, 3), *_in_dimensions(ELSE_IN_1D_AND_3D, 1, 3))
def spatial(tracer: Tracer, call: Call) -> Labels:
    """Keep ids that do not vary over space."""
    source, *others = call.tensors
    for other in others:
        tracer.lock_label(tracer.label(other), "used as sampling coordinates", call)
    return [_over_space(tracer, call, tracer.label(source))] * 2


@rule("aten.max_unpool2d", "aten.max_unpool3d", values="needed")
def unpool(tracer: Tracer, call: Call) -> Labels:
    """Unify the channels of the values with those of the positions that a pooling returned."""
    values, indices = call["self"], call["indices"]
    operands = [operand(tracer, tensor, values.shape) for tensor in (values, indices)]
    return [_over_space(tracer, call, combine(tracer, call, operands, values.shape))]


def _over_space(tracer: Tracer, call: Call, label: Label) -> Label:
    """Expand ids that do not vary over space to the size of the result; lock all others."""
    n = next(int(c) for c in reversed(call.site.op) if c.isdigit())
    space = set(range(call.out.dim() - n, call.out.dim()))
    facets = []
    for facet in label:
        if varying(facet) & space:
            tracer.lock_label((facet,), "pooled or resampled across its channels", call)
        else:
            facets.append(narrowed(facet, space).expand(call.out.shape))
    return tuple(facets)
