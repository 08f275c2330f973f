"""Rules of operations that only move values: they are executed on the ids."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.graph.fast import shape_only as shapes
from slimcnn.graph.ids import NONE, Label, along, axis_facet, compact, core, varying
from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer
from slimcnn.layers.channel_pad import ChannelPad
from slimcnn.layers.placing import Gathering, Scattering


@rule("aten.alias", "aten.detach", ordered=True, passes_empty=True, moves=True)
@rule("aten.t", kind="transpose", ordered=True, passes_empty=(nn.Linear,), moves=True)
@rule(*aten("transpose permute unsqueeze select unbind flip rot90 pixel_unshuffle diagonal"), moves=True)
@rule("aten.expand", "aten.unfold", moves=True, sized=True)
def move(tracer: Tracer, call: Call) -> Labels:
    """Execute the operation on the ids of its input."""
    source, *rest = call.arguments
    indices = [t for name in rest for t in tree_leaves(call[name]) if isinstance(t, Tensor)]
    for index in indices:
        tracer.lock_label(tracer.label(index), "index table stored in a buffer", call)
    others = {name: call[name] for name in rest}
    moved = [[compact(t) for t in tree_leaves(call.func(facet, **others))] for facet in tracer.label(call[source])]
    return [tuple(facets) for facets in zip(*moved, strict=True)]


@rule("aten.repeat", moves=True, sized=True)
def repeat(tracer: Tracer, call: Call) -> Labels:
    """Execute the operation on the ids, or give copies of a single channel ids."""
    source, times = call["self"], call["repeats"]
    if not tracer.label(source) and len(times) == source.dim() > 1 and source.size(1) == 1:
        return [_copies(tracer, call)]
    return move(tracer, call)


def _copies(tracer: Tracer, call: Call, axis: int = 1) -> Label:
    """Return new ids for equal copies of a single channel, such as a gate: whichever are removed, the rest is equal.

    The number of copies may be hard-coded, so a trial cut is needed.
    """
    if call.out.size(axis) < 2:
        return ()
    tracer.record.size_blind = False
    return (axis_facet(tracer.fresh(call.out.size(axis)), call.out.shape, axis),)


@rule("aten.index", "aten.index_select", moves=True, sized=True, values=shapes.indices_needed)
@rule("aten.narrow_copy", "aten.roll", moves=True)
def pick(tracer: Tracer, call: Call) -> Labels:
    """Execute the operation on the ids; hard-coded positions may fit one trial cut by luck."""
    if isinstance(tracer.module, Gathering) and not tracer.label(call["self"]):
        return _gathered(tracer, call)
    labels = move(tracer, call) or []
    _note_picked(tracer, call, labels)
    return labels


def _gathered(tracer: Tracer, call: Call) -> Labels:
    """Label channels gathered from a stream with the ids of their positions in the stream."""
    ids = [along(facet, 0) for facet in tracer.label(call["index"])]
    return [tuple(axis_facet(one, tuple(call.out.shape), 1) for one in ids if one is not None)]


@rule("aten.index_copy", "aten.index_copy_", kind="placement")
def index_copy(tracer: Tracer, call: Call) -> Labels:
    """Tie channels that are scattered into a stream to their positions there; the stream keeps its width."""
    made, places = tracer.label(call["source"]), tracer.label(call["index"])
    if not (isinstance(tracer.module, Scattering) and made and places):
        for tensor in call.tensors:
            tracer.lock_label(tracer.label(tensor), "copied to fixed positions", call)
        return []
    ids = axis_facet(core(places[0]).reshape(-1), tuple(call["source"].shape), 1)
    for facet in made:
        tracer.tie(ids, facet, call)
    return []


def _note_picked(tracer: Tracer, call: Call, labels: list[Label]) -> None:
    """Record which channels, in which order, were selected by position.

    A trial cut checks that the same channels are selected after pruning.
    """
    for facet in (facet for label in labels for facet in label if varying(facet)):
        tracer.meet(core(facet).reshape(-1), None)
        tracer.record.delicate = True


@rule("aten.squeeze", moves=True)
def squeeze(tracer: Tracer, call: Call) -> Labels:
    """Squeeze the ids; record channel axes that `squeeze` would drop at size 1."""
    source: Tensor = call["self"]
    dims = call.arguments.get("dim")
    given = range(source.dim()) if dims is None else dims if isinstance(dims, list | tuple) else [dims]
    for facet in tracer.label(source):
        if varying(facet) & {d % source.dim() for d in given}:
            tracer.record.squeezed.append((facet,))
    return move(tracer, call)


@rule("aten.view", kind="view", moves=True, sized=True, parts=True, passes_empty=(nn.Linear,))
@rule("aten._unsafe_view", kind="view", moves=True, sized=True)
@rule("aten._reshape_alias", "aten.reshape", kind="view", moves=True)
def reshape(tracer: Tracer, call: Call) -> Labels:
    """Reshape the ids; a view may need a copy where the ids have stride 0."""
    facets = []
    label, source = tracer.label(call["self"]), call["self"]
    # Where the two last axes stay, or are one pixel at any size, the view is as right at any image size.
    same_pixels = source.shape[-2:] == call.out.shape[-2:] or source is tracer.pixel()
    tracer.record.reshapes_images |= bool(label) and not same_pixels
    for facet in label:
        moved = compact(facet.reshape(call.out.shape))
        if len(varying(facet)) == 1 and len(varying(moved)) == 2:
            _part(tracer, call, core(moved).squeeze())
        facets.append(moved)
    return [tuple(facets)]


def _part(tracer: Tracer, call: Call, table: Tensor) -> None:
    """Record that a channel axis is viewed as (parts, channels): every part must keep the same number.

    Which of the two sizes is the number of parts is not known here. The smaller one is assumed, and a trial cut checks
    it. Interleaved parts, (channels, parts), must lose equal offsets.
    """
    tracer.record.delicate = True
    if table.size(0) > table.size(1):
        tracer.equate(table[:, :1].expand(-1, table.size(1) - 1), table[:, 1:], call)
    else:
        tracer.part(table, call)


@rule(*aten("split split_with_sizes unsafe_split unsafe_split_with_sizes"), moves=True, sized=True, parts=True)
@rule("aten.chunk", moves=True, parts=True)
def split(tracer: Tracer, call: Call) -> Labels:
    """Execute the split on the ids; parts of equal size keep the same number of channels."""
    labels = move(tracer, call) or []
    d = call["dim"] % call["self"].dim()
    for facets in zip(*labels, strict=True):
        if len({facet.size(d) for facet in facets}) == 1 and facets[0].size(d) > 1:
            _part_along(tracer, call, facets, d)
        else:
            _separate(tracer, facets, d)
    if any(d in varying(facet) for facet in tracer.label(call["self"])):
        _note_picked(tracer, call, labels)
    return labels


def _part_along(tracer: Tracer, call: Call, parts: Iterable[Tensor], d: int) -> None:
    """Require parts of equal size to keep the same number of channels."""
    parts = list(parts)
    rows = [along(part, d) for part in parts]
    if all(row is not None for row in rows):
        if d in set().union(*map(varying, parts)):
            tracer.part(torch.stack([row for row in rows if row is not None]), call)
    else:
        for other in parts[1:]:
            tracer.tie(parts[0], other, call)


def _separate(tracer: Tracer, pieces: Iterable[Tensor], d: int) -> None:
    """Record the pieces of a channel axis: none may become empty."""
    for piece in pieces:
        ids = along(piece, d) if piece.numel() and d in varying(piece) else None
        if ids is not None:
            tracer.record.pieces.append(ids[ids >= 0])


@rule("aten.slice", moves=True, sized=True, parts=True)
def take_slice(tracer: Tracer, call: Call) -> Labels:
    """Execute the slice on the ids; equal parts, such as `x[:, c // 2:]`, keep the same number of channels."""
    labels = move(tracer, call) or []
    source, d = call["self"], call["dim"] % call["self"].dim()
    whole, size = source.size(d), call.out.size(d)
    start = call["start"] or 0
    start = max(start + whole, 0) if start < 0 else start
    equal_parts = call["step"] == 1 and 0 < size < whole and whole % size == 0 and start % size == 0
    if size < whole and any(_has_channels_along(facet, d) for facet in tracer.label(source)):
        _note_picked(tracer, call, labels)
    for facet in tracer.label(source) if equal_parts else ():
        if d in varying(facet) and bool((facet >= 0).all()):
            _part_along(tracer, call, facet.split(size, dim=d), d)
    if not equal_parts and size < whole and call["step"] == 1:
        _separate(tracer, [facet for label in labels for facet in label], d)
    return labels


def _has_channels_along(facet: Tensor, d: int) -> bool:
    """Return whether channels change along an axis; in a partly written image, only -1 and one channel alternate."""
    if d not in varying(facet):
        return False
    small = core(facet, {d})
    return bool(((small != NONE) & (small != small.amax(d, keepdim=True))).any())


@rule("aten.channel_shuffle", "aten.native_channel_shuffle", moves=True)
def channel_shuffle(tracer: Tracer, call: Call) -> Labels:
    """Shuffle the ids; every group keeps the same number of channels."""
    tracer.record.delicate = True
    for facet in tracer.label(call["self"]):
        ids = along(facet, 1)
        if ids is not None and 1 in varying(facet):
            tracer.part(ids.view(call["groups"], -1), call)
    return move(tracer, call)


@rule("aten.pixel_shuffle", moves=True)
def pixel_shuffle(tracer: Tracer, call: Call) -> Labels:
    """Tie the r^2 channels that become one."""
    axis = call["self"].dim() - 3
    facets = []
    for facet in tracer.label(call["self"]):
        ids = along(facet, axis)
        if ids is None:
            tracer.lock_label((facet,), "its channels are not on the channel axis", call)
            continue
        blocks = ids.reshape(-1, call["upscale_factor"] ** 2)
        tracer.unify(blocks[:, :1].expand_as(blocks), blocks, call)
        facets.append(axis_facet(blocks[:, 0], call.out.shape, axis))
    return [tuple(facets)]


@rule("aten.cat", moves=True, ordered=True, passes_empty=True, keeps_sign=True, values="as inputs")
@rule("aten.stack", moves=True)
def join(tracer: Tracer, call: Call) -> Labels:
    """Join ids like the tensors; a tensor without channels contributes -1."""
    tensors: list[Tensor] = call["tensors"]
    axis = call["dim"] % call.out.dim()
    if call.site.op == "cat" and axis == 1 and _is_one_channel(tracer, tensors):
        return [_copies(tracer, call)]
    parts = [(t, tracer.label(t)) for t in tensors if t.numel()]
    facets = []
    for i in range(max((len(label) for _, label in parts), default=0)):
        ids = [label[i] if i < len(label) else torch.tensor(NONE).expand(t.shape) for t, label in parts]
        still = set(range(ids[0].dim())).difference(*(varying(facet) for facet in ids))
        narrow = [narrowed(facet, still - {axis} if call.site.op == "cat" else still) for facet in ids]
        facets.append(compact(call.func(narrow, axis).expand(call.out.shape)))
    return [tuple(facets)]


def _is_one_channel(tracer: Tracer, tensors: list[Tensor]) -> bool:
    """Return whether these are several times the same tensor with a single channel."""
    first = tensors[0]
    return first.size(1) == 1 and all(tensor is first for tensor in tensors) and not tracer.label(first)


def narrowed(facet: Tensor, dims: set[int]) -> Tensor:
    """Reduce some dimensions to size 1."""
    for d in dims:
        facet = facet.narrow(d, 0, 1)
    return facet


@rule("aten.constant_pad_nd", moves=True)
def pad(tracer: Tracer, call: Call) -> Labels:
    """Pad channel axes with new ids, and spatial axes with the id of the same channel."""
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
                tracer.lock_label((facet,), "padded or cropped in an unsupported way", call)
                return []
            elif front or back:
                facet = _pad_channels(tracer, call, facet, d, front, back)
        facets.append(facet)
    return [tuple(facets)]


def _pad_channels(tracer: Tracer, call: Call, facet: Tensor, d: int, front: int, back: int) -> Tensor:
    first, last = tracer.fresh(front), tracer.fresh(back)
    if isinstance(tracer.module, ChannelPad):
        tracer.record.pads.append((tracer.module_name, first, last))
    else:
        tracer.lock(torch.cat([first, last]), "channels padded by a hard-coded number", call)
    middle = along(facet, d)
    assert middle is not None
    shape = list(facet.shape)
    shape[d] += front + back
    return axis_facet(torch.cat([first, middle, last]), tuple(shape), d)


@rule("aten.copy_")
def copy(tracer: Tracer, call: Call) -> Labels:
    """Overwrite the ids of the destination with those of the source."""
    shape = call["self"].shape
    return [tuple(facet.expand(shape) for facet in tracer.label(call["src"]))]


@rule("aten.clone", kind="copy", ordered=True, passes_empty=True)
def clone(tracer: Tracer, call: Call) -> Labels:
    """Return the ids, or give copies of a single channel ids: `repeat_interleave` expands (n, 1, 1, ...) behind it."""
    x = call["self"]
    if x.dim() in (3, 5) and x.size(1) == 1 and x.stride(2) == 0 and not (tracer.label(x) or tracer.fixed(x)):
        return [_copies(tracer, call, axis=2)]
    return keep(tracer, call)


@rule("aten._to_copy", kind="copy", passes_empty=True)
@rule("aten.contiguous", kind="copy")
@rule(*aten("lift_fresh zeros_like ones_like empty_like full_like fill_ zero_"))
def keep(tracer: Tracer, call: Call) -> Labels:
    """Return the ids of the first tensor: the result shrinks with it, whatever its values are."""
    first, *others = call.tensors
    for other in others:
        tracer.lock_label(tracer.label(other), "used as a scalar value", call)
    return [tracer.label(first)]


@rule("aten.as_strided_")
def restride(tracer: Tracer, call: Call) -> Labels:
    """Keep the ids of a global average, whose strides PyTorch sets to those of its channels_last input."""
    label = tracer.label(call["self"])
    before = tracer.record.runs[-2:-1]
    averaged = bool(before) and (before[0].site.op, before[0].site.code) == ("mean", call.site.code)
    if not averaged or any(facet.shape != call.out.shape for facet in label):
        tracer.lock_label(label, "its memory is read with other strides", call)
        return []
    return [label]


@rule("aten.set_")
def give_up(tracer: Tracer, call: Call) -> Labels:
    """Drop the ids of a tensor that gives up its memory, `x.set_()`; memory that comes from elsewhere is locked."""
    if len(call.arguments) > 1:
        for tensor in call.tensors:
            tracer.lock_label(tracer.label(tensor), "its memory is replaced", call)
        tracer.lock_alias(call.out)
    return []


@rule(*aten("new_zeros new_ones new_full new_empty_strided empty_strided"))
def constant(tracer: Tracer, call: Call) -> Labels:
    """Return None: a new constant, whose size is given as numbers, has no channels."""
    return None


@rule("aten.new_empty")
def uninitialized(tracer: Tracer, call: Call) -> Labels:
    """Return None: like `constant`; in training mode, random numbers will be drawn for it (Dropout2d)."""
    return [()] if tracer.training else None


@rule("aten.native_dropout", "aten.dropout", passes_empty=True)
@rule("aten.bernoulli", values="needed")
@rule(*aten("bernoulli_ rand_like randn_like randint_like uniform_ normal_ exponential_"))
def random(tracer: Tracer, call: Call) -> Labels:
    """Lock channels for which random numbers are drawn: with fewer channels, the others would get different numbers.

    This does not matter in training mode, where no outputs are compared.
    """
    label = tracer.label(call.tensors[0])
    if not tracer.training:
        tracer.lock_label(label, "random numbers are drawn for these channels", call)
    elif not label and call.site.op == "bernoulli_" and call.out.dim() > 1 and call.out.size(1) > 1:
        tracer.record.size_blind = False  # their number may be hard-coded
        return [(axis_facet(tracer.fresh(call.out.size(1)), call.out.shape, 1),)]
    return [label]


@rule("aten.rrelu_with_noise", "aten.rrelu_with_noise_")
def rrelu(tracer: Tracer, call: Call) -> Labels:
    """Keep the ids, as in a leaky ReLU; with random slopes, lock them like `random`."""
    return random(tracer, call) if call["training"] else keep_first(tracer, call)


def keep_first(tracer: Tracer, call: Call) -> Labels:
    """Return the ids of the first tensor."""
    return [tracer.label(call.tensors[0])]
