"""Read the files in the manifest of a run: only unchanged ones, never outside the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from slimcnn.checkpoints import is_users_code, load, read_architecture, read_information
from slimcnn.errors import RunError
from slimcnn.manifest import Manifest, inside
from slimcnn.models import resolve
from slimcnn.running.folder import DONE
from slimcnn.verifying.certificate import NotCheckable

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class ClaimedFiles:
    """A run's folder, its manifest, and the files that differ from it."""

    root: Path
    manifest: Manifest
    different: Mapping[str, str]
    """Files that differ from the manifest → how."""
    blank: nn.Module | str | None = None
    """A newly built network, for checkpoints that do not state how to build theirs; or the name of a user function that
    is allowed to run."""
    networks: dict[str, nn.Module] = field(default_factory=dict)
    """The opened networks."""

    def path(self, name: str) -> Path:
        """Return the path of a file that is unchanged since the run ended.

        Raises:
            NotCheckable: the file has changed or is missing.
            RunError: the file is not in the manifest, as any file outside the folder.
        """
        if name in self.different:
            raise NotCheckable(f"{name} {self.different[name]}")
        if name not in self.manifest.files:
            raise RunError(f"{name!r} is named in the run's files, but is not in the manifest")
        return inside(self.root, name)

    def read(self, name: str, kind: type[Record]) -> Record:
        """Read a JSON file with a known schema."""
        path = self.path(name)
        try:
            return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{name} is not a valid {kind.__name__}: {reason[:200]}") from error

    def network(self, name: str) -> nn.Module:
        """Open a checkpoint; nothing is unpickled, and no user code runs without the caller's permission."""
        if name not in self.networks:
            self.networks[name] = open_network(self.path(name), self.blank)
        return self.networks[name]

    def information(self, name: str) -> dict[str, Any]:
        """Return a checkpoint's metadata: dataset, classes, input, normalization."""
        return read_information(self.path(name))

    def example(self, name: str) -> Tensor:
        """Return an input (1, c, h, w) of the shape in a checkpoint."""
        shape = self.information(name).get("input")
        if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(size, int) for size in shape)):
            raise NotCheckable(f"{name} does not state the input shape of its network")
        return torch.zeros(1, *shape)


def open_network(path: Path, blank: nn.Module | str | None) -> nn.Module:
    """Open a checkpoint without running user code that the caller did not allow (see `ClaimedFiles.blank`)."""
    spec, arguments = read_architecture(path) or ("", {})
    if spec and not is_users_code(spec):
        return load(path)
    if isinstance(blank, nn.Module):
        return load(path, blank)
    if spec and spec == blank:
        return load(path, resolve(spec, **arguments))
    who = f"was built by {spec}" if spec else "does not state how to build its network"
    raise NotCheckable(
        f"{path.name} {who}, and a file may not choose which code runs: give --model package.module:function, or "
        "verify(..., model=...)"
    )


class OriginRecord(BaseModel):
    """The network before a cut or rewrite, in done.json."""

    model_config = ConfigDict(frozen=True)

    whole: str
    plan: str | None
    inexact: bool


class CutRecord(BaseModel):
    """The verdict on a cut, in done.json."""

    model_config = ConfigDict(frozen=True)

    equal: bool
    error: float


class StepRecord(BaseModel):
    """The record of a finished step, its done.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    metric: float | None = Field(validation_alias=AliasChoices("metric", "top1"))
    seconds: float
    macs: int
    params: int
    model: str
    reference: str
    origin: OriginRecord | None
    cuts: tuple[CutRecord, ...]
    folder: str = ""
    """Relative to the run's folder, such as "2-prune"."""


def steps_of(files: ClaimedFiles, size: str = "") -> list[StepRecord]:
    """Read the step records of a run in order, the start first; `size` is a curve's folder, such as macs-0.5."""
    pattern = re.compile(rf"(?:{re.escape(size)}/)?(\d+)-\w+/{DONE}" if size else rf"(\d+)-\w+/{DONE}")
    found = [(int(match[1]), name) for name in files.manifest.files if (match := pattern.fullmatch(name))]
    records = [
        files.read(name, StepRecord).model_copy(update={"folder": name.removesuffix(f"/{DONE}")})
        for _, name in sorted(found)
    ]
    if not records:
        raise RunError(f"the manifest has no step ({DONE}): the folder was not written by a run")
    return records


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name."""
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def first_difference(one: nn.Module, other: nn.Module, only_shapes: bool = False) -> str:
    """Return the first tensor that differs between two networks, in values or only in shape; empty if none."""
    a, b = tensors_of(one), tensors_of(other)
    names: Sequence[str] = list(dict.fromkeys([*a, *b]))
    for name in names:
        if name not in a or name not in b:
            return name
        same = a[name].shape == b[name].shape and a[name].dtype == b[name].dtype
        if not (same and (only_shapes or torch.equal(a[name], b[name]))):
            return name
    return ""
