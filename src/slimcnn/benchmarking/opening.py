"""Open a candidate in a runtime and judge it on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate, repeated
from slimcnn.benchmarking.runtime_files import RuntimeFile, RuntimeFiles
from slimcnn.datasets import Images
from slimcnn.errors import ExportError, SlimcnnError
from slimcnn.exporting import ProcessMemory, open_in, process_memory
from slimcnn.exporting.parity import AT_ONCE
from slimcnn.importing import one_line
from slimcnn.measuring import state_bytes
from slimcnn.measuring.examples import undisturbed
from slimcnn.show import SILENT, Show
from slimcnn.tasks import Task
from slimcnn.training.evaluation import scores


@dataclass(frozen=True, eq=False)
class Ready:
    """A candidate opened in a runtime, at one batch size and number of threads."""

    candidate: Candidate
    module: nn.Module
    x: Tensor
    """One input batch."""
    bytes: int
    memory: ProcessMemory | None
    pixels: bool
    """Whether it takes uint8 pixels."""
    at_once: int
    """Batch size for images: its own if that is fixed."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs of a detector's file, which returns a tuple; empty for other networks."""


class WithInput(nn.Module):
    """A network bound to its input, so that networks with different inputs can be timed side by side."""

    def __init__(self, ready: Ready) -> None:
        super().__init__()
        self.module, self.x = ready.module, ready.x

    def forward(self, _: Tensor) -> object:
        """Run the network on its own input."""
        return self.module(self.x)


def ready(
    candidate: Candidate, runtime: str, files: RuntimeFiles, images: Images | None, batch: int, threads: int,
    processes: int,
) -> Ready:  # fmt: skip
    """Open a candidate in a runtime.

    A file first runs in fresh processes, which measure memory: a file that crashes its process is never opened in this
    one. With `processes` 0 this check is skipped.

    Raises:
        SlimcnnError: the network cannot be exported, opened, compiled or run; one line states the reason.
    """
    pixels = repeated(images.pixels[:batch], batch) if images is not None else None
    example = repeated(files.example, batch)
    if runtime in ("torch", "torch_compile"):
        if candidate.model is None:
            raise ExportError(f"{candidate.name} is a file for another runtime")
        x = candidate.inputs(pixels, example, takes_pixels=False)
        size = candidate.bytes if candidate.bytes is not None else state_bytes(candidate.model)
        if runtime == "torch":
            memory = _memory_in_torch(candidate, files, x, threads, processes)
            return Ready(candidate, candidate.model, x, size, memory, False, AT_ONCE)
        return Ready(candidate, _compiled(candidate.model, x), x, size, None, False, batch)
    file = files.of(candidate, runtime, batch)
    x = candidate.inputs(pixels, example, file.pixels)
    memory = _memory(runtime, file, files, x, threads, processes)
    module = open_in(runtime, file.path, threads)
    _try(module, x)
    return Ready(candidate, module, x, file.bytes, memory, file.pixels, file.batch or AT_ONCE, file.outputs)


def hits(ready: Ready, images: Images, show: Show = SILENT, what: str = "") -> Tensor:
    """Return for each image whether its top-1 is the label: a bool tensor (n,).

    Raises:
        ModelError: the network does not return scores of the classes.
    """
    classes, n, found = int(images.labels.max()) + 1, len(images), []
    with undisturbed(ready.module):
        for start in range(0, n, ready.at_once):
            part = images.pixels[start : start + ready.at_once]
            x = repeated(ready.candidate.inputs(part, part, ready.pixels), ready.at_once)  # the batch size may be fixed
            found.append(scores(ready.module, x, classes)[: len(part)].argmax(1).cpu())
            show.progress(what, min(start + ready.at_once, n), n)
    return torch.cat(found) == images.labels


def metric_of(ready: Ready, images: Images, task: Task, classes: int, show: Show = SILENT, what: str = "") -> float:
    """Return a task's metric on images, in its unit.

    Raises:
        ModelError, DataError: the outputs are not those of the task, or the metric is not a number.
        ExportError: the network does not run on a batch of them.
    """
    meter, n = task.meter(classes), len(images)
    with undisturbed(ready.module):
        for start in range(0, n, ready.at_once):
            part, targets = (each[start : start + ready.at_once] for each in (images.pixels, images.labels))
            x = repeated(ready.candidate.inputs(part, part, ready.pixels), ready.at_once)  # the batch size may be fixed
            try:
                output = ready.module(x)
                if ready.outputs:
                    output = [dict(zip(ready.outputs, output, strict=True))]  # of the one image
                meter.update(first_of(output, len(part)), x[: len(part)], targets)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise ExportError(one_line(error)) from error
            show.progress(what, min(start + ready.at_once, n), n)
    return meter.value()


def first_of(output: Any, n: int) -> Any:
    """Return the part of an output that belongs to the first n images of a batch.

    A list of dicts is that of a detector: one for each image.

    >>> first_of({"out": torch.zeros(4, 2)}, 3)["out"].shape, len(first_of([{"boxes": torch.zeros(9, 4)}] * 4, 3))
    (torch.Size([3, 2]), 3)
    """
    if isinstance(output, Tensor):
        return output[:n]
    if isinstance(output, Mapping):
        return {name: first_of(one, n) for name, one in output.items()}
    if not isinstance(output, list | tuple):
        return output
    if all(isinstance(one, Mapping) for one in output):
        return list(output[:n])
    return tuple(first_of(one, n) for one in output)


def _memory(
    runtime: str, file: RuntimeFile, files: RuntimeFiles, x: Tensor, threads: int, processes: int
) -> ProcessMemory | None:
    if not processes:
        return None
    probe, probed = files.probe(runtime)
    return process_memory(runtime, file.path, x, probe=probe.path, probed=probed, threads=threads, processes=processes)


def _memory_in_torch(
    candidate: Candidate, files: RuntimeFiles, x: Tensor, threads: int, processes: int
) -> ProcessMemory | None:
    """Measure the memory of the network as a PyTorch file; None if it cannot be exported to one."""
    if not processes:
        return None
    try:
        return _memory("torch", files.of(candidate, "torch", len(x)), files, x, threads, processes)
    except SlimcnnError:
        return None


def _compiled(model: nn.Module, x: Tensor) -> nn.Module:
    found: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    _try(found, x)
    return found


def _try(module: nn.Module, x: Tensor) -> None:
    """Call a network once, so that errors occur before the timing."""
    try:
        with undisturbed(module):
            module(x)
    except SlimcnnError:
        raise
    except Exception as error:
        raise ExportError(one_line(error)) from error
