"""Post-training int8 quantization with calibration images; accuracy and speed are measured in the runtime."""

# Imported first, so that the registry `engines` replaces the subpackage of that name in this namespace.
import slimcnn.exporting.quantizing.engines  # noqa: F401

# isort: split
from slimcnn.exporting.quantizing.accuracy import Accuracy, FileJudge, loss_of
from slimcnn.exporting.quantizing.engine import Engine, engines
from slimcnn.exporting.quantizing.int8 import INT8, quantize
from slimcnn.exporting.quantizing.quantized import LayerError, Quantized
from slimcnn.exporting.quantizing.speed import SpeedComparison, compare_speed

__all__ = [
    "INT8",
    "Accuracy",
    "Engine",
    "FileJudge",
    "LayerError",
    "Quantized",
    "SpeedComparison",
    "compare_speed",
    "engines",
    "loss_of",
    "quantize",
]
