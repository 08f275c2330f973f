"""Int8 files are judged by the metric of the task, in their runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.datasets import Dataset
from slimcnn.exporting.detection_distance import detection_distance
from slimcnn.exporting.detectors import detected_names
from slimcnn.exporting.quantizing import Accuracy, FileJudge
from slimcnn.graph.answers import OutputError
from slimcnn.tasks import Task
from slimcnn.tasks.classification import Classification


def judge_of(task: Task, data: Dataset) -> FileJudge | None:
    """Return the judge of int8 files for a task; None for classes of images, which `quantize` judges itself."""
    return None if isinstance(task, Classification) else TaskJudge(task, len(data.classes))


class TaskJudge:
    """Judges files by the metric of a task."""

    distance_name = "distance from float"

    def __init__(self, task: Task, classes: int) -> None:
        self._task, self._classes = task, classes

    def accuracy(self, network: nn.Module, x: Sequence[Tensor], y: Tensor) -> Accuracy:
        """Return the task's metric on samples of the network's one input."""
        meter, size = self._task.meter(self._classes), self._task.batch
        for start in range(0, len(x[0]), size):
            part = slice(start, start + size)
            meter.update(network(x[0][part]), x[0][part], y[part])
        return Accuracy(meter.value(), len(x[0]), self._task.metric)

    def distance(self, expected: Any, found: Any) -> float:
        """Return the `OutputError` of the outputs; of detectors, `detection_distance`."""
        if detected_names(expected):
            return detection_distance(expected, found)
        error = OutputError()
        error.add(tree_leaves(found), tree_leaves(expected))
        return error.value if math.isfinite(error.value) else math.inf
