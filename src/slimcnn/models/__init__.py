"""Networks: one file per family; any network of timm, torchvision or your own by its name; weights files."""

from slimcnn.models.building import build, networks
from slimcnn.models.sources import Preprocessing, preprocessing, resolve
from slimcnn.models.weights import WeightsInfo, load_weights

__all__ = ["Preprocessing", "WeightsInfo", "build", "load_weights", "networks", "preprocessing", "resolve"]
