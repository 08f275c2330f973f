"""Rules of operations that read, move or mix values within each channel: indexing, patches, regions, Fourier."""

from __future__ import annotations

import torch
from torch import Tensor

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import Label, along, axis_facet, core, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.rules.moving import narrowed
from slimcnn.graph.rules.pointwise import Operand, combine
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer

INDEXED = "used in unsupported indexing"
MIXED = "computed across its channels"


@rule("aten.gather", values="needed")
@rule("aten.scatter_add", "aten.scatter_add_", values="needed")
def index_within(tracer: Tracer, call: Call) -> Labels:
    """Unify the channels of values and positions, if the operation indexes an axis without channels."""
    d = call["dim"] % call.out.dim() if call.out.dim() else 0
    others = [[size for i, size in enumerate(tensor.shape) if i != d] for tensor in call.tensors]
    shape = call.out.shape
    if any(sizes != others[0] for sizes in others) or any(
        d in varying(facet) for tensor in call.tensors for facet in tracer.label(tensor)
    ):
        for tensor in call.tensors:
            tracer.lock_label(tracer.label(tensor), INDEXED, call)
        return []
    different = {id(tensor): tensor for tensor in call.tensors}.values()
    return [combine(tracer, call, [_operand_across(tracer, tensor, d, shape) for tensor in different], shape)]


def _operand_across(tracer: Tracer, tensor: Tensor, d: int, shape: torch.Size) -> Operand:
    """Return a tensor as an operand whose size along the indexed axis does not matter."""
    sizes = [
        1 if i == d or stride == 0 else size
        for i, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
    ]
    facets: Label = tuple(narrowed(facet, {d}).expand(shape) for facet in tracer.label(tensor))
    return Operand(tuple(sizes), facets, tensor if tracer.mark(tensor) is None else None)


@rule("aten.im2col", moves=True, sized=True)
def unfold(tracer: Tracer, call: Call) -> Labels:
    """Give the k^2 rows of a channel its id."""
    ids = _channels(tracer, call)
    if ids is None:
        return []
    return [(axis_facet(ids.repeat_interleave(call.out.size(-2) // len(ids)), call.out.shape, call.out.dim() - 2),)]


@rule("aten.col2im", moves=True, sized=True)
def fold(tracer: Tracer, call: Call) -> Labels:
    """Tie the k^2 rows that become one channel."""
    ids = _channels(tracer, call, space=1)
    if ids is None:
        return []
    blocks = ids.view(call.out.size(-3), -1)
    tracer.unify(blocks[:, :1].expand_as(blocks), blocks, call)
    return [(axis_facet(blocks[:, 0], call.out.shape, call.out.dim() - 3),)]


def _channels(tracer: Tracer, call: Call, space: int = 2) -> Tensor | None:
    """Return the ids along the channel axis of the first tensor; lock ids along other axes."""
    source = call.tensors[0]
    label = tracer.label(source)
    axis = source.dim() - 1 - space
    ids = along(label[0], axis) if len(label) == 1 else None
    if ids is None:
        tracer.lock_label(label, "its channels are not on the channel axis", call)
    return ids


@rule("torchvision.roi_align", "torchvision.roi_pool", values=shapes.boxes_needed)
def regions(tracer: Tracer, call: Call) -> Labels:
    """Keep the channels of the image that regions are read from."""
    tracer.lock_label(tracer.label(call["rois"]), "used as sampling coordinates", call)
    ids = _channels(tracer, call)
    return [(axis_facet(ids, call.out.shape, 1),)] * 2 if ids is not None else []


@rule(*aten("_fft_c2c _fft_r2c _fft_c2r"))
def fourier(tracer: Tracer, call: Call) -> Labels:
    """Keep ids that do not vary along the transformed axes."""
    source = call["self"]
    dims = {d % source.dim() for d in call["dim"]}
    facets = []
    for facet in tracer.label(source):
        if varying(facet) & dims:
            tracer.lock_label((facet,), MIXED, call)
        else:
            facets.append(narrowed(facet, dims).expand(call.out.shape))
    return [tuple(facets)]


@rule("aten.view_as_real", "aten.view_as_complex")
def complex_parts(tracer: Tracer, call: Call) -> Labels:
    """Keep ids; real and imaginary part of a number belong to the same channel."""
    facets = []
    for facet in tracer.label(call["self"]):
        if call.out.is_complex():
            last = facet.dim() - 1
            if last in varying(facet):
                tracer.lock_label((facet,), MIXED, call)
                continue
            facets.append(facet.select(last, 0))
        else:
            facets.append(core(facet).unsqueeze(-1).expand(call.out.shape))
    return [tuple(facets)]
