"""Files for runtimes: those of the candidates, and others exported once per benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn.benchmarking.candidate import Candidate, facts_of_file, repeated
from slimcnn.errors import ExportError
from slimcnn.exporting import example_and_outputs, formats, write_model


@dataclass(frozen=True)
class RuntimeFile:
    """A network as a file for a runtime."""

    path: Path
    bytes: int
    """Size of all its files."""
    batch: int | None
    """Batch size; None: any."""
    pixels: bool
    """Whether it takes uint8 pixels."""
    outputs: tuple[str, ...] = ()
    """Names of a detector's outputs; empty for other networks."""


@dataclass(frozen=True, eq=False)
class RuntimeFiles:
    """Exports each network once per runtime into a folder."""

    folder: Path
    example: Tensor
    _made: dict[tuple[str, str, int | None], RuntimeFile] = field(default_factory=dict)
    _outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a network → names of its outputs if it is a detector."""

    def of(self, candidate: Candidate, runtime: str, batch: int) -> RuntimeFile:
        """Return a candidate's file for a runtime and a batch size of `batch`.

        Raises:
            ExportError, ModelError: the candidate has no such file and cannot be exported.
        """
        if runtime in candidate.files:
            held = _held(candidate.files[runtime])
            if held.batch in (None, batch):
                return held
            if candidate.model is None:
                raise ExportError(f"{held.path.name} has a fixed batch size of {held.batch}; {batch} cannot run")
        assert candidate.model is not None
        return self._exported(candidate.name, candidate.model, self.example, runtime, batch)

    def probe(self, runtime: str) -> tuple[RuntimeFile, Tensor]:
        """Return a file with a one-layer network, and its input."""
        example = self.example[:1].float()
        layer = nn.Conv2d(example.shape[1], 1, 1) if example.dim() == 4 else nn.Linear(example.shape[-1], 1)
        return self._exported("one layer", layer.eval(), example, runtime, 1), torch.zeros_like(example)

    def _exported(self, name: str, model: nn.Module, example: Tensor, runtime: str, batch: int) -> RuntimeFile:
        format_ = format_for(runtime)
        if name not in self._outputs:
            self._outputs[name] = example_and_outputs(model, example)[1]
        outputs = self._outputs[name]
        if outputs and batch != 1:
            raise ExportError(f"the file of a detector takes one image at a time; batch size {batch} cannot run")
        fixed = None if formats[format_].value.dynamic_batch and not outputs else batch
        if (name, runtime, fixed) not in self._made:
            path = self.folder / str(len(self._made)) / "model"
            files = write_model(model, repeated(example, fixed or 1), format_, path, outputs)
            self._made[name, runtime, fixed] = RuntimeFile(files[0], bytes_of(files), fixed, False, outputs)
        return self._made[name, runtime, fixed]


def format_for(runtime: str) -> str:
    """Return the format to use for a runtime; TorchScript for PyTorch, whose reader has the fewest dependencies.

    Raises:
        ExportError: no format exists for the runtime.
    """
    names = [entry.name for entry in formats if entry.value.runtime == runtime]
    if not names:
        raise ExportError(f"no file format is known for {runtime}")
    return "torchscript" if "torchscript" in names else names[0]


def bytes_of(files: tuple[Path, ...]) -> int:
    """Return the total bytes of files and of all files in folders."""
    every = [inner for path in files for inner in (path.rglob("*") if path.is_dir() else [path])]
    return sum(path.stat().st_size for path in every if path.is_file())


def _held(path: Path) -> RuntimeFile:
    entry = facts_of_file(path)
    names = entry.get("files") or _companions(path)
    facts = entry.get("facts", {})
    batch = facts.get("batch", "any")
    return RuntimeFile(
        path,
        bytes_of(tuple(path.parent / name for name in names)),
        batch if isinstance(batch, int) else None,
        pixels=facts.get("dtype") == "uint8 pixels",
        outputs=tuple(facts.get("outputs", ())),
    )


def _companions(path: Path) -> list[str]:
    """Return the names of all files of an export from the first: model.xml and model.bin."""
    for entry in formats:
        suffixes = entry.value.suffixes
        stem = path.name.removesuffix(suffixes[0])
        if stem != path.name and all((path.parent / f"{stem}{suffix}").exists() for suffix in suffixes):
            return [f"{stem}{suffix}" for suffix in suffixes]
    return [path.name]
