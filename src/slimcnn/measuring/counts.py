"""The size of a network: parameters, MACs for one sample, bytes and running memory, layer by layer.

MACs are the multiply-accumulates of convolutions, linear layers and matrix products (including attention) at batch 1,
as `torch.utils.flop_counter` counts them: 1 MAC = 2 FLOPs. Bias, batch norm, activation and pooling count 0; papers
that count them report up to 9 % more. `Measurement.not_counted` lists the operations that ran and were not counted.

Running memory is the peak of the live activations at batch 1, with operations in the order in which the network's code
runs them (see `lifetimes.py`). A runtime that fuses operations needs less. Weights and the runtime's working memory are
extra.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from slimcnn.measuring.examples import Example, run, shape_of, undisturbed, with_batch
from slimcnn.measuring.lifetimes import LifetimeWatch, peak, tensors_of


@dataclass(frozen=True)
class LayerCounts:
    """The counts of one layer, without the layers inside it."""

    name: str
    """As in `named_modules`; "" is the network itself."""
    kind: str
    input: tuple[int, ...] | None
    """Shape at batch 1 in the first call; None for a layer that is never called as a module."""
    output: tuple[int, ...] | None
    params: int
    """Parameters that no layer above it in the table has."""
    macs: int
    """MACs of all calls."""


@dataclass(frozen=True)
class Measurement:
    """The size of a network; the top of this file defines MACs and running memory."""

    params: int
    """All parameters, trainable or not, shared ones once; running statistics do not count."""
    macs: int
    """MACs of one sample."""
    bytes: int
    """Bytes of all tensors in a weights file, shared ones once, without the file's header."""
    peak_memory: int
    """Peak bytes of the live activations of one sample in float32, without weights."""
    peak_memory_int8: int
    """The same with one byte per activation instead of four."""
    layers: tuple[LayerCounts, ...]
    """All layers with parameters or MACs; they add up to `params` and `macs`."""
    not_counted: tuple[str, ...]
    """Operations that ran but count 0 MACs, although they take time."""


def measure(model: nn.Module, example: Example) -> Measurement:
    """Count parameters, MACs, bytes and running memory of `model` by running it on the first sample of `example`.

    `example` is a tensor ``(n, c, h, w)``, a tuple of tensors, or a dict of keyword arguments. The model runs in eval
    mode; its state is restored afterwards. Raises `ModelError` for an example that the model does not accept.

    >>> size = measure(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), torch.ones(2, 3, 4, 4))
    >>> size.params, size.macs, size.bytes, size.not_counted
    (224, 3456, 896, ('relu',))
    >>> size.layers[0].output
    (1, 8, 4, 4)
    >>> size.peak_memory  # during ReLU: 8 x 4 x 4 values read and as many written, four bytes each
    1024
    """
    sample = with_batch(example, 1)
    counter = FlopCounterMode(display=False, custom_mapping=MISSING)
    uncounted = _Uncounted()
    with undisturbed(model), _unfused_attention():
        watch = LifetimeWatch([*model.parameters(), *model.buffers()], tensors_of(sample))
        with watch, uncounted, counter, _watching(model, counter) as calls:
            outputs = tensors_of(run(model, sample))
    lives = watch.lifetimes.activations(outputs)
    return Measurement(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
        bytes=state_bytes(model),
        peak_memory=peak(lives),
        peak_memory_int8=peak(lives, float_bytes=1),
        layers=tuple(_layers(model, calls)),
        not_counted=tuple(sorted(uncounted.kinds - {_kind(packet) for packet in counter.flop_counts["Global"]})),
    )


def state_bytes(model: nn.Module) -> int:
    """Return the bytes of all tensors in a weights file: parameters and buffers, shared ones once.

    >>> state_bytes(nn.BatchNorm2d(2))  # four float32 pairs, and a counter of 8 bytes
    40
    """
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if torch.is_tensor(tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def file_bytes(path: str | Path) -> int:
    """Return the size of a file on disk in bytes."""
    return Path(path).stat().st_size


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


MISSING = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Operations that `torch.utils.flop_counter` lacks: it counts 0 for attention on a CPU (as of torch 2.14)."""


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Disable PyTorch's fused attention for inference, whose matrix products no counter sees."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@dataclass
class _Call:
    """The accumulated counts of one layer's calls."""

    flops: int = 0
    input: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None


@dataclass
class _RunningCall:
    """A call in progress: the FLOP count at its start, and the FLOPs of the layers inside it."""

    module: nn.Module
    start: int
    inside: int = 0


@contextmanager
def _watching(model: nn.Module, counter: FlopCounterMode) -> Iterator[dict[nn.Module, _Call]]:
    """Assign what `counter` counts to the innermost running layer, with hooks that are removed at the end."""
    calls: dict[nn.Module, _Call] = defaultdict(_Call)
    running: list[_RunningCall] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if calls[module].input is None:
            calls[module].input = shape_of((args, kwargs))
        running.append(_RunningCall(module, counter.get_total_flops()))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        while (opened := running.pop()).module is not module:
            pass  # the call of a layer that raised an exception which its caller caught
        spent = counter.get_total_flops() - opened.start
        calls[module].flops += spent - opened.inside
        calls[module].output = calls[module].output or shape_of(output)
        if running:
            running[-1].inside += spent

    handles = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module, calls: dict[nn.Module, _Call]) -> Iterator[LayerCounts]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in seen]
        seen.update(map(id, own))
        params, call = sum(parameter.numel() for parameter in own), calls.get(module, _Call())
        if params or call.flops:
            yield LayerCounts(name, type(module).__name__, call.input, call.output, params, call.flops // 2)


class _Uncounted(TorchDispatchMode):
    """Records every operation that reads a tensor, except views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: set[str] = set()

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_view = func.is_view or func.overloadpacket is torch.ops.aten._unsafe_view
        if not is_view and any(torch.is_tensor(leaf) for leaf in tree_leaves((args, kwargs))):
            self.kinds.add(_kind(func.overloadpacket))
        return func(*args, **kwargs)


def _kind(packet: Any) -> str:
    """Return the common name of an operation: ``aten::_native_batch_norm_legit_no_training`` is ``batch_norm``."""
    name = str(packet).rpartition(".")[2].strip("_")
    for start in ("native_", "cudnn_", "miopen_", "mkldnn_"):
        name = name.removeprefix(start)
    for end in ("_legit_no_training", "_with_indices", "_kernel"):
        name = name.removesuffix(end)
    return name
