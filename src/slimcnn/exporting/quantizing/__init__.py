"""Int8 files: after training, with calibration images; accuracy asked of the runtime, the faster file recommended."""

# First, so that the registry of that name replaces the folder in this namespace.
import slimcnn.exporting.quantizing.engines  # noqa: F401

# isort: split
from slimcnn.exporting.quantizing.accuracy import Accuracy, loss_of
from slimcnn.exporting.quantizing.engine import Engine, engines
from slimcnn.exporting.quantizing.int8 import INT8, quantize
from slimcnn.exporting.quantizing.quantized import LayerError, Quantized
from slimcnn.exporting.quantizing.speed import SpeedComparison, compare_speed

__all__ = [
    "INT8",
    "Accuracy",
    "Engine",
    "LayerError",
    "Quantized",
    "SpeedComparison",
    "compare_speed",
    "engines",
    "loss_of",
    "quantize",
]
