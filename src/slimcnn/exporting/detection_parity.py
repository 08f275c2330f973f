"""Parity check of detectors: compare a file's detections in a fresh process with the network's, image by image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.exporting.parity import TOLERANCE, Array, Parity, fresh_rows
from slimcnn.exporting.runtimes import why_not
from slimcnn.measuring.examples import undisturbed

SHAKE = 3e-6
"""Standard deviation by which weights are moved, relative to themselves: about the error of a float32 network."""
SHAKES = 6
"""How often all weights are moved."""

Detections = Mapping[str, Array]
"""Boxes, labels, scores and further tensors of an image by name, with a row for each detection."""


def detections(network: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> list[Detections]:
    """Run a detector that returns a tuple of tensors, one image at a time, and name its tensors."""
    with undisturbed(network):
        return [
            dict(zip(names, (leaf.numpy() for leaf in tree_leaves(network(*one))), strict=True))
            for one in zip(*(x.split(1) for x in inputs), strict=True)
        ]


def check_detections(
    runtime: str, path: Path, inputs: Sequence[Tensor], network: nn.Module, expected: Sequence[Detections],
    tolerance: float = TOLERANCE,
) -> Parity:  # fmt: skip
    """Run a file in a fresh process, one image at a time, and compare its detections with the expected ones.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file.
        inputs: input tensors with one row per image.
        network: what returned the expected detections; it is not changed.
        expected: its detections, see `detections`.
        tolerance: largest relative error that counts as equal.

    Raises:
        ExportError: the runtime cannot run the file, or its process dies.
    """
    reason = why_not(runtime)
    if reason:
        return Parity("not run", tolerance=tolerance, why=reason)
    names = tuple(expected[0])
    found = [dict(zip(names, rows, strict=True)) for rows in fresh_rows(runtime, path, inputs)]

    def unstable(images: Sequence[int]) -> set[int]:
        return _changed_by_rounding(network, inputs, expected, images, tolerance)

    return compare_detections(expected, found, tolerance, unstable)


def compare_detections(
    expected: Sequence[Detections],
    found: Sequence[Detections],
    tolerance: float = TOLERANCE,
    unstable: Callable[[Sequence[int]], Iterable[int]] = lambda images: (),
) -> Parity:
    """Compare detections, image by image and in any order.

    An image agrees if both have equally many detections of every label, and boxes and scores match. `unstable` returns
    which of some images have detections that hang on rounding: they are near-ties and no mismatch. Images without any
    detection prove nothing.

    >>> two = {"boxes": np.array([[0.0, 0, 8, 8], [4, 4, 9, 9]]), "labels": np.array([1, 2]), "scores": np.ones(2)}
    >>> swapped = {name: array[::-1] for name, array in two.items()}
    >>> none = {name: array[:0] for name, array in two.items()}
    >>> [compare_detections([two], [one]).status for one in (swapped, none)], compare_detections([none], [none]).status
    (['equal', 'mismatch'], 'unproven')
    """
    n, scales = len(expected), _scales(expected)
    errors = [_error(y, z, scales) for y, z in zip(expected, found, strict=True)]
    differ = [i for i, error in enumerate(errors) if not error <= tolerance]
    ties = set(unstable(differ)) if differ else set()
    seen = [i for i in range(n) if len(expected[i]["labels"]) or len(found[i]["labels"])]
    compared = [errors[i] for i in seen if i not in ties and errors[i] != np.inf]
    status, why = _verdict([errors[i] for i in differ if i not in ties], len(ties), len(seen), n, tolerance)
    return Parity(
        status, max(compared, default=None), None, n, len(ties), tolerance, why,
        detections_agree=100.0 * (n - len(differ)) / n, detections=sum(len(y["labels"]) for y in expected),
    )  # fmt: skip


def _verdict(
    wrong: Sequence[float], ties: int, seen: int, n: int, tolerance: float
) -> tuple[Literal["equal", "mismatch", "unproven"], str]:
    """Return the status and its reason.

    Args:
        wrong: errors of the images that differ and are no near-ties.
        ties: number of near-ties.
        seen: number of images with detections.
        n: number of images.
        tolerance: largest relative error that counts as equal.
    """
    others = sum(error == np.inf for error in wrong)
    if wrong:
        reasons = [f"the error is above {tolerance:g}"] if others < len(wrong) else []
        return "mismatch", " and ".join([*reasons, *([f"{others} images have other detections"] if others else [])])
    if not seen:
        return "unproven", f"nothing was detected in any of {n} images: compare on images with objects that it detects"
    if 2 * ties > seen:
        return "unproven", f"rounding alone changes the detections in {ties} of {seen} images with detections"
    return "equal", ""


def _scales(expected: Sequence[Detections]) -> dict[str, float]:
    """Return max |y| of each tensor other than the labels, over all images."""
    smallest = float(np.finfo(np.float32).tiny)
    return {
        name: max([smallest, *(float(np.abs(one[name]).max()) for one in expected if one[name].size)])
        for name in expected[0]
        if name != "labels"
    }


def _error(expected: Detections, found: Detections, scales: Mapping[str, float]) -> float:
    """Return the largest relative error of the best matching detections; infinity if they cannot be matched."""
    y, z = expected["labels"], found["labels"]
    if sorted(y.tolist()) != sorted(z.tolist()):
        return float("inf")
    if not len(y):
        return 0.0
    distance = np.where(y[:, None] == z[None, :], 0.0, np.inf)
    for name in ("boxes", "scores"):
        a, b = (one[name].astype(np.float64).reshape(len(y), -1) / scales[name] for one in (expected, found))
        distance = np.maximum(distance, np.abs(a[:, None] - b[None, :]).max(-1))
    order = _matching(distance)
    errors = [
        np.abs(expected[name].astype(np.float64) - found[name][order].astype(np.float64)).max() / scale
        for name, scale in scales.items()
    ]
    return float(max(errors)) if np.isfinite(errors).all() else float("inf")


def _matching(distance: Array) -> list[int]:
    """Return the column of each row: the nearest pair of all is matched first.

    >>> _matching(np.array([[3.0, 1.0], [2.0, 0.0]]))
    [0, 1]
    """
    left, order = distance.copy(), [0] * len(distance)
    for _ in range(len(order)):
        row, column = np.unravel_index(left.argmin(), left.shape)
        order[int(row)] = int(column)
        left[row, :] = left[:, column] = np.inf
    return order


def _changed_by_rounding(
    network: nn.Module,
    inputs: Sequence[Tensor],
    expected: Sequence[Detections],
    images: Sequence[int],
    tolerance: float,
) -> set[int]:
    """Return the images whose detections change by more than the tolerance when all weights move by about rounding.

    Almost equal scores, scores at the threshold, and overlaps at the limit of suppression are decided by the last bits.
    """
    scales, changed, draw = _scales(expected), set[int](), torch.Generator().manual_seed(0)
    for _ in range(SHAKES):
        left = [i for i in images if i not in changed]
        if not left:
            break
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for weight in moved.parameters():
                weight.mul_(1 + SHAKE * torch.randn(weight.shape, generator=draw))
        found = detections(moved, [x[left] for x in inputs], tuple(expected[0]))
        changed |= {i for i, one in zip(left, found, strict=True) if _error(expected[i], one, scales) > tolerance}
    return changed
