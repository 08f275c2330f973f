"""Rules of operations with a weight, which read channels and produce new ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, sdpa_flop_count

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import Label, along, axis_facet, core, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.rules.pointwise import BY_ITS_POSITION, Operand, combine, operand
from slimcnn.graph.trace_record import Call, ContractionRecord, LockRecord
from slimcnn.graph.tracer import Tracer
from slimcnn.layers.emptied import EMPTY

TOGETHER = "normalized together: the statistics would change"
MIXED_AXES = "weight with mixed axes"
PER_CHANNEL = "combined with per-channel values that cannot be pruned"
ASIDE = "its channels are not on the channel axis"


@rule(
    "aten.convolution",
    kind="convolution",
    ordered=True,
    passes_empty=(*EMPTY,),
    values="skipped",
    shape=shapes.convolved,
)
def convolution(tracer: Tracer, call: Call) -> Labels:
    """Unify input ids with the weight's input axis; the output has the ids of the weight's output axis.

    With g > 1 groups, each group reads and produces separate channels, and all groups keep the same number. With one
    input channel per group (depthwise), output o is tied to input o // multiplier.
    """
    x, weight, groups = call["input"], call["weight"], call["groups"]
    x_ids = _ids_along(tracer, call, x, 1, ASIDE)
    out_axis, in_axis = (1, 0) if call["transposed"] else (0, 1)
    w_out, w_in = _weight_axes(tracer, call, weight, out_axis, in_axis, groups)
    depthwise = groups > 1 and weight.size(1) == 1 and w_in is None
    if call["transposed"]:
        out_ids = _transposed_channels(tracer, call, x_ids, w_out, w_in)
    elif depthwise:
        out_ids = _depthwise_channels(tracer, call, x_ids, w_out, weight)
    else:
        _contract_groups(tracer, call, x_ids, w_in)
        out_ids = w_out
        if out_ids is not None:
            tracer.part(out_ids.view(groups, -1), call)
    _join_parameters(tracer, call, ["bias"], out_ids)
    macs = conv_flop_count(list(x.shape), list(weight.shape), list(call.out.shape), call["transposed"]) // 2
    produces = not depthwise
    read = None if w_in is out_ids else w_in
    shares = [ids for ids in (out_ids, read) if ids is not None]
    lost = call.out.size(1) if out_ids is None and produces and call.out.size(1) > 1 else 0
    tracer.record.contractions.append(
        ContractionRecord(call.site.module, macs, tuple(shares), out_ids if produces else None, read, lost)
    )
    return [(axis_facet(out_ids, call.out.shape, 1),) if out_ids is not None else ()]


def _contract_groups(tracer: Tracer, call: Call, x_ids: Tensor | None, w_in: Tensor | None) -> None:
    """Unify the input channels with the weight's input axis, whose ids may be shared by all groups."""
    if w_in is not None and len(w_in) < call["input"].size(1):  # one set of offsets for all groups
        w_in = w_in.expand(call["groups"], -1).reshape(-1)
    elif x_ids is not None:
        tracer.part(x_ids.view(call["groups"], -1), call)
    if x_ids is not None or not _is_zero(tracer, call["input"]):
        _contract(tracer, call, x_ids, w_in)


def _is_zero(tracer: Tracer, x: Tensor) -> bool:
    """Return whether a constant is zero, like the first state of a ConvLSTM: any weight may read it."""
    return tracer.mark(x) is None and not bool(x.any())


def _depthwise_channels(
    tracer: Tracer, call: Call, x_ids: Tensor | None, w_out: Tensor | None, weight: Tensor
) -> Tensor | None:
    read = x_ids.repeat_interleave(weight.size(0) // call["groups"]) if x_ids is not None else None
    if w_out is not None and read is not None:
        tracer.unify(read, w_out, call)
    elif w_out is not None:
        tracer.lock(w_out, "depthwise convolution on locked channels", call)
    elif read is not None and _same(tracer, weight):
        return read
    elif read is not None:
        tracer.lock(read, "read by a depthwise convolution whose weight cannot be pruned", call)
    return w_out


def _same(tracer: Tracer, weight: Tensor) -> bool:
    """Return whether a constant holds the same values for every channel, like the kernels of a blur."""
    return tracer.known(weight) and bool((weight == weight[:1]).all())


def _transposed_channels(
    tracer: Tracer, call: Call, x_ids: Tensor | None, w_out: Tensor | None, w_in: Tensor | None
) -> Tensor | None:
    groups, weight = call["groups"], call["weight"]
    per_group = weight.size(0) // groups
    if x_ids is not None and w_out is None and w_in is None and groups > 1 and per_group == 1 and _same(tracer, weight):
        return x_ids.repeat_interleave(weight.size(1))
    _contract(tracer, call, x_ids, w_in)
    if groups == 1:
        return w_out
    if per_group > 1:
        _tie_groups(tracer, call, w_in, groups)
    if w_out is not None:
        if w_in is not None and per_group == 1:
            tracer.lock(w_in, "grouped transposed convolution with one input channel per group", call)
        return w_out.expand(groups, -1).reshape(-1)
    if w_in is not None and per_group > 1:
        tracer.lock(w_in, "grouped transposed convolution with one output channel per group", call)
        return None
    return w_in


def _tie_groups(tracer: Tracer, call: Call, ids: Tensor | None, groups: int) -> None:
    if ids is not None and groups > 1:
        rows = ids.view(groups, -1)
        tracer.unify(rows[:1].expand(groups - 1, -1), rows[1:], call)


def _weight_axes(
    tracer: Tracer, call: Call, weight: Tensor, out_axis: int, in_axis: int, groups: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return the ids of a kernel's output and input axes; ids on its other axes are locked.

    The input ids of a grouped convolution may differ between groups: then there is one for each input channel.
    """
    found: dict[int, list[Tensor]] = {out_axis: [], in_axis: []}
    blocks = None
    for facet in tracer.label(weight):
        dims = varying(facet)
        axis = next(iter(dims), -1)
        if groups > 1 and out_axis == 0 and (found[0] or len(dims) > 1) and blocks is None:
            blocks = _ids_by_group(facet, groups)
            if blocks is not None:
                continue
        if len(dims) == 1 and axis in found:
            found[axis].append(facet)
        elif dims & {out_axis, in_axis}:
            tracer.lock_label((facet,), MIXED_AXES, call)
        else:
            tracer.lock_label((facet,), "kernel positions", None)
    out, read = (_only(tracer, call, found[axis], axis, MIXED_AXES) for axis in (out_axis, in_axis))
    return out, read if blocks is None else blocks


def _ids_by_group(facet: Tensor, groups: int) -> Tensor | None:
    """Return the ids of a grouped convolution's input axis, group by group; None if they do not vary by group."""
    if not (0 in varying(facet) and varying(facet) <= {0, 1}):
        return None
    table = core(facet, {0, 1}).flatten(1)
    parts = table.view(groups, -1, table.size(1))
    return parts[:, 0].reshape(-1) if bool((parts == parts[:, :1]).all()) else None


def _ids_along(tracer: Tracer, call: Call, tensor: Tensor, axis: int, reason: str) -> Tensor | None:
    """Return the ids along one axis; lock ids that vary along other axes only, and channels selected by position.

    If ids vary along other axes too, as when a linear layer produces all pixels of an image, they are tied: a channel
    can only be removed with all its pixels.
    """
    found = []
    for facet in tracer.label(tensor):
        dims = varying(facet)
        if axis in dims:
            found.append(facet if len(dims) == 1 else _first_along(tracer, call, facet, axis))
        else:
            tracer.lock_label((facet,), reason if dims else BY_ITS_POSITION, call)
    return _only(tracer, call, found, axis, reason)


def _first_along(tracer: Tracer, call: Call, facet: Tensor, axis: int) -> Tensor:
    """Tie ids that vary along other axes too to the first ones there."""
    first = facet
    for d in varying(facet) - {axis}:
        first = first.narrow(d, 0, 1).expand_as(facet)
    if first is not facet:
        tracer.tie(first, facet, call)
    return first


def _only(tracer: Tracer, call: Call, facets: list[Tensor], axis: int, reason: str) -> Tensor | None:
    """Return the ids along an axis with one facet; several facets on one axis are not supported and are locked."""
    if len(facets) > 1:
        tracer.lock_label(tuple(facets), reason, call)
        return None
    return along(facets[0], axis) if facets else None


def _contract(tracer: Tracer, call: Call, x_ids: Tensor | None, w_ids: Tensor | None) -> None:
    """Unify the input channels with the weight's input axis."""
    if x_ids is not None and w_ids is not None:
        tracer.unify(x_ids, w_ids, call)
    elif w_ids is not None:
        tracer.lock(w_ids, "reads the network's input or locked channels", call)
    elif x_ids is not None:
        tracer.lock(x_ids, "read by a weight that cannot be pruned", call)


def _join_parameters(tracer: Tracer, call: Call, names: Iterable[str], channels: Tensor | None) -> None:
    """Tie per-channel parameters to their channels; constants with one value for all channels need no tie."""
    given = [call.arguments.get(name) for name in names]
    tensors = [tensor for tensor in given if tensor is not None and tensor.numel() > 1]
    tensors = [tensor for tensor in tensors if tracer.mark(tensor) is not None or not _same(tracer, tensor)]
    found = [_ids_along(tracer, call, tensor, 0, PER_CHANNEL) for tensor in tensors]
    known = [ids for ids in found if ids is not None]
    if channels is None or len(known) < len(found):
        for ids in (*known, *([channels] if channels is not None else [])):
            tracer.lock(ids, PER_CHANNEL, call)
    if channels is not None and known:
        tracer.unify(torch.cat(known), channels.expand(len(known), -1), call)


@rule("torchvision.deform_conv2d", values="skipped")
def deformable_convolution(tracer: Tracer, call: Call) -> Labels:
    """Unify the input ids with the weight's input axis; offsets and masks are the same for all channels.

    Their MACs are not counted, as by `torch.utils.flop_counter`.
    """
    for name in ("offset", "mask"):
        tracer.lock_label(tracer.label(call[name]), "used as sampling coordinates", call)
    x_ids = _ids_along(tracer, call, call["input"], 1, ASIDE)
    w_out, w_in = _weight_axes(tracer, call, call["weight"], 0, 1, 1)
    if call["groups"] > 1 or call["offset_groups"] > 1:
        for ids in (x_ids, w_out, w_in):
            if ids is not None:
                tracer.lock(ids, "deformable convolution with groups", call)
        x_ids = w_in = None
    else:
        _contract(tracer, call, x_ids, w_in)
    _join_parameters(tracer, call, ["bias"], w_out)
    shares = tuple(ids for ids in (w_out, w_in) if ids is not None)
    tracer.record.contractions.append(ContractionRecord(call.site.module, 0, shares, w_out, w_in))
    return [(axis_facet(w_out, call.out.shape, 1),) if w_out is not None else ()]


@rule("slimcnn.shift", "slimcnn.interpolate", passes_empty=True)
def per_channel_move(tracer: Tracer, call: Call) -> Labels:
    """Tie displacements to the channels that they shift (`slimcnn.layers.shifting`)."""
    channels = _ids_along(tracer, call, call["x"], 1, ASIDE)
    _join_parameters(tracer, call, ("dy", "dx"), channels)
    return [(axis_facet(channels, call.out.shape, 1),)] if channels is not None else []


@rule(
    "aten.native_batch_norm",
    kind="norm",
    ordered=True,
    passes_empty=(*EMPTY,),
    values="skipped",
    shape=shapes.normalized,
)
@rule("aten._native_batch_norm_legit_no_training", kind="norm", ordered=True, passes_empty=(*EMPTY,))
@rule("aten.cudnn_batch_norm", kind="norm")
@rule("aten._native_batch_norm_legit", "aten._native_batch_norm_legit_functional")
def batch_norm(tracer: Tracer, call: Call) -> Labels:
    """Tie scale, shift and statistics to the channels that they normalize."""
    channels = _ids_along(tracer, call, call["input"], 1, ASIDE)
    _join_parameters(tracer, call, ("weight", "bias", "running_mean", "running_var"), channels)
    scales = _ids_along(tracer, call, call["weight"], 0, PER_CHANNEL) if call["weight"] is not None else None
    if scales is not None:
        tracer.record.norms.append(scales)
    return [(axis_facet(channels, call["input"].shape, 1),)] if channels is not None else []


@rule("aten.native_layer_norm", values="skipped", shape=shapes.layer_normalized)
@rule("aten.native_group_norm", values="skipped", shape=shapes.group_normalized)
@rule("aten._fused_rms_norm")
def statistics_over_channels(tracer: Tracer, call: Call) -> Labels:
    """Lock channels that are normalized together: removing one changes the statistics of the others.

    With `inexact`, they are tied to their scale and shift; group norm keeps the same number in each group.
    """
    x = call["input"]
    normalized = call.arguments.get("normalized_shape")
    dims = set(range(x.dim() - len(normalized), x.dim())) if normalized is not None else set(range(1, x.dim()))
    axis = x.dim() - 1 if normalized is not None else 1
    along_one_axis = all(varying(facet) & dims <= {axis} for facet in tracer.label(x))
    if tracer.inexact and along_one_axis and len(normalized or [axis]) == 1:
        return _normalized_inexact(tracer, call, axis)
    for name in ("weight", "bias"):
        tracer.lock_label(tracer.label(call.arguments.get(name)), PER_CHANNEL, call)
    facets = []
    for facet in tracer.label(x):
        if varying(facet) & dims:
            tracer.lock_label((facet,), TOGETHER, call)
        else:
            facets.append(facet.expand(call.out.shape))
    return [tuple(facets)]


def _normalized_inexact(tracer: Tracer, call: Call, axis: int) -> Labels:
    x = call["input"]
    channels = _ids_along(tracer, call, x, axis, ASIDE)
    _join_parameters(tracer, call, ("weight", "bias"), channels)
    if channels is None:
        return []
    if "group" in call.arguments:
        tracer.part(channels.view(call["group"], -1), call)
    tracer.record.inexact.append(LockRecord(channels[channels >= 0], TOGETHER, call.site))
    return [(axis_facet(channels, x.shape, axis),)]


@rule("aten._weight_norm_interface")
def weight_norm(tracer: Tracer, call: Call) -> Labels:
    """Lock a weight w = g v / ||v||: removing inputs would change the norm, and so all other weights."""
    for name in ("v", "g"):
        tracer.lock_label(tracer.label(call[name]), "weight under weight_norm", call)
    return []


@rule("aten.mm", "aten.addmm", kind="matrix product", ordered=True, passes_empty=(nn.Linear,), values="skipped")
@rule("aten.bmm", "aten.baddbmm", kind="matrix product", values="skipped")
@rule("aten.mv", "aten.addmv", kind="matrix product")
def matrix_product(tracer: Tracer, call: Call) -> Labels:
    """Contract the last axis of the first factor with the second-last of the second."""
    a, b = _factors(call)
    inner_a, inner_b = a.dim() - 1, max(b.dim() - 2, 0)
    read_a, outer_a = _split_facets(tracer, call, a, inner_a)
    read_b, outer_b = _split_facets(tracer, call, b, inner_b)
    if tracer.fixed(a) == tracer.fixed(b):
        for ids in (read_a, read_b):
            if ids is not None:
                tracer.lock(ids, "summed over in a product of two activations or two weights", call)
    else:
        activation, weight = (read_b, read_a) if tracer.fixed(a) else (read_a, read_b)
        _contract(tracer, call, activation, weight)
    _record_product(tracer, call, (a, read_a, outer_a), (b, read_b, outer_b))
    columns = b.dim() > 1
    facets = [f.select(inner_a, 0).unsqueeze(-1) if columns else f.select(inner_a, 0) for f in outer_a]
    facets += [f.select(inner_b, 0).unsqueeze(-2) if columns else f.select(inner_b, 0) for f in outer_b]
    shape = call.out.shape
    label = _without_single(tracer, call, [facet.expand(shape) for facet in facets])
    if "add" in call.site.op:
        label = combine(tracer, call, [Operand(tuple(shape), label), operand(tracer, call["self"], shape)], shape)
    return [label]


def _without_single(tracer: Tracer, call: Call, facets: list[Tensor]) -> Label:
    """Lock a single channel (`bias[i]` of an attention map) that reached a product with channels: all depend on it."""
    several = tuple(facet for facet in facets if varying(facet))
    if not several:
        return tuple(facets)
    tracer.lock_label(tuple(facet for facet in facets if not varying(facet)), BY_ITS_POSITION, call)
    return several


def _factors(call: Call) -> tuple[Tensor, Tensor]:
    names = [("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("mat", "vec"), ("self", "vec")]
    pair = next(p for p in names if p[0] in call.arguments and p[1] in call.arguments)
    return call[pair[0]], call[pair[1]]


def _split_facets(tracer: Tracer, call: Call, tensor: Tensor, inner: int) -> tuple[Tensor | None, list[Tensor]]:
    """Separate the ids along the summed axis from those along the other axes."""
    read, outer = [], []
    for facet in tracer.label(tensor):
        if varying(facet) == {inner}:
            read.append(facet)
        elif inner in varying(facet):
            tracer.lock_label((facet,), "read along several axes at once", call)
        else:
            outer.append(facet)
    return _only(tracer, call, read, inner, "read along several axes at once"), outer


Factor = tuple[Tensor, Tensor | None, list[Tensor]]


def _record_product(tracer: Tracer, call: Call, one: Factor, two: Factor) -> None:
    (a, read_a, outer_a), (b, read_b, outer_b) = one, two
    if b.dim() == 1:
        return  # matrix times vector: no tool counts MACs for it
    shares = [core(facet).reshape(-1) for facet in (*outer_a, *outer_b) if varying(facet)]
    produced, read, lost = None, None, 0
    if tracer.fixed(a) != tracer.fixed(b):
        weight, read, outer = (a, read_a, outer_a) if tracer.fixed(a) else (b, read_b, outer_b)
        shares += [read] if read is not None else []
        axis = weight.dim() - 2 if weight is a else weight.dim() - 1
        produced = next((along(f, axis) for f in outer if varying(f) == {axis}), None)
        lost = weight.size(axis) if produced is None and weight.size(axis) > 1 else 0
    per_batch = not (tracer.fixed(a) and tracer.fixed(b))
    tracer.record.contractions.append(
        ContractionRecord(call.site.module, a.numel() * b.size(-1), tuple(shares), produced, read, lost, per_batch)
    )


@rule(
    *aten("""_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"""),
)
def attention(tracer: Tracer, call: Call) -> Labels:
    """Lock queries, keys and values, and count the two products."""
    tensors = [call[name] for name in ("query", "key", "value")]
    for tensor in tensors:
        tracer.lock_label(tracer.label(tensor), "computed across its channels (attention)", call)
    macs = int(sdpa_flop_count(*(t.shape for t in tensors))) // 2
    tracer.record.contractions.append(ContractionRecord(call.site.module, macs, (), None))
    return []
