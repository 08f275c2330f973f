"""Parity check: compare a file's outputs in a fresh process with the network's, on real images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ExportError
from slimcnn.exporting.runtimes import RUNTIMES, reader_of, why_not
from slimcnn.measuring.examples import undisturbed

TOLERANCE = 1e-4
"""Largest relative error of a float32 file; the order of summation alone causes 1e-7 to 1e-5."""
AT_ONCE = 64
"""Batch size for files that accept any batch size."""
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Parity:
    """How closely an exported file's outputs match the network's."""

    status: Literal["equal", "mismatch", "not run", "unproven"]
    """"unproven": the file was run, but a detector detected nothing, or only what rounding decides."""
    max_error: float | None = None
    """max |y - y'| / max |y| over all samples and outputs; y is the network's output. Of a detector: of detections that
    match; None if there are none."""
    agreement: float | None = None
    """Percent of the samples with the same top-1; None if the first output is not scores (n, classes)."""
    images: int = 0
    near_ties: int = 0
    """Samples with a different top-1 whose two best scores are closer than twice the tolerance. Of a detector: images
    with other detections, where rounding changes detections of the network too."""
    tolerance: float = TOLERANCE
    why: str = ""
    """What differs, or why the check was not run or proves nothing."""
    detections_agree: float | None = None
    """Percent of a detector's detections in all images that match those of the file; None if there are none."""
    detections: int | None = None
    """Number of the network's detections in all images; None unless the network is a detector."""
    detections_apart: float | None = None
    """Of an int8 file of a detector: how far its detections are from those in float (`detection_distance`), 0 to 1,
    which is what the tolerance then limits."""

    def __str__(self) -> str:
        if self.status == "not run":
            return f"not run: {self.why}"
        if self.status == "unproven":
            return f"unproven: {self.why}"
        if self.detections_apart is not None:
            said = f"{100 * self.detections_apart:.3g} % of {self.detections} detections differ, weighted by score"
            return said if self.status == "equal" else f"{said}; {self.why}"
        if self.max_error is None:
            return self.why
        said = f"largest relative error {self.max_error:.1e} on {self.images} samples"
        if self.agreement is not None:
            said += f", top-1 agrees on {self.agreement:g} %"
        if self.detections_agree is not None:
            said += f", {self.detections_agree:.4g} % of {self.detections} detections agree"
        return said if self.status == "equal" else f"{said}; {self.why}"


def answers(model: nn.Module, inputs: Sequence[Tensor], at_once: int = AT_ONCE) -> tuple[Array, ...]:
    """Run a network in eager PyTorch; return its output tensors as arrays with one row per sample."""
    parts = []
    with undisturbed(model):
        for start in range(0, len(inputs[0]), at_once):
            found = model(*[one[start : start + at_once] for one in inputs])
            parts.append([leaf.float().numpy() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)])
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def fresh_answers(
    runtime: str, path: Path, inputs: Sequence[Tensor], batch: int = AT_ONCE, threads: int | None = None
) -> tuple[Array, ...]:
    """Run a file in a fresh process that cannot import slimcnn, and PyTorch only if the runtime needs it.

    Raises:
        ExportError: the runtime cannot run the file, or its process dies.
    """
    return _run_fresh(runtime, path, inputs, batch, threads)[0]


def fresh_rows(runtime: str, path: Path, inputs: Sequence[Tensor]) -> list[tuple[Array, ...]]:
    """Run a file as `fresh_answers` does, one sample at a time; return the outputs of each, of any length."""
    outputs, lengths = _run_fresh(runtime, path, inputs, 1, None)
    each = [np.split(one, np.cumsum(rows)[:-1]) for one, rows in zip(outputs, lengths, strict=True)]
    return list(zip(*each, strict=True))


def _run_fresh(
    runtime: str, path: Path, inputs: Sequence[Tensor], batch: int, threads: int | None
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the outputs of all samples, and the number of rows that each call returned."""
    known = RUNTIMES[runtime]
    blocked = ["slimcnn", "torch"] if known.without_torch else ["slimcnn"]
    with TemporaryDirectory(prefix="slimcnn-") as folder:
        home = Path(folder)
        arrays: dict[str, Any] = {f"input{i}": one.numpy() for i, one in enumerate(inputs)}
        np.savez(home / "inputs.npz", **arrays)
        job = {
            "reader": str(reader_of(runtime)), "model": str(path.resolve()), "threads": threads, "batch": batch,
            "inputs": str(home / "inputs.npz"), "outputs": str(home / "outputs.npz"), "blocked": blocked,
        }  # fmt: skip
        (home / "job.json").write_text(json.dumps(job), encoding="utf-8")
        # -P: the script's folder contains files with the names of packages.
        script = Path(__file__).with_name("fresh.py")
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(home / "job.json")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ExportError(f"{known.title} cannot run {path.name}: {reason_of_death(done)}")
        with np.load(home / "outputs.npz") as held:
            outputs, rows = (
                tuple(held[f"{name}{i}"] for i in range(len(held.files) // 2)) for name in ("output", "rows")
            )
            return outputs, rows


def reason_of_death(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a process failed: its signal, or the last line of its stderr.

    >>> reason_of_death(subprocess.CompletedProcess([], -11, stdout="", stderr=""))
    'its process was killed by signal 11'
    """
    if done.returncode < 0:
        return f"its process was killed by signal {-done.returncode}"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1] if said else f"exit code {done.returncode}"


def compare(
    expected: Sequence[Array], found: Sequence[Array], tolerance: float = TOLERANCE, classifies: bool = True
) -> Parity:
    """Compare two sets of outputs, arrays with one row per sample.

    `classifies`: a first output (n, k) holds scores of classes, so that top-1 is compared too.

    >>> y = np.array([[1.0, 3.0], [2.0, 0.0]])
    >>> compare([y], [y + 0.3]).status, compare([y], [y]).agreement
    ('mismatch', 100.0)
    """
    n = len(expected[0])
    shapes = [[one.shape for one in each] for each in (expected, found)]
    if shapes[0] != shapes[1]:
        why = f"the network returns shapes {shapes[0]}, the file {shapes[1]}"
        return Parity("mismatch", None, None, n, 0, tolerance, why)
    error = max(_relative(y, z) for y, z in zip(expected, found, strict=True))
    y, z = expected[0], found[0]
    agreement, ties, differ = None, 0, 0
    if classifies and y.ndim == 2 and y.shape[1] > 1:
        other = np.flatnonzero(y.argmax(1) != z.argmax(1))
        agreement = 100.0 * (1 - len(other) / n)
        best = np.sort(y[other].astype(np.float64), axis=1)
        ties = int((best[:, -1] - best[:, -2] <= 2 * tolerance * np.abs(y).max()).sum())
        differ = len(other) - ties
    reasons = [f"{differ} samples have a different top-1"] if differ else []
    if not error <= tolerance:  # true for NaN too
        reasons.insert(0, f"the error is above {tolerance:g}")
    return Parity("mismatch" if reasons else "equal", error, agreement, n, ties, tolerance, " and ".join(reasons))


def _relative(y: Array, z: Array) -> float:
    a, b = y.astype(np.float64), z.astype(np.float64)
    if not a.size:
        return 0.0
    if not np.isfinite(a).all():
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    error = np.abs(a - b).max()
    return float(error / max(np.abs(a).max(), np.finfo(np.float32).tiny)) if np.isfinite(error) else float("inf")


def check_parity(
    runtime: str, path: Path, inputs: Sequence[Tensor], expected: Sequence[Array], *, batch: int = AT_ONCE,
    tolerance: float = TOLERANCE, classifies: bool = True,
) -> Parity:  # fmt: skip
    """Run a file in a fresh process and compare its outputs with the expected ones.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file.
        inputs: input tensors with one row per sample.
        expected: the network's outputs, see `answers`.
        batch: batch size; that of the file if it is fixed.
        tolerance: largest relative error that counts as equal.
        classifies: whether top-1 is compared too.

    Raises:
        ExportError: the runtime cannot run the file, or its process dies.
    """
    reason = why_not(runtime)
    if reason:
        return Parity("not run", tolerance=tolerance, why=reason)
    return compare(expected, fresh_answers(runtime, path, inputs, batch), tolerance, classifies)


def plain(parity: Parity) -> dict[str, object]:
    """Return a parity in the form of parity.json."""
    return asdict(parity)
