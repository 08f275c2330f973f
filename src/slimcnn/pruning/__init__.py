"""Channel pruning: score, allocate, cut, and prove the cut."""

# Import the folder first: imported later, it would shadow the registry of the same name.
import slimcnn.pruning.criteria  # noqa: F401
from slimcnn.pruning.allocation import allocate
from slimcnn.pruning.latency import LatencyModel, latency_model
from slimcnn.pruning.optimizer_transfer import carry
from slimcnn.pruning.plan import Plan
from slimcnn.pruning.scores import Criterion, Evidence, Scores, criteria, score
from slimcnn.pruning.sensitivity_curves import sensitivity
from slimcnn.pruning.soft import SoftPruning
from slimcnn.pruning.surgery import mask, prune
from slimcnn.pruning.targets import Target
from slimcnn.pruning.verify import Verdict, verify

__all__ = [
    "Criterion",
    "Evidence",
    "LatencyModel",
    "Plan",
    "Scores",
    "SoftPruning",
    "Target",
    "Verdict",
    "allocate",
    "carry",
    "criteria",
    "latency_model",
    "mask",
    "prune",
    "score",
    "sensitivity",
    "verify",
]
