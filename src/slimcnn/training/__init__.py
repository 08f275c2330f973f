"""Training: one loop, written as a generator of epochs."""

from slimcnn.training.decisions import decided, deterministic
from slimcnn.training.epochs import Epoch
from slimcnn.training.evaluation import Evaluation, evaluate
from slimcnn.training.judging import Judged, NamedMetric, judge
from slimcnn.training.loop import fit
from slimcnn.training.memory import keep_freed_memory
from slimcnn.training.probing import probe
from slimcnn.training.processes import best_device
from slimcnn.training.schedule import learning_rate
from slimcnn.training.settings import Training

__all__ = [
    "Epoch",
    "Evaluation",
    "Judged",
    "NamedMetric",
    "Training",
    "best_device",
    "decided",
    "deterministic",
    "evaluate",
    "fit",
    "judge",
    "keep_freed_memory",
    "learning_rate",
    "probe",
]
