"""Parity check of detectors: compare a file's detections in a fresh process with the network's, image by image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.exporting.detection_distance import detection_distance
from slimcnn.exporting.parity import TOLERANCE, Array, Parity, fresh_rows
from slimcnn.exporting.runtimes import why_not
from slimcnn.measuring.examples import undisturbed

SHAKE = 3e-6
"""Standard deviation by which weights are moved, relative to themselves: about the error of a float32 network."""
SHAKES = 6
"""How often all weights are moved."""

NOTHING = "nothing was detected in any of {} images: compare on images with objects that it detects"

Detections = Mapping[str, Array]
"""Boxes, labels, scores and further tensors of an image by name, with a row for each detection."""


def detections(network: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> list[Detections]:
    """Run a detector that returns a tuple of tensors, one image at a time, and name its tensors."""
    with undisturbed(network):
        return [
            dict(zip(names, (leaf.numpy() for leaf in tree_leaves(network(*one))), strict=True))
            for one in zip(*(x.split(1) for x in inputs), strict=True)
        ]


def fresh_detections(runtime: str, path: Path, inputs: Sequence[Tensor], names: Sequence[str]) -> list[Detections]:
    """Run a file in a fresh process, one image at a time, and name its tensors."""
    return [dict(zip(names, rows, strict=True)) for rows in fresh_rows(runtime, path, inputs)]


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
    found = fresh_detections(runtime, path, inputs, tuple(expected[0]))

    def unstable(changes: Mapping[int, int]) -> set[int]:
        return _changed_by_rounding(network, inputs, expected, changes, tolerance)

    return compare_detections(expected, found, tolerance, unstable)


def check_int8_detections(
    runtime: str, path: Path, inputs: Sequence[Tensor], expected: Sequence[Detections], tolerance: float = 1.0
) -> Parity:
    """Run an int8 file in a fresh process, one image at a time, and compare its detections with those in float.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file.
        inputs: input tensors with one row per image.
        expected: the detections in float, see `detections`.
        tolerance: largest `detection_distance` that counts as equal.

    Raises:
        ExportError: the runtime cannot run the file, or its process dies.
    """
    reason = why_not(runtime)
    if reason:
        return Parity("not run", tolerance=tolerance, why=reason)
    found = fresh_detections(runtime, path, inputs, tuple(expected[0]))
    n, count = len(expected), sum(len(one["labels"]) for one in expected)
    if not count:
        return Parity("unproven", images=n, tolerance=tolerance, detections=0, why=NOTHING.format(n))
    apart = detection_distance(*([_tensors(one) for one in each] for each in (expected, found)))
    status: Literal["equal", "mismatch"] = "equal" if apart <= tolerance else "mismatch"
    why = "" if status == "equal" else f"{100 * tolerance:.3g} % are allowed"
    return Parity(status, images=n, tolerance=tolerance, why=why, detections=count, detections_apart=apart)


def _tensors(one: Detections) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in one.items()}


def compare_detections(
    expected: Sequence[Detections],
    found: Sequence[Detections],
    tolerance: float = TOLERANCE,
    unstable: Callable[[Mapping[int, int]], set[int]] = lambda changes: set(),
) -> Parity:
    """Compare detections, image by image and in any order.

    Detections match if they have the same label, and boxes and scores within the tolerance. `unstable` gets the images
    with others, and their number; it returns those images where rounding explains them: near-ties, and no mismatch.
    Where nothing is detected, nothing is proven.

    >>> two = {"boxes": np.array([[0.0, 0, 8, 8], [4, 4, 9, 9]]), "labels": np.array([1, 2]), "scores": np.ones(2)}
    >>> swapped = {name: array[::-1] for name, array in two.items()}
    >>> none = {name: array[:0] for name, array in two.items()}
    >>> [compare_detections([two], [one]).status for one in (swapped, none)], compare_detections([none], [none]).status
    (['equal', 'mismatch'], 'unproven')
    """
    scales, n = _scales(expected), len(expected)
    images = [_matched(y, z, scales, tolerance) for y, z in zip(expected, found, strict=True)]
    changes = {i: image.unmatched for i, image in enumerate(images) if image.unmatched}
    ties = unstable(changes) if changes else set()
    matched, total = sum(image.matched for image in images), sum(image.matched + image.unmatched for image in images)
    wrong = [images[i] for i in changes if i not in ties]
    errors = [image.error for i, image in enumerate(images) if image.matched and i not in ties]
    errors += [image.error_of_matched for i, image in enumerate(images) if image.matched and i in ties]
    errors += [image.error for image in wrong if not image.matched and image.same_labels]
    status, why = _verdict(wrong, matched, total, n, tolerance)
    return Parity(
        status, max(errors, default=None), None, n, len(ties), tolerance, why,
        detections_agree=100.0 * matched / total if total else None, detections=sum(len(y["labels"]) for y in expected),
    )  # fmt: skip


@dataclass(frozen=True)
class MatchedImage:
    """How the detections of an image match."""

    matched: int
    """Pairs within the tolerance."""
    unmatched: int
    """Other detections, of the network or of the file, whichever has more."""
    same_labels: bool
    """Whether both have equally many detections of every label."""
    error: float
    """The largest relative error of the best pairs if the labels are the same, otherwise `error_of_matched`."""
    error_of_matched: float
    """The largest relative error of the pairs within the tolerance."""


def _verdict(
    wrong: Sequence[MatchedImage], matched: int, total: int, n: int, tolerance: float
) -> tuple[Literal["equal", "mismatch", "unproven"], str]:
    """Return the status and its reason.

    Args:
        wrong: images with unmatched detections that rounding does not explain.
        matched: number of matched detections in all images.
        total: number of detections in all images.
        n: number of images.
        tolerance: largest relative error that counts as equal.
    """
    if wrong:
        others = sum(not image.same_labels for image in wrong)
        reasons = [f"the error is above {tolerance:g}"] if others < len(wrong) else []
        reasons += [f"other detections in {others} of {n} images"] if others else []
        return "mismatch", " and ".join(reasons)
    if not total:
        return "unproven", NOTHING.format(n)
    if 2 * matched < total:
        return "unproven", f"rounding alone changes most detections: only {matched} of {total} agree"
    return "equal", ""


def _scales(expected: Sequence[Detections]) -> dict[str, float]:
    """Return max |y| of each tensor other than the labels, over all images."""
    smallest = float(np.finfo(np.float32).tiny)
    return {
        name: max([smallest, *(float(np.abs(one[name]).max()) for one in expected if one[name].size)])
        for name in expected[0]
        if name != "labels"
    }


def _matched(expected: Detections, found: Detections, scales: Mapping[str, float], tolerance: float) -> MatchedImage:
    """Match the detections of an image, the nearest pairs first."""
    y, z = expected["labels"], found["labels"]
    same_labels, most = sorted(y.tolist()) == sorted(z.tolist()), max(len(y), len(z))
    if not len(y) or not len(z):
        return MatchedImage(0, most, same_labels, 0.0, 0.0)
    distance = np.where(y[:, None] == z[None, :], 0.0, np.inf)
    for name in ("boxes", "scores"):
        a, b = (one[name].astype(np.float64).reshape(len(one["labels"]), -1) for one in (expected, found))
        distance = np.maximum(distance, np.abs(a[:, None] - b[None, :]).max(-1) / scales[name])
    pairs = _nearest_pairs(np.where(np.isfinite(distance), distance, np.inf))
    if not pairs:
        return MatchedImage(0, most, False, 0.0, 0.0)
    rows, columns = (list(each) for each in zip(*pairs, strict=True))
    errors = np.zeros(len(pairs))
    for name, scale in scales.items():
        a, b = expected[name][rows].astype(np.float64), found[name][columns].astype(np.float64)
        errors = np.maximum(errors, np.abs(a - b).reshape(len(pairs), -1).max(1) / scale)
    near = errors[errors <= tolerance]
    of_matched = float(near.max(initial=0))
    same_labels = same_labels and len(pairs) == most and bool(np.isfinite(errors).all())
    error = float(errors.max()) if same_labels else of_matched
    return MatchedImage(len(near), most - len(near), same_labels, error, of_matched)


def _nearest_pairs(distance: Array) -> list[tuple[int, int]]:
    """Return row and column of pairs; the nearest pair of all is matched first, and those at infinity never.

    >>> _nearest_pairs(np.array([[3.0, 1.0], [2.0, 0.0]]))
    [(1, 1), (0, 0)]
    """
    left, pairs = distance.copy(), []
    for _ in range(min(distance.shape)):
        row, column = (int(i) for i in np.unravel_index(left.argmin(), left.shape))
        if left[row, column] == np.inf:
            break
        pairs.append((row, column))
        left[row, :] = left[:, column] = np.inf
    return pairs


def _changed_by_rounding(
    network: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Detections], changes: Mapping[int, int],
    tolerance: float,
) -> set[int]:  # fmt: skip
    """Return the images where moving all weights by about rounding changes at least half as many detections.

    Almost equal scores, scores at the threshold, and overlaps at the limit of suppression are decided by the last bits.

    Args:
        network: what returned the expected detections.
        inputs: its input tensors.
        expected: its detections.
        changes: image → number of detections that do not match in the file.
        tolerance: largest relative error of detections that match.
    """
    scales, explained, draw = _scales(expected), set[int](), torch.Generator().manual_seed(0)
    for _ in range(SHAKES):
        left = [i for i in changes if i not in explained]
        if not left:
            break
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for weight in moved.parameters():
                weight.mul_(1 + SHAKE * torch.randn(weight.shape, generator=draw))
        found = detections(moved, [x[left] for x in inputs], tuple(expected[0]))
        for i, one in zip(left, found, strict=True):
            if 2 * _matched(expected[i], one, scales, tolerance).unmatched >= changes[i]:
                explained.add(i)
    return explained
