"""One round of a benchmark: all networks in one runtime, at one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate
from slimcnn.benchmarking.opening import Ready, WithInput, hits, metric_of, ready
from slimcnn.benchmarking.rows import TITLES, BenchmarkRow
from slimcnn.benchmarking.runtime_files import RuntimeFiles
from slimcnn.datasets import Images
from slimcnn.errors import SlimcnnError
from slimcnn.measuring import energy, latency
from slimcnn.show import SILENT, Show
from slimcnn.tasks import Task
from slimcnn.tasks.classification import Classification

ENERGY_SECONDS = 1.0
"""Duration of the energy measurement of a network, which is called back to back."""


@dataclass(frozen=True, eq=False)
class Session:
    """State that a benchmark keeps between its settings: exported files, and what was measured on images."""

    candidates: Sequence[Candidate]
    files: RuntimeFiles
    images: Images | None
    task: Task
    classes: int
    seconds: float
    processes: int
    show: Show = SILENT
    _answers: dict[tuple[str, str], Tensor | float | str] = field(default_factory=dict)

    def rows(self, runtime: str, batch: int, threads: int) -> list[BenchmarkRow]:
        """Measure all networks in one runtime; they are timed in turns."""
        where = f"{TITLES[runtime]}, batch {batch}, {'1 thread' if threads == 1 else f'{threads} threads'}"
        opened: dict[str, Ready | str] = {}
        for one in self.candidates:
            if one.runs_in(runtime) and (one.model is not None or runtime not in ("torch", "torch_compile")):
                self.show.say(f"{where}: {one.name}")
                opened[one.name] = self._open(one, runtime, batch, threads)
        able = {name: one for name, one in opened.items() if isinstance(one, Ready)}
        self.show.say(f"{where}: timing {len(able)} in turns")
        asked: dict[str, nn.Module] = {name: WithInput(one) for name, one in able.items()}
        example = torch.zeros(batch)
        times = latency(asked, example, seconds=self.seconds, threads=threads) if asked else {}
        rows = []
        for name, state in opened.items():
            if isinstance(state, str):
                rows.append(BenchmarkRow(name, runtime, batch, threads, why=state))
                continue
            time = replace(times[name], runtime=TITLES[runtime])
            row = BenchmarkRow(
                name, runtime, batch, threads, latency=time, reference=next(iter(able)), bytes=state.bytes,
                memory=state.memory, joules=_joules_an_image(asked[name], example),
            )  # fmt: skip
            rows.append(self._with_metric(row, state, able))
        return rows

    def _open(self, candidate: Candidate, runtime: str, batch: int, threads: int) -> Ready | str:
        try:
            return ready(candidate, runtime, self.files, self.images, batch, threads, self.processes)
        except SlimcnnError as error:
            return str(error)

    def _with_metric(self, row: BenchmarkRow, one: Ready, able: Mapping[str, Ready]) -> BenchmarkRow:
        """Add the task's metric and its difference from the reference on the same images."""
        if self.images is None:
            return row
        here, there = (self._answered(each, row.runtime) for each in (one, able[row.reference]))
        if isinstance(here, str):
            return replace(row, why=here)
        if isinstance(here, float):  # an IoU or an AP is not a mean over images: its difference has no paired error
            return replace(row, metric=here, points=here - there if isinstance(there, float) else None)
        row = replace(row, top1=100 * float(here.double().mean()))
        if not isinstance(there, Tensor):
            return row
        points, error = paired(here, there)
        return replace(row, points=points, points_error=error)

    def _answered(self, one: Ready, runtime: str) -> Tensor | float | str:
        """Return which images a network classifies correctly in a runtime, its metric, or why that is unknown."""
        assert self.images is not None
        key = (one.candidate.name, runtime)  # the same at any batch size
        if key not in self._answers:
            if one.candidate.normalization is None and not one.pixels:
                return "the normalization it expects is unknown"
            what = f"{self.task.metric.name}, {one.candidate.name}"
            try:
                self._answers[key] = (
                    hits(one, self.images, self.show, what)
                    if isinstance(self.task, Classification)
                    else metric_of(one, self.images, self.task, self.classes, self.show, what)
                )
            except SlimcnnError as error:
                self._answers[key] = str(error)
        return self._answers[key]


def paired(here: Tensor, there: Tensor) -> tuple[float, float]:
    """Return the difference of two networks' top-1 on the same images, in percentage points, and its standard error.

    If only the first network classifies b of n images correctly, and only the second c: (b - c) / n and
    sqrt(b + c - (b - c)^2 / n) / n.

    >>> one, two = torch.tensor([True, True, False, True]), torch.tensor([True, False, False, True])
    >>> paired(one, two)[0], round(paired(one, two)[1], 2)
    (25.0, 21.65)
    """
    n, b, c = len(here), int((here & ~there).sum()), int((there & ~here).sum())
    return 100 * (b - c) / n, 100 * max(b + c - (b - c) ** 2 / n, 0) ** 0.5 / n


def _joules_an_image(module: nn.Module, example: Tensor) -> float | None:
    with torch.no_grad():
        found = energy(lambda: module(example), seconds=ENERGY_SECONDS)
    return None if found is None else found / len(example)
