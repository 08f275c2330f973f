"""What each family of operations does to channel ids.

An operation that only moves numbers needs no rule: it is run on the ids.  A rule is a small function
`(tracer, call) -> labels of the outputs`; operations that no rule knows lock what goes into them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count

from slimcnn.graph.ids import NONE, Label, along, axis_facet, compact, core, ids_in, varying
from slimcnn.graph.tracer import Call, ContractionRecord, Tracer
from slimcnn.layers.channel_pad import ChannelPad

Rule = Callable[[Tracer, Call], list[Label]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Give the decorated rule to these operations."""

    def decorate(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return decorate


def apply_rule(tracer: Tracer, call: Call) -> list[Label]:
    """Find the labels of an operation's outputs, one for each output tensor."""
    name = call.site.op
    if name in RULES:
        labels = RULES[name](tracer, call)
    elif name.rstrip("_") in POINTWISE or torch.Tag.pointwise in call.func.tags:
        labels = pointwise(tracer, call)
    else:
        labels = unknown(tracer, call)
    n = sum(isinstance(t, Tensor) for t in tree_leaves(call.out))
    return (labels + [()] * n)[:n]


# --- operations that only move numbers: run them on the ids ---------------------------------------------------

MOVES = """alias detach transpose t permute unsqueeze squeeze slice select unbind expand flip roll repeat
    pixel_unshuffle diagonal narrow_copy index_select index unfold movedim rot90""".split()
RESHAPES = ("view", "_unsafe_view", "_reshape_alias", "reshape")


@rule(*MOVES)
def move(tracer: Tracer, call: Call) -> list[Label]:
    """Run the operation itself on the ids of its input."""
    _remember_move(tracer, call)
    source, *rest = call.arguments
    indices = [t for name in rest for t in tree_leaves(call[name]) if isinstance(t, Tensor)]
    for index in indices:
        tracer.lock_label(tracer.label(index), "a table of positions kept in a buffer", call)
    others = {name: call[name] for name in rest}
    moved = [[compact(t) for t in tree_leaves(call.func(facet, **others))] for facet in tracer.label(call[source])]
    return [tuple(facets) for facets in zip(*moved, strict=True)]


@rule(*RESHAPES)
def reshape(tracer: Tracer, call: Call) -> list[Label]:
    """Reshape the ids; a view may need a copy where the ids have stride 0."""
    _remember_move(tracer, call)
    facets = []
    for facet in tracer.label(call["self"]):
        moved = compact(facet.reshape(call.out.shape))
        if len(varying(facet)) == 1 and len(varying(moved)) == 2:
            _tie_parts(tracer, call, core(moved).squeeze())
        facets.append(moved)
    return [tuple(facets)]


def _tie_parts(tracer: Tracer, call: Call, table: Tensor) -> None:
    """Tie equal offsets of equal parts, so that every part keeps the same number of channels.

    A channel axis that is viewed as (parts, channels) stays viewable after a cut only then.  Which of the two
    numbers is the number of parts is not known here; it is taken to be the smaller, and a trial cut will tell.
    """
    if table.size(0) > table.size(1):
        table = table.t()
    tracer.unify(table[:1].expand(len(table) - 1, -1), table[1:], call)


@rule("split", "split_with_sizes", "chunk")
def split(tracer: Tracer, call: Call) -> list[Label]:
    """Run the split on the ids; parts of equal size lose equal offsets."""
    labels = move(tracer, call)
    d = call["dim"] % call["self"].dim()
    for facets in zip(*labels, strict=True):
        sizes = {facet.size(d) for facet in facets}
        if d in varying(facets[0]) and len(sizes) == 1 and len(facets) > 1:
            for other in facets[1:]:
                tracer.unify(core(facets[0], varying(other)), core(other, varying(other)), call)
    return labels


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, call: Call) -> list[Label]:
    """Shuffle the ids; every group loses equal offsets."""
    for facet in tracer.label(call["self"]):
        ids = along(facet, 1)
        if ids is not None and 1 in varying(facet):
            rows = ids.view(call["groups"], -1)
            tracer.unify(rows[:1].expand(len(rows) - 1, -1), rows[1:], call)
    return move(tracer, call)


@rule("pixel_shuffle")
def pixel_shuffle(tracer: Tracer, call: Call) -> list[Label]:
    """The r^2 channels that become one go together."""
    _remember_move(tracer, call)
    axis = call["self"].dim() - 3
    facets = []
    for facet in tracer.label(call["self"]):
        ids = along(facet, axis)
        if ids is None:
            tracer.lock_label((facet,), "channels do not lie along the channel axis", call)
            continue
        blocks = ids.reshape(-1, call["upscale_factor"] ** 2)
        tracer.unify(blocks[:, :1].expand_as(blocks), blocks, call)
        facets.append(axis_facet(blocks[:, 0], call.out.shape, axis))
    return [tuple(facets)]


@rule("cat", "stack")
def join(tracer: Tracer, call: Call) -> list[Label]:
    """Join ids as the tensors are joined; a part without channels contributes -1."""
    _remember_move(tracer, call)
    tensors: list[Tensor] = call["tensors"]
    axis = call["dim"] % call.out.dim()
    parts = [(t, tracer.label(t)) for t in tensors if t.numel()]
    count = max(len(label) for _, label in parts)
    facets = []
    for i in range(count):
        ids = [label[i] if i < len(label) else torch.tensor(NONE).expand(t.shape) for t, label in parts]
        shared = _shared_constant_dims(ids) - ({axis} if call.site.op == "cat" else set())
        narrow = [_narrow(facet, shared) for facet in ids]
        facets.append(compact(call.func(narrow, axis).expand(call.out.shape)))
    return [tuple(facets)]


def _shared_constant_dims(facets: list[Tensor]) -> set[int]:
    return set(range(facets[0].dim())) - set().union(*(varying(f) for f in facets))


def _narrow(facet: Tensor, dims: set[int]) -> Tensor:
    for d in dims:
        facet = facet.narrow(d, 0, 1)
    return facet


@rule("constant_pad_nd")
def pad(tracer: Tracer, call: Call) -> list[Label]:
    """Pad channels with fresh ids, space with the same channel's id."""
    _remember_move(tracer, call)
    amounts = call["pad"]
    facets = []
    for facet in tracer.label(call["self"]):
        for i in range(0, len(amounts), 2):
            d = facet.dim() - 1 - i // 2
            front, back = amounts[i], amounts[i + 1]
            if d not in varying(facet):
                size = list(facet.shape)
                size[d] += front + back
                facet = facet.narrow(d, 0, 1).expand(size) if facet.size(d) else facet.new_full(size, NONE)
            elif min(front, back) < 0 or varying(facet) != {d}:
                tracer.lock_label((facet,), "padded or cropped in a way that is not followed", call)
                return []
            elif front or back:
                facet = _pad_channels(tracer, call, facet, d, front, back)
        facets.append(facet)
    return [tuple(facets)]


def _pad_channels(tracer: Tracer, call: Call, facet: Tensor, d: int, front: int, back: int) -> Tensor:
    first, last = tracer.fresh(front), tracer.fresh(back)
    if isinstance(tracer.module, ChannelPad):
        tracer.ledger.pads.append((tracer.module_name, first, last))
    else:
        tracer.lock(torch.cat([first, last]), "channels padded by a number written in the code", call)
    middle = along(facet, d)
    assert middle is not None
    shape = list(facet.shape)
    shape[d] += front + back
    return axis_facet(torch.cat([first, middle, last]), tuple(shape), d)


@rule("copy_")
def copy(tracer: Tracer, call: Call) -> list[Label]:
    """Overwrite the ids of the destination with those of the source."""
    shape = call["self"].shape
    return [tuple(facet.expand(shape) for facet in tracer.label(call["src"]))]


@rule("clone", "_to_copy", "contiguous", "lift_fresh", "native_dropout", "dropout", "rsub", "neg")
def keep(tracer: Tracer, call: Call) -> list[Label]:
    """Pass the ids of the only tensor on."""
    return [tracer.label(call.tensors[0])]


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
      "new_empty", "new_full", "new_empty_strided", "empty_strided", "fill_", "zero_")  # fmt: skip
def constant(tracer: Tracer, call: Call) -> list[Label]:
    """Forget the ids: the result does not depend on the numbers that were there."""
    return []


def _remember_move(tracer: Tracer, call: Call) -> None:
    for tensor in call.tensors:
        label = tracer.label(tensor)
        if label:
            tracer.ledger.moves.append((call.site, ids_in(label)))


# --- operations where tensors meet, element by element ---------------------------------------------------------

POINTWISE = {"hardswish", "hardsigmoid", "_prelu_kernel", "where", "masked_fill", "hardtanh", "clamp", "prelu"}


def pointwise(tracer: Tracer, call: Call) -> list[Label]:
    """Unify the channels that meet, with broadcasting."""
    outputs = [t for t in tree_leaves(call.out) if isinstance(t, Tensor)]
    return [meet(tracer, call, call.tensors, outputs[0].shape)] * len(outputs)


def meet(tracer: Tracer, call: Call, tensors: list[Tensor], shape: torch.Size) -> Label:
    """Unify the facets of tensors that are broadcast together to one shape.

    Facets that change along the same dimensions meet.  A tensor that has many positions where a facet
    changes, but no channels there, cannot shrink with it: the facet is locked, unless the tensor is the
    same number all along.
    """
    result: list[Tensor] = []
    spread = [(t, [_align(f, shape) for f in tracer.label(t)]) for t in tensors]
    for tensor, facets in spread:
        for facet in facets:
            if not varying(facet):
                continue
            for other, other_facets in spread:
                if other is not tensor:
                    _meet_one(tracer, call, facet, other, other_facets, shape)
            if not any(varying(facet) & varying(known) for known in result):
                result.append(facet)
    return tuple(result)


def _align(facet: Tensor, shape: torch.Size) -> Tensor:
    return facet.expand(shape)


def _meet_one(
    tracer: Tracer, call: Call, facet: Tensor, other: Tensor, other_facets: list[Tensor], shape: torch.Size
) -> None:
    dims = varying(facet)
    offset = len(shape) - other.dim()
    if all(d < offset or other.size(d - offset) == 1 or other.stride(d - offset) == 0 for d in dims):
        return
    meeting = [f for f in other_facets if varying(f) & dims]
    for facet_b in meeting:
        both = varying(facet) | varying(facet_b)
        tracer.unify(core(facet, both), core(facet_b, both), call)
    mark = tracer.mark(other)
    uniform = mark is None and all(_uniform(other, d - offset) for d in dims if d >= offset)
    if not meeting and not uniform:
        tracer.lock_label((facet,), "meets a tensor whose channels must stay", call)


def _uniform(tensor: Tensor, d: int) -> bool:
    return bool((tensor == tensor.narrow(d, 0, 1)).all())


@rule("glu")
def glu(tracer: Tracer, call: Call) -> list[Label]:
    """Tie channel j of the first half to channel j of the gate."""
    _remember_move(tracer, call)
    d = call["dim"] % call["self"].dim()
    halves = [facet.chunk(2, dim=d) for facet in tracer.label(call["self"])]
    for a, b in halves:
        tracer.unify(core(a, varying(a)), core(b, varying(a)), call)
    return [tuple(a for a, _ in halves)]


# --- operations that use up an axis ----------------------------------------------------------------------------


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm", "logsumexp",
      "argmax", "argmin", "any", "all", "prod", "median", "max", "min", "nanmean", "nansum")  # fmt: skip
def reduce(tracer: Tracer, call: Call) -> list[Label]:
    """Pass ids on where they do not change along the reduced axes, lock them where they do."""
    source: Tensor = call["self"]
    if isinstance(call.arguments.get("other"), Tensor):
        return pointwise(tracer, call)
    dims = _reduced(call, source)
    keepdim = bool(call.arguments.get("keepdim", False))
    facets = []
    for facet in tracer.label(source):
        if varying(facet) & dims:
            tracer.lock_label((facet,), "mixed over its channels", call)
            continue
        for d in sorted(dims, reverse=True):
            facet = facet.narrow(d, 0, 1) if keepdim else facet.select(d, 0)
        facets.append(facet)
    outputs = sum(isinstance(t, Tensor) for t in tree_leaves(call.out))
    return [tuple(facets)] * outputs


def _reduced(call: Call, source: Tensor) -> set[int]:
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        return set(range(source.dim()))
    return {d % source.dim() for d in (dims if isinstance(dims, list | tuple) else [dims])}


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "sort", "topk", "cumprod")
def mix_along(tracer: Tracer, call: Call) -> list[Label]:
    """Lock ids along the axis whose numbers look at each other; the others pass."""
    source: Tensor = call["self"]
    d = call["dim"] % source.dim()
    facets = []
    for facet in tracer.label(source):
        if d in varying(facet):
            tracer.lock_label((facet,), "compared with each other", call)
        else:
            facets.append(core(facet, set(range(facet.dim())) - {d}).expand(call_shape(call)))
    return [tuple(facets)]


def call_shape(call: Call) -> torch.Size:
    """Give the shape of the first output."""
    return next(t.shape for t in tree_leaves(call.out) if isinstance(t, Tensor))


SPATIAL = """max_pool{n}d_with_indices max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d _adaptive_avg_pool{n}d
    adaptive_max_pool{n}d upsample_nearest{n}d _upsample_nearest_exact{n}d reflection_pad{n}d replication_pad{n}d
    upsample_bilinear{n}d upsample_bicubic{n}d upsample_linear{n}d upsample_trilinear{n}d _upsample_bilinear{n}d_aa
    _upsample_bicubic{n}d_aa grid_sampler_{n}d"""


@rule(*(name.format(n=n) for n in (1, 2, 3) for name in SPATIAL.split()))
def spatial(tracer: Tracer, call: Call) -> list[Label]:
    """Pass ids on when they do not change over space."""
    n = next(int(c) for c in reversed(call.site.op.replace("_aa", "").replace("_with_indices", "")) if c.isdigit())
    source = call.tensors[0]
    space = set(range(source.dim() - n, source.dim()))
    facets = []
    for facet in tracer.label(source):
        if varying(facet) & space:
            tracer.lock_label((facet,), "pooled or resampled together", call)
        else:
            facets.append(_narrow(facet, space).expand(call_shape(call)))
    return [tuple(facets)] * 2


# --- operations with a weight ----------------------------------------------------------------------------------


@rule("convolution")
def convolution(tracer: Tracer, call: Call) -> list[Label]:
    """Input ids meet the weight's input axis; the output has the ids of the weight's output axis.

    With g > 1 groups the same offsets go in every group, so that each keeps its equal share; with one
    input channel per group (depthwise), output o goes with input o // multiplier.
    """
    x, weight, groups = call["input"], call["weight"], call["groups"]
    x_ids = _channel_ids(tracer, call, x, 1)
    out_axis, in_axis = (1, 0) if call["transposed"] else (0, 1)
    w_out, w_in = (_weight_ids(tracer, call, weight, axis) for axis in (out_axis, in_axis))
    _lock_kernel(tracer, call, weight)
    if call["transposed"]:
        out_ids = _transposed_channels(tracer, call, x_ids, w_out, w_in, groups, weight.size(0) // groups)
    elif groups > 1 and weight.size(1) == 1:
        out_ids = _depthwise_channels(tracer, call, x_ids, w_out, weight.size(0) // groups)
    else:
        _contract(tracer, call, x_ids, w_in.repeat(groups) if w_in is not None else None)
        out_ids = w_out
        if groups > 1 and w_out is not None:
            rows = w_out.view(groups, -1)
            tracer.unify(rows[:1].expand(groups - 1, -1), rows[1:], call)
    bias_ids = _weight_ids(tracer, call, call["bias"], 0) if call["bias"] is not None else None
    _join_parameter(tracer, call, bias_ids, out_ids)
    macs = conv_flop_count(x.shape, weight.shape, call.out.shape, call["transposed"]) // 2
    produces = groups == 1 or weight.size(1) > 1
    tracer.ledger.contractions.append(ContractionRecord(call.site.module, macs, out_ids, w_in, produces))
    return [(axis_facet(out_ids, call.out.shape, 1),) if out_ids is not None else ()]


def _depthwise_channels(
    tracer: Tracer, call: Call, x_ids: Tensor | None, w_out: Tensor | None, multiplier: int
) -> Tensor | None:
    if w_out is not None and x_ids is not None:
        tracer.unify(x_ids.repeat_interleave(multiplier), w_out, call)
    elif w_out is not None:
        tracer.lock(w_out, "depthwise on channels that must stay", call)
    elif x_ids is not None:
        tracer.lock(x_ids, "read by a depthwise convolution without a weight of its own", call)
    return w_out


def _transposed_channels(
    tracer: Tracer, call: Call, x_ids: Tensor | None, w_out: Tensor | None, w_in: Tensor | None, groups: int, a: int
) -> Tensor | None:
    _contract(tracer, call, x_ids, w_in)
    if groups == 1:
        return w_out
    if w_in is not None and a > 1:
        rows = w_in.view(groups, a)
        tracer.unify(rows[:1].expand(groups - 1, -1), rows[1:], call)
    if w_out is not None:
        if w_in is not None and a == 1:
            tracer.lock(w_in, "grouped transposed convolution with one input channel per group", call)
        return w_out.repeat(groups)
    if w_in is not None and a > 1:
        tracer.lock(w_in, "grouped transposed convolution with one output channel per group", call)
        return None
    return w_in


def _lock_kernel(tracer: Tracer, call: Call, weight: Tensor) -> None:
    for facet in tracer.label(weight):
        if varying(facet) - {0, 1}:
            tracer.lock(ids_in((facet,)), "kernel positions", None)


def _channel_ids(tracer: Tracer, call: Call, x: Tensor, axis: int) -> Tensor | None:
    """Read the ids of an activation along its channel axis; lock what changes along other axes."""
    found = None
    for facet in tracer.label(x):
        if varying(facet) == {axis}:
            found = along(facet, axis)
        else:
            tracer.lock_label((facet,), "channels do not lie along the channel axis", call)
    return found


def _weight_ids(tracer: Tracer, call: Call, weight: Tensor, axis: int) -> Tensor | None:
    for facet in tracer.label(weight):
        if varying(facet) == {axis}:
            return along(facet, axis)
        if axis in varying(facet):
            tracer.lock_label((facet,), "a weight whose axes are mixed", call)
    return None


def _contract(tracer: Tracer, call: Call, x_ids: Tensor | None, w_ids: Tensor | None) -> None:
    """Let the channels that are read meet the weight's input axis."""
    if x_ids is not None and w_ids is not None:
        tracer.unify(x_ids, w_ids, call)
    elif w_ids is not None:
        tracer.lock(w_ids, "reads the network's input, or channels that must stay", call)
    elif x_ids is not None:
        tracer.lock(x_ids, "read by a weight that must stay", call)


def _join_parameter(tracer: Tracer, call: Call, parameter: Tensor | None, channels: Tensor | None) -> None:
    if parameter is not None and channels is not None:
        tracer.unify(parameter, channels, call)
    elif parameter is not None:
        tracer.lock(parameter, "one value per channel that must stay", call)


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
def batch_norm(tracer: Tracer, call: Call) -> list[Label]:
    """Tie scale, shift and statistics to the channels that they normalise."""
    channels = _channel_ids(tracer, call, call["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.arguments.get(name) is not None:
            ids = _weight_ids(tracer, call, call[name], 0)
            _join_parameter(tracer, call, ids, channels)
            if name == "weight" and ids is not None:
                tracer.ledger.norms.append(ids)
    if channels is None:
        return []
    return [(axis_facet(channels, call["input"].shape, 1),)]


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm")
def statistics_over_channels(tracer: Tracer, call: Call) -> list[Label]:
    """Lock channels that are normalised together: taking one away changes the statistics of the others."""
    x = call["input"]
    shape = call_shape(call)
    normalised = call.arguments.get("normalized_shape")
    dims = set(range(x.dim() - len(normalised), x.dim())) if normalised is not None else set(range(1, x.dim()))
    affine = [call[name] for name in ("weight", "bias") if call.arguments.get(name) is not None]
    for parameter in affine:
        tracer.lock_label(tracer.label(parameter), "one value per channel that must stay", call)
    facets = []
    for facet in tracer.label(x):
        if varying(facet) & dims:
            tracer.lock_label((facet,), "normalised together: the statistics would change", call)
        else:
            facets.append(facet.expand(shape))
    return [tuple(facets)]


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "addmv")
def matrix_product(tracer: Tracer, call: Call) -> list[Label]:
    """Contract the last axis of the first factor with the second-last of the second."""
    a, b = _factors(call)
    inner_a, inner_b = a.dim() - 1, max(b.dim() - 2, 0)
    read_a, outer_a = _split_facets(tracer, call, a, inner_a)
    read_b, outer_b = _split_facets(tracer, call, b, inner_b)
    if tracer.fixed(a) == tracer.fixed(b):
        for ids in (read_a, read_b):
            if ids is not None:
                tracer.lock(ids, "a product of two activations", call)
    else:
        activation, weight = (read_b, read_a) if tracer.fixed(a) else (read_a, read_b)
        _contract(tracer, call, activation, weight)
        _record_product(tracer, call, a, b, read_a, read_b, outer_a, outer_b)
    shape = call.out.shape
    facets = [facet.narrow(inner_a, 0, 1).expand(shape) for facet in outer_a]
    facets += [facet.narrow(inner_b, 0, 1).expand(shape) for facet in outer_b]
    label: Label = tuple(facets)
    if "add" in call.site.op:
        label = _add_bias(tracer, call, label, shape)
    return [label]


def _factors(call: Call) -> tuple[Tensor, Tensor]:
    names = [("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("mat", "vec"), ("self", "vec")]
    pair = next(p for p in names if p[0] in call.arguments and p[1] in call.arguments)
    return call[pair[0]], call[pair[1]]


def _split_facets(tracer: Tracer, call: Call, tensor: Tensor, inner: int) -> tuple[Tensor | None, list[Tensor]]:
    read, outer = None, []
    for facet in tracer.label(tensor):
        if varying(facet) == {inner}:
            read = along(facet, inner)
        elif inner in varying(facet):
            tracer.lock_label((facet,), "read along several axes at once", call)
        else:
            outer.append(facet)
    return read, outer


def _record_product(
    tracer: Tracer, call: Call, a: Tensor, b: Tensor, read_a: Tensor | None, read_b: Tensor | None,
    outer_a: list[Tensor], outer_b: list[Tensor],
) -> None:  # fmt: skip
    macs = a.numel() * (b.size(-1) if b.dim() > 1 else 1)
    weight_read, outer = (read_a, outer_a) if tracer.fixed(a) else (read_b, outer_b)
    weight = a if tracer.fixed(a) else b
    out_axis = weight.dim() - 2 if weight is a else weight.dim() - 1
    out_ids = next((along(f, out_axis) for f in outer if varying(f) == {out_axis}), None)
    tracer.ledger.contractions.append(ContractionRecord(call.site.module, macs, out_ids, weight_read))


def _add_bias(tracer: Tracer, call: Call, label: Label, shape: torch.Size) -> Label:
    bias: Tensor = call["self"]
    facets = [_align(f, shape) for f in tracer.label(bias)]
    for facet in facets:
        partners = [f for f in label if varying(f) & varying(facet)]
        for partner in partners:
            both = varying(facet) | varying(partner)
            tracer.unify(core(facet, both), core(partner, both), call)
        if not partners and varying(facet):
            tracer.lock_label((facet,), "one value per channel that must stay", call)
    return label


def unknown(tracer: Tracer, call: Call) -> list[Label]:
    """Lock everything that goes into an operation that is not understood."""
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), "an operation whose effect on channels is not known", call)
    return []
