"""What a network is for: how a batch is read, the loss, the metric, and what distillation compares; one file a task."""

from slimcnn.measuring.metric import Metric
from slimcnn.tasks.task import Meter, Task, task_named, task_of, tasks

__all__ = ["Meter", "Metric", "Task", "task_named", "task_of", "tasks"]
