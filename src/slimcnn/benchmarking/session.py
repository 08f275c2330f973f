"""One round of a benchmark: all networks in one runtime, at one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate
from slimcnn.benchmarking.opening import Ready, WithInput, hits, ready
from slimcnn.benchmarking.rows import TITLES, BenchmarkRow
from slimcnn.benchmarking.runtime_files import RuntimeFiles
from slimcnn.datasets import Images
from slimcnn.errors import SlimcnnError
from slimcnn.measuring import energy, latency
from slimcnn.show import SILENT, Show

ENERGY_SECONDS = 1.0
"""Duration of the energy measurement of a network, which is called back to back."""


@dataclass(frozen=True, eq=False)
class Session:
    """State that a benchmark keeps between its settings: exported files, and classified images."""

    candidates: Sequence[Candidate]
    files: RuntimeFiles
    images: Images | None
    seconds: float
    processes: int
    show: Show = SILENT
    _hits: dict[tuple[str, str], Tensor | str] = field(default_factory=dict)

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
            rows.append(self._with_top1(row, state, able))
        return rows

    def _open(self, candidate: Candidate, runtime: str, batch: int, threads: int) -> Ready | str:
        try:
            return ready(candidate, runtime, self.files, self.images, batch, threads, self.processes)
        except SlimcnnError as error:
            return str(error)

    def _with_top1(self, row: BenchmarkRow, one: Ready, able: Mapping[str, Ready]) -> BenchmarkRow:
        """Add top-1 and its difference from the reference on the same images."""
        if self.images is None:
            return row
        here, there = (self._answers(each, row.runtime) for each in (one, able[row.reference]))
        if isinstance(here, str):
            return replace(row, why=here)
        row = replace(row, top1=100 * float(here.double().mean()))
        if isinstance(there, str):
            return row
        points, error = paired(here, there)
        return replace(row, points=points, points_error=error)

    def _answers(self, one: Ready, runtime: str) -> Tensor | str:
        """Return which images a network classifies correctly in a runtime, or why that is unknown."""
        assert self.images is not None
        key = (one.candidate.name, runtime)  # the same at any batch size
        if key not in self._hits:
            if one.candidate.normalization is None and not one.pixels:
                return "the normalization it expects is unknown"
            try:
                self._hits[key] = hits(one, self.images, self.show, f"top-1, {one.candidate.name}")
            except SlimcnnError as error:
                self._hits[key] = str(error)
        return self._hits[key]


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
