"""Latency of single layers in a runtime on this machine: measured once, kept in the user's cache folder.

The overhead of a call (10 to 40 microseconds) is as large as the latency of a layer in a small network, so a single
layer cannot be timed alone. Instead a chain of k pairs is timed against a chain of one pair: c -> d, d -> c, c -> d,
... The difference divided by the 2 (k - 1) layers is the latency of one layer, including the runtime's work around it
(activation, layout). A pair is a layer and its transpose, because a cut inside a block changes both: the layer that
writes the channels and the layer that reads them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError
from slimcnn.exporting.runtimes import RUNTIMES, open_in, why_not
from slimcnn.exporting.writing import transfer
from slimcnn.files import cache_folder, write_text
from slimcnn.measuring.environment import cpu_name

LONGER = 4
"""Additional pairs in the longer chain."""
ROUNDS = 40
"""Timed calls of each chain; the fastest quarter is averaged, because other programs only slow calls down."""
STEPS = (16, 8, 4, 2)
"""Candidate multiples for the number of kept channels, largest first."""


@dataclass(frozen=True, order=True)
class LayerShape:
    """What the latency of a convolution depends on. A linear layer has kernel () and 1 x 1 pixel."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    groups: int
    height: int
    """Output height in pixels; strided layers are timed at the size of their output."""
    width: int

    @property
    def canonical(self) -> LayerShape:
        """The cache key of a layer and its transpose, which are timed together."""
        return replace(self, inputs=min(self.inputs, self.outputs), outputs=max(self.inputs, self.outputs))

    @property
    def depthwise(self) -> bool:
        """Whether each channel is filtered separately."""
        return self.groups > 1 and self.groups == self.inputs


class LayerTimes:
    """Milliseconds per layer for one runtime, batch size and number of threads; measured on first use.

    >>> shape = LayerShape(8, 16, (3, 3), 1, 4, 4)
    >>> times = LayerTimes("torch", measured={shape: 0.25})
    >>> times[LayerShape(16, 8, (3, 3), 1, 4, 4)]
    0.25
    """

    def __init__(
        self,
        runtime: str,
        *,
        batch: int = 1,
        threads: int = 1,
        measured: Mapping[LayerShape, float] | None = None,
        cache: Path | None = None,
    ) -> None:
        reason = why_not(runtime)
        if reason:
            raise ExportError(reason)
        self.runtime, self.batch, self.threads = runtime, batch, threads
        self._path = cache or _cache_file(runtime, batch, threads)
        self._known = _read(self._path) if measured is None else dict(measured)

    def __getitem__(self, shape: LayerShape) -> float:
        """Milliseconds of one layer; 0 if it has no input or output channels."""
        if min(shape.inputs, shape.outputs) == 0:
            return 0.0
        self.learn([shape])
        return self._known[shape.canonical]

    def learn(self, shapes: Iterable[LayerShape], progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Measure the shapes that are not in the cache, and add them to it."""
        wanted = {shape.canonical for shape in shapes if min(shape.inputs, shape.outputs) > 0}
        missing = sorted(wanted - self._known.keys())
        for number, shape in enumerate(missing):
            progress(number, len(missing))
            self._known[shape] = measure_layer(shape, self.runtime, batch=self.batch, threads=self.threads)
        if missing:
            progress(len(missing), len(missing))
            rows = [{"layer": asdict(shape), "ms": ms} for shape, ms in sorted(self._known.items())]
            write_text(self._path, json.dumps(rows) + "\n")

    def multiple(self, shape: LayerShape) -> int:
        """Return the number that kept channels should be a multiple of in this runtime, by measurement.

        The largest step r of 16, 8, 4, 2 for which more channels, up to the next multiple of r, cost at most 5 %;
        r is at most a quarter of the layer's channels, and 1 if no step qualifies.

        >>> def stairs(channels): return LayerShape(channels, channels, (3, 3), 1, 8, 8)
        >>> LayerTimes("torch", measured={stairs(c): -(-c // 8) for c in range(1, 65)}).multiple(stairs(64))
        8
        """
        whole = min(shape.inputs, shape.outputs)

        def at(channels: int) -> float:
            return self[
                replace(shape, inputs=channels, outputs=channels, groups=channels if shape.depthwise else shape.groups)
            ]

        for step in STEPS:
            if step > whole // 4 or (shape.groups > 1 and not shape.depthwise):
                continue
            top = whole // step * step
            if all(at(top) <= 1.05 * at(top - less) for less in range(1, step)) and at(top - step) < 0.99 * at(top):
                return step
        return 1


def measure_layer(shape: LayerShape, runtime: str, *, batch: int = 1, threads: int = 1) -> float:
    """Return the milliseconds of one layer of this shape, averaged over the layer and its transpose.

    Raises:
        ExportError: the runtime is not installed.
    """
    reason = why_not(runtime)
    if reason:
        raise ExportError(reason)
    x = (
        torch.randn(batch, shape.inputs, shape.height, shape.width)
        if shape.kernel
        else torch.randn(batch, shape.inputs)
    )
    chains = [_opened(_chain(shape, pairs), x, runtime, threads) for pairs in (1, 1 + LONGER)]
    times = np.array([[_milliseconds(chain, x) for chain in chains] for _ in range(ROUNDS + 5)])[5:]
    fastest = np.sort(times, axis=0)[: ROUNDS // 4].mean(axis=0)
    return float(max(fastest[1] - fastest[0], 1e-6)) / (2 * LONGER)


def _milliseconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter_ns()
    with torch.no_grad():
        call(x)
    return (time.perf_counter_ns() - start) / 1e6


def _chain(shape: LayerShape, pairs: int) -> nn.Sequential:
    """Layers c -> d, d -> c, ... that keep the image size, each followed by a ReLU."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number in range(2 * pairs):
            c, d = (shape.inputs, shape.outputs) if number % 2 == 0 else (shape.outputs, shape.inputs)
            layers += [_layer(shape, c, d), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def _layer(shape: LayerShape, inputs: int, outputs: int) -> nn.Module:
    if not shape.kernel:
        return nn.Linear(inputs, outputs)
    return nn.Conv2d(inputs, outputs, shape.kernel, padding="same", groups=shape.groups)  # type: ignore[arg-type]


def _opened(chain: nn.Sequential, x: Tensor, runtime: str, threads: int) -> Callable[[Tensor], Tensor]:
    """Open a chain in the runtime. ONNX is written directly, because PyTorch's exporter takes seconds."""
    if runtime == "torch":
        return chain
    if runtime not in ("onnxruntime", "openvino"):
        return transfer(chain, x, runtime, threads, dynamic_batch=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        path.write_bytes(_as_onnx(chain, x))
        return open_in(runtime, path, threads)


def _as_onnx(chain: nn.Sequential, x: Tensor) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    for number, layer in enumerate(chain):
        made = f"{number}" if number + 1 < len(chain) else "y"
        if isinstance(layer, nn.ReLU):
            nodes.append(helper.make_node("Relu", [name], [made]))
        else:
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            for kind in ("weight", "bias"):
                weights.append(numpy_helper.from_array(getattr(layer, kind).detach().numpy(), f"{made}.{kind}"))
            inputs = [name, f"{made}.weight", f"{made}.bias"]
            if isinstance(layer, nn.Linear):
                nodes.append(helper.make_node("Gemm", inputs, [made], transB=1))
            else:
                nodes.append(helper.make_node("Conv", inputs, [made], group=layer.groups, auto_pad="SAME_UPPER"))
        name = made
    value = [helper.make_tensor_value_info(each, TensorProto.FLOAT, list(x.shape)) for each in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _cache_file(runtime: str, batch: int, threads: int) -> Path:
    (package,) = RUNTIMES[runtime].packages or ("torch",)
    version = metadata.version(package)
    machine = hashlib.sha256(cpu_name().encode()).hexdigest()[:8]
    return cache_folder() / "layer_times" / f"{runtime}-{version}-{machine}-batch{batch}-threads{threads}.json"


def _read(path: Path) -> dict[LayerShape, float]:
    """Read the cache; an unreadable file counts as empty."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            LayerShape(**{**row, "kernel": tuple(row["kernel"])}): float(ms) for row in rows for ms in [row.pop("ms")]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
