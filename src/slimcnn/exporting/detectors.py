"""Whole detectors of torchvision in graphs: their outputs, and their code without branches on the number of boxes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DETECTION = frozenset(("boxes", "labels", "scores"))
"""What a detector returns for each image."""


def detected_names(output: Any) -> tuple[str, ...]:
    """Return the names of a detector's tensors, in its order; empty for the output of any other network.

    A detector returns a list with a dict of boxes, labels and scores for each image.

    >>> image = {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": torch.zeros(2)}
    >>> detected_names([image]), detected_names(image)
    (('boxes', 'scores', 'labels'), ())
    """
    first = output[0] if isinstance(output, list | tuple) and output else None
    if not isinstance(first, Mapping) or not set(first) >= DETECTION:
        return ()
    return tuple(map(str, first)) if all(isinstance(one, Tensor) for one in first.values()) else ()


@contextmanager
def without_branches() -> Iterator[None]:
    """Replace torchvision's functions that branch on the number of boxes, which a graph does not know; then restore.

    Nothing is replaced if torchvision is not imported: then no network uses it.
    """
    with ExitStack() as replaced:
        for module in ("torchvision.ops.boxes", "torchvision.ops"):
            if module in sys.modules:
                replaced.enter_context(_replaced(sys.modules[module], "batched_nms", _suppressed))
        if "torchvision.ops.poolers" in sys.modules:
            # The built-in len wants an int, and the number of boxes is a symbol.
            replaced.enter_context(_replaced(sys.modules["torchvision.ops.poolers"], "len", _length))
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, by: Any) -> Iterator[None]:
    own = module.__dict__.get(name)
    setattr(module, name, by)
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)


def _suppressed(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress overlapping boxes of each class: torchvision's coordinate trick, for any number of boxes.

    Boxes of class k move by k times more than the largest coordinate, so that those of different classes never overlap.
    torchvision itself does this where it is traced.
    """
    from torchvision.ops import nms

    largest = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max()  # of no box: 0
    found: Tensor = nms(boxes + (idxs.to(boxes) * (largest + 1))[:, None], scores, iou_threshold)
    return found


def _length(given: Sized) -> Any:
    return given.shape[0] if isinstance(given, Tensor) else len(given)
