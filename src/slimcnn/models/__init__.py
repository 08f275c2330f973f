"""Networks by name (one file per family, timm, torchvision, your own code) and weights files."""

from slimcnn.models.building import build, networks
from slimcnn.models.pretrained import pretrained
from slimcnn.models.sources import Preprocessing, preprocessing, resolve
from slimcnn.models.weights import WeightsInfo, load_weights

__all__ = [
    "Preprocessing",
    "WeightsInfo",
    "build",
    "load_weights",
    "networks",
    "preprocessing",
    "pretrained",
    "resolve",
]
