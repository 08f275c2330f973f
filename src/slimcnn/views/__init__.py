"""Read-only views of networks and runs, printed by the command line and shown in notebooks."""

from slimcnn.views.benchmark import benchmark
from slimcnn.views.closeness import closeness
from slimcnn.views.doctor import doctor
from slimcnn.views.evaluate import evaluate, evaluate_task
from slimcnn.views.inspect import inspect
from slimcnn.views.measure import measure
from slimcnn.views.names import names
from slimcnn.views.norms import norms
from slimcnn.views.plan import plan
from slimcnn.views.rewrite import rewrite
from slimcnn.views.view import View
from slimcnn.views.zoo import zoo

__all__ = [
    "View",
    "benchmark",
    "closeness",
    "doctor",
    "evaluate",
    "evaluate_task",
    "inspect",
    "measure",
    "names",
    "norms",
    "plan",
    "rewrite",
    "zoo",
]
