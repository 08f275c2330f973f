"""Tiny data sets and networks, one for each task: squares on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.datasets.boxes import ObjectBox, boxes_of
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization

HEIGHT, WIDTH = 24, 32
PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)


def squares(
    n: int, seed: int, height: int = HEIGHT, width: int = WIDTH, side: int = 10
) -> tuple[Tensor, list[list[ObjectBox]]]:
    """Images of one green (class 0) or blue (class 1) square each, and its box."""
    drawn = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 80, (n, 3, height, width), generator=drawn, dtype=torch.uint8)
    boxes = []
    for number in range(n):
        y = int(torch.randint(0, height - side, (1,), generator=drawn))
        x = int(torch.randint(0, width - side, (1,), generator=drawn))
        pixels[number, 1 + number % 2, y : y + side, x : x + side] += 120
        boxes.append([ObjectBox(number % 2, x, y, x + side, y + side)])
    return pixels, boxes


def masks_of(boxes: list[list[ObjectBox]], height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Class 0 is the background; the upper row is not counted."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, own in zip(masks, boxes, strict=True):
        for box in own:
            mask[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = box.kind + 1
    masks[:, :1] = 255
    return masks


def dataset(task: str, n: int = 48) -> Dataset:
    """Training, validation and test images for a task."""
    parts = {}
    for seed, (part, count) in enumerate((("train", n), ("validation", 12), ("test", 12))):
        pixels, boxes = squares(count, seed)
        kinds = torch.tensor([own[0].kind for own in boxes])
        targets = {
            "classification": kinds,
            "segmentation": masks_of(boxes),
            "multilabel": F.one_hot(kinds, 2).float(),
            "regression": torch.tensor([[own[0].x1 / WIDTH, own[0].y1 / HEIGHT] for own in boxes]),
            "detection": boxes_of(boxes),
        }[task]
        parts[part] = Images(pixels, targets)
    classes = ("back", "green", "blue") if task == "segmentation" else ("green", "blue")
    normalization = PLAIN if task == "detection" else Normalization.measured(parts["train"].pixels)
    return Dataset("squares", classes, **parts, normalization=normalization, augmentation=Augmentation(), task=task)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Segmenter(nn.Module):
    """Two sizes, with an auxiliary head in training mode, as in torchvision."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.fine, self.coarse, self.join = block(3, 12), block(12, 16, 2), block(28, 12)
        self.head, self.auxiliary = nn.Conv2d(12, classes, 1), nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        wide = F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
        found = {"out": self.head(self.join(torch.cat([fine, wide], 1)))}
        return found | ({"aux": self.auxiliary(coarse)} if self.training else {})


def segmenter(num_classes: int = 3, in_channels: int = 3) -> nn.Module:
    return Segmenter(num_classes)


def network(task: str) -> nn.Module:
    """A small network with random weights, always the same."""
    torch.manual_seed(0)
    if task == "segmentation":
        return Segmenter()
    if task == "detection":
        return detector()
    pooled = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2))
    return nn.Sequential(block(3, 12, 2), block(12, 16, 2), *pooled)


def detector(classes: int = 3) -> nn.Module:
    """A RetinaNet of torchvision with a backbone of three layers."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead

    backbone = nn.Sequential(block(3, 8, 2), block(8, 16, 2), block(16, 16))
    backbone.out_channels = 16
    anchors = AnchorGenerator(((8, 12),), ((1.0,),))
    return RetinaNet(
        backbone, classes, min_size=HEIGHT, max_size=64, anchor_generator=anchors,
        head=RetinaNetHead(16, 2, classes, norm_layer=nn.BatchNorm2d), topk_candidates=50, detections_per_img=10,
    )  # fmt: skip


def voc_detector(num_classes: int = 3, in_channels: int = 3) -> nn.Module:
    return detector(num_classes)


def sure_detector() -> nn.Module:
    """A detector with random weights that finds no box in some of the `patterns`, and one or several in others."""
    model, draw = network("detection").eval(), torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=draw)
    logits = model.head.classification_head.cls_logits
    with torch.no_grad():
        logits.weight.mul_(0.5)
        logits.bias.fill_(-1)
    model.score_thresh = 0.4
    return model


def patterns(n: int = 32) -> Tensor:
    """Noise of rising brightness, (n, 3, h, w) from 0 to 1."""
    brightness = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    return torch.rand(n, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * brightness


def write_camvid(folder: Path, n: int = 10) -> Path:
    """Write squares in the layout of CamVid."""
    (folder / "train").mkdir(parents=True)
    (folder / "classes.txt").write_text("back\ngreen\nblue\n", encoding="utf-8")
    for seed, part in enumerate(("train", "val", "test")):
        pixels, boxes = squares(n, seed)
        for name in (part, f"{part}annot"):
            (folder / name).mkdir(exist_ok=True)
        for number, (image, mask) in enumerate(zip(pixels, masks_of(boxes), strict=True)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / part / f"{number:02}.png")
            Image.fromarray(mask.numpy()).save(folder / f"{part}annot" / f"{number:02}.png")
    return folder


def annotation(boxes: list[tuple[str, float, float, float, float]]) -> str:
    """An annotation of Pascal VOC."""
    found = [
        f"<object><name>{kind}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for kind, x1, y1, x2, y2 in boxes
    ]
    return f"<annotation>{''.join(found)}</annotation>"


def write_voc(folder: Path, n: int = 10) -> Path:
    """Write squares in the layout of Pascal VOC."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for seed, part in enumerate(("train", "val", "test")):
        pixels, boxes = squares(n, seed)
        names = [f"{part}_{number:02}" for number in range(n)]
        (folder / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(names), encoding="utf-8")
        for name, image, own in zip(names, pixels, boxes, strict=True):
            Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(
                folder / "JPEGImages" / f"{name}.png"
            )
            named = [(("green", "blue")[b.kind], b.x1 + 1, b.y1 + 1, b.x2, b.y2) for b in own]
            (folder / "Annotations" / f"{name}.xml").write_text(annotation(named), encoding="utf-8")
    return folder


def regression_data() -> Dataset:
    return dataset("regression", 24)


def segmentation_data() -> Dataset:
    return dataset("segmentation", 24)


def regressor(num_classes: int = 2, in_channels: int = 3) -> nn.Module:
    return network("regression")
