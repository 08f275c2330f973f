"""Run a benchmark: networks side by side in every runtime, batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate, runtime_of_file
from slimcnn.benchmarking.results import Benchmark
from slimcnn.benchmarking.rows import TITLES
from slimcnn.benchmarking.runtime_files import RuntimeFiles, format_for
from slimcnn.benchmarking.session import Session
from slimcnn.datasets import Images, Normalization
from slimcnn.errors import DataError, ExportError, ModelError, SlimcnnError, UnknownName
from slimcnn.exporting import Options, formats, why_not
from slimcnn.measuring import environment, why_no_energy
from slimcnn.measuring.examples import describe
from slimcnn.measuring.latency import check_threads
from slimcnn.reporting.outcome import MetricName
from slimcnn.show import SILENT, Show
from slimcnn.tasks import task_named
from slimcnn.tasks.classification import Classification


def benchmark(networks: Mapping[str, nn.Module | Path | str], example: Tensor, **options: Any) -> Benchmark:
    """Compare networks in their target runtimes: latency, top-1 or another metric, file size, memory and energy.

    In each runtime all networks are timed in turns (A B A B ...). Fresh processes open each network to measure its
    memory. A network that cannot run gets a row with the reason.

    Args:
        networks: name → network, or a file written by `export`; ratios and points are relative to the first.
        example: one input, (n, c, h, w), on the CPU; n does not matter.
        options: `runtimes` (keys of `TITLES`; default: PyTorch eager and the installed ones), `batches` and `threads`
            (one or several numbers; default 1), `images` with `normalization` (for the metric; default none), `task`
            (the name of their task; default classification) and `classes` (their number; other tasks need it), `part`
            (name of these images), `seconds` (of timing per runtime, batch size and number of threads), `processes`
            (that measure memory; 0: none), `max_drop` (how much worse than the best the network to ship may be, in
            points or in the metric's unit; default 1 point, or 1 % of a metric that is no percentage), `show`.

    Raises:
        UnknownName: a runtime is unknown.
        ExportError: a runtime is not installed, or no network can run in any of them.
        ModelError, DataError: the example, the batch sizes or the images cannot be used.

    >>> import torch
    >>> nets = {"small": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()}
    >>> found = benchmark(nets, torch.zeros(1, 1, 8, 8), runtimes=["torch"], seconds=0.01, processes=0)
    >>> found.rows[0].network, found.rows[0].speed, found.complete
    ('small', 'first', True)
    """
    normalization = options.pop("normalization", None)
    if options.get("images") is not None and normalization is None:
        raise DataError("images need the normalization that the networks expect: give normalization=")
    for name in ("batches", "threads"):
        if isinstance(options.get(name), int):
            options[name] = (options[name],)
    candidates = [_candidate(name, network, normalization) for name, network in networks.items()]
    *_, found = compare(candidates, example, **options)
    return found


def compare(
    candidates: Sequence[Candidate],
    example: Tensor,
    *,
    runtimes: Sequence[str] = (),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    images: Images | None = None,
    part: str = "test",
    seconds: float = 4.0,
    processes: int = 3,
    max_drop: float | None = None,
    task: str = "classification",
    classes: int | None = None,
    show: Show = SILENT,
) -> Iterator[Benchmark]:
    """Run a benchmark; yield the results so far after each runtime, batch size and number of threads.

    Arguments and errors as for `benchmark`; invalid arguments raise before anything is measured.
    """
    chosen = check(candidates, example, runtimes, batches, threads, processes)
    if images is not None and not len(images):
        raise DataError("no images to measure top-1 on: give at least one, or leave images out")
    judged = task_named(task)
    if images is not None and classes is None and not isinstance(judged, Classification):
        raise DataError(f"{judged.metric.name} needs the number of classes: give classes=")
    found = Benchmark(
        rows=(), images=0 if images is None else len(images), part=part, max_drop=max_drop, seconds=seconds,
        no_energy=why_no_energy(), environment=environment(), complete=False,
        metric=MetricName.of(judged.metric),
    )  # fmt: skip
    settings = [(name, batch, n) for name in chosen for batch in batches for n in threads]
    session_of = partial(Session, images=images, task=judged, classes=classes or 0, processes=processes, show=show)
    return _in_turns(candidates, example, settings, found, session_of)


def _in_turns(
    candidates: Sequence[Candidate], example: Tensor, settings: Sequence[tuple[str, int, int]], found: Benchmark,
    session_of: Callable[..., Session],
) -> Iterator[Benchmark]:  # fmt: skip
    with TemporaryDirectory(prefix="slimcnn-", ignore_cleanup_errors=True) as folder:
        session = session_of(candidates, RuntimeFiles(Path(folder), example), seconds=found.seconds)
        for number, (runtime, batch, threads) in enumerate(settings, 1):
            rows = session.rows(runtime, batch, threads)
            found = replace(found, rows=(*found.rows, *rows), complete=number == len(settings))
            yield found


def check(
    candidates: Sequence[Candidate], example: Tensor, runtimes: Sequence[str], batches: Sequence[int],
    threads: Sequence[int], processes: int = 1,
) -> tuple[str, ...]:  # fmt: skip
    """Check the arguments before anything is measured; return the names of the runtimes."""
    if not isinstance(example, Tensor):
        raise ModelError(f"a benchmark takes networks with one input, a tensor; found {describe(example)}")
    for what, numbers in (("batch", batches), ("threads", threads)):
        if not numbers or min(numbers) < 1:
            raise ModelError(f"{what} {', '.join(map(str, numbers)) or 'is empty'}: give 1 or more")
    check_threads(max(threads))
    if processes < 0:
        raise ModelError(f"processes {processes}: give 1 or more, or 0 to leave memory out")
    chosen = tuple(dict.fromkeys(runtimes)) or _usable(candidates)
    for name in chosen:
        if name not in TITLES:
            raise UnknownName("runtime", name, TITLES)
        if name not in ("torch", "torch_compile"):
            if why := why_not(name):
                raise ExportError(why)
            if not any(name in one.files for one in candidates):
                _writable(name)
    if not any(one.runs_in(name) for one in candidates for name in chosen):
        can = sorted({name for one in candidates for name in one.files})
        raise ExportError(f"no network runs in {', '.join(chosen)}: the files are for {', '.join(can)}")
    return chosen


def _usable(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """PyTorch eager and the installed runtimes that can run a candidate; not torch.compile, which takes minutes."""
    found = []
    for name in TITLES:
        if name in ("torch_compile",) or (name != "torch" and why_not(name)):
            continue
        try:
            if name != "torch" and not any(name in one.files for one in candidates):
                _writable(name)
        except SlimcnnError:
            continue
        if any(one.runs_in(name) for one in candidates):
            found.append(name)
    return tuple(found)


def _writable(runtime: str) -> None:
    """Raise ExportError if files for a runtime cannot be written on this machine."""
    name = format_for(runtime)
    formats[name].value().check(name, Options(), pixels=False)


def _candidate(name: str, network: nn.Module | Path | str, normalization: Normalization | None) -> Candidate:
    if isinstance(network, nn.Module):
        return Candidate(name, network, normalization=normalization)
    path = Path(network)
    if not path.exists():
        raise ExportError(f"no file {path}: export the network first")
    return Candidate(name, files={runtime_of_file(path): path}, normalization=normalization)
