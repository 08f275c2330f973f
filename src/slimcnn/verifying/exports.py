"""Verify exported files: digests, source network, and outputs in a fresh process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from slimcnn.checkpoints import read_information
from slimcnn.datasets import Dataset, Normalization
from slimcnn.exporting import PARITY, RUNTIMES, TOLERANCE, answers, check_parity, file_digest, source_digest, why_not
from slimcnn.exporting.detection_parity import check_detections, check_int8_detections, detections
from slimcnn.exporting.parity import AT_ONCE
from slimcnn.exporting.preparing import FlatCall
from slimcnn.manifest import files_in, inside
from slimcnn.running.normalization import stored_in
from slimcnn.verifying.certificate import Check, NotCheckable, Refuted, attempt
from slimcnn.verifying.claimed_files import open_network

IMAGES = 64
"""Number of test images on which exported files are compared with the network."""
RANDOM = 16
"""Number of random samples if there are no images."""


class ExportFacts(BaseModel):
    """The part of a parity.json entry about an exported file's input."""

    model_config = ConfigDict(frozen=True)

    input: tuple[str | int, ...] = Field(min_length=2)
    batch: int | Literal["any"] = "any"
    outputs: tuple[str, ...] = ()
    """Names of a detector's outputs; empty for other networks."""
    normalization: Normalization | None = None
    normalization_baked_in: Normalization | None = None


class ExportRecord(BaseModel):
    """The entry of one format in parity.json."""

    model_config = ConfigDict(frozen=True)

    status: Literal["equal", "mismatch", "not run", "unproven"]
    max_error: float | None
    agreement: float | None = None
    engine: str = ""
    """Which engine quantized an int8 file; empty for other files."""
    tolerance: float = TOLERANCE
    runtime: str
    files: dict[str, str] = Field(min_length=1)
    """Name → SHA-256; the first is the file to open."""
    source: str
    """Digest of the network's weights."""
    facts: ExportFacts
    why: str = ""


@dataclass(frozen=True)
class Source:
    """A possible source network of exported files."""

    name: str
    """Name of its checkpoint."""
    network: nn.Module
    normalization: Normalization | None = None


def source_of(path: Path, blank: nn.Module | str | None) -> tuple[str, Source]:
    """Open the checkpoint of a possible source network; return the digest of its weights and the network.

    Raises:
        NotCheckable: the checkpoint names user code that the caller did not allow.
    """
    network = open_network(path, blank)
    return source_digest(network), Source(path.name, network, stored_in(read_information(path)))


def runtime_versions() -> dict[str, str]:
    """Return the versions of the installed runtimes."""
    found = {}
    for package in [package for runtime in RUNTIMES.values() for package in runtime.packages]:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def check_exports(
    folder: Path, where: str, sources: Mapping[str, Source], data: Dataset | None, alone: bool = False
) -> list[Check]:
    """Check every file that a folder's parity.json names.

    Args:
        folder: the folder of parity.json.
        where: its path relative to the verified folder: empty, or with a trailing slash.
        sources: networks by the digest of their weights.
        data: test images to compare on; None: random samples.
        alone: whether the folder holds only exports; files that are not in parity.json are then listed.
    """
    readable = attempt("can be read", where + PARITY, lambda: f"{len(_read(folder))} formats")
    if readable.status != "passed":
        return [readable]
    found = []
    for name, entry in _read(folder).items():
        first = where + next(iter(entry.files))
        found += [
            attempt(f"digest of the {name} export", first, partial(_digests, folder, entry)),
            attempt(f"{name} outputs match the network", first, partial(_parity, folder, entry, sources, data)),
        ]
    return found + _foreign(folder) if alone else found


def _foreign(folder: Path) -> list[Check]:
    """List the folder's files that parity.json does not name."""
    named = {name for entry in _read(folder).values() for name in entry.files}
    why = f"this file is not in {PARITY}"
    return [
        Check(what="digest", where=name, status="not checked", why=why)
        for name in files_in(folder)
        if name != PARITY and name.partition("/")[0] not in named
    ]


def _read(folder: Path) -> dict[str, ExportRecord]:
    try:
        text = inside(folder, PARITY).read_text(encoding="utf-8")
        return TypeAdapter(dict[str, ExportRecord]).validate_python(json.loads(text))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise Refuted(f"the file is damaged: {' '.join(str(error).split())[:200]}") from error


def _digests(folder: Path, entry: ExportRecord) -> str:
    wrong = []
    for name, digest in entry.files.items():
        path = inside(folder, name)
        if not path.exists():
            wrong.append(f"{name} is missing")
        elif file_digest(path) != digest:
            wrong.append(f"{name} has changed")
    if wrong:
        raise Refuted("; ".join(wrong))
    return f"{', '.join(entry.files)} as in {PARITY}"


def _parity(
    folder: Path, entry: ExportRecord, sources: Mapping[str, Source], data: Dataset | None
) -> tuple[str, float]:
    if entry.status == "mismatch":
        raise Refuted(f"{PARITY} records a mismatch: {entry.why}")
    if entry.source not in sources:
        raise NotCheckable(f"the source network (weights {entry.source[:12]}) was not found: give --source FILE")
    source, path = sources[entry.source], inside(folder, next(iter(entry.files)))
    if entry.runtime == "torch":
        raise NotCheckable("PyTorch formats hold pickles and code, which are not loaded here")
    if (reason := why_not(entry.runtime)) or not _intact(folder, entry):
        raise NotCheckable(reason or "its files have changed")
    inputs, what = _inputs(entry.facts, source, data)
    at_once = AT_ONCE if entry.facts.batch == "any" else entry.facts.batch
    inputs = inputs[: max(len(inputs) // at_once, 1) * at_once] if entry.facts.batch != "any" else inputs
    network = FlatCall(source.network, inputs[:1], entry.facts.normalization_baked_in)
    # A quantized file states its own tolerance, which the certificate repeats.
    tolerance = max(entry.tolerance, TOLERANCE)
    if entry.facts.outputs:
        expected = detections(network, [inputs], entry.facts.outputs)
        if entry.engine and entry.status == "unproven":
            raise NotCheckable(f"no tolerance is recorded: {entry.why}")
        if entry.engine:
            parity = check_int8_detections(entry.runtime, path, [inputs], expected, tolerance)
        else:
            parity = check_detections(entry.runtime, path, [inputs], network, expected, tolerance)
    else:
        parity = check_parity(
            entry.runtime, path, [inputs], answers(network, [inputs]), batch=at_once, tolerance=tolerance,
            classifies=entry.agreement is not None,
        )  # fmt: skip
    if parity.status == "unproven":
        raise NotCheckable(parity.why)
    if parity.status != "equal":
        raise Refuted(f"{parity} ({what}, {source.name})")
    error = parity.max_error if parity.detections_apart is None else parity.detections_apart
    return f"{parity}: {what}, tolerance {tolerance:g}, against {source.name}", error or 0.0


def _intact(folder: Path, entry: ExportRecord) -> bool:
    try:
        return bool(_digests(folder, entry))
    except Refuted:
        return False


def _inputs(facts: ExportFacts, source: Source, data: Dataset | None) -> tuple[Tensor, str]:
    """Return the input of the file, (n, c, h, w), and its description."""
    baked, stated = facts.normalization_baked_in is not None, facts.normalization or source.normalization
    if data is not None and (baked or stated) and data.shape[0] == facts.input[1]:
        pixels = data.test.take(torch.arange(min(IMAGES, len(data.test)))).in_memory().to("cpu").pixels
        return (pixels if baked or stated is None else stated(pixels)), f"{len(pixels)} test images"
    shape = [size if isinstance(size, int) else 32 for size in facts.input[1:]]
    draw = torch.Generator().manual_seed(0)
    if baked:
        return torch.randint(0, 256, (RANDOM, *shape), dtype=torch.uint8, generator=draw), f"{RANDOM} random images"
    if facts.outputs:  # a detector takes pixels from 0 to 1
        return torch.rand(RANDOM, *shape, generator=draw), f"{RANDOM} random images"
    return torch.randn(RANDOM, *shape, generator=draw), f"{RANDOM} random samples"
