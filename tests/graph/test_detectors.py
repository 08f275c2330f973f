"""Detectors of torchvision, whole: a list of images in, a dict for each image out; traced, cut, and proven."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import detection

import slimcnn
from slimcnn.pruning.verify import verify

SMALL = {"weights": None, "weights_backbone": None, "num_classes": 4}


def detector(name: str) -> nn.Module:
    """A detector that works on small images, so that a test takes seconds."""
    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    model: nn.Module = getattr(detection, name)(**SMALL, **sizes)
    return model.eval()


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 80, generator=generator)]


NAMES = [
    "ssdlite320_mobilenet_v3_large",
    pytest.param("fasterrcnn_mobilenet_v3_large_fpn", marks=pytest.mark.slow),
    pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow),
    pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
    pytest.param("keypointrcnn_resnet50_fpn", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_detector_is_cut_and_the_cut_is_proven(name: str) -> None:
    model, example = detector(name), images()
    graph = slimcnn.trace(model, example)
    assert graph.selects
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(model, graph, plan)  # raises NotEqual, unless the cut network equals the masked one
    found = small([torch.rand(3, 70, 64), torch.rand(3, 64, 90)])
    assert sorted(found[0]) == sorted(model(images())[0])
    assert slimcnn.measure(small, example).macs < 0.6 * slimcnn.measure(model, example).macs


def test_a_detector_that_finds_nothing_is_still_compared_by_its_heads() -> None:
    model, example = detector("ssdlite320_mobilenet_v3_large"), images()
    model.score_thresh = 2.0  # no box has such a score: the answer is empty
    graph = slimcnn.trace(model, example)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(model, graph, plan)
    assert len(small(images())[0]["boxes"]) == 0
    masked = slimcnn.mask(model, graph, plan)
    with torch.no_grad():
        next(small.head.classification_head.parameters()).add_(1.0)
    assert not verify(masked, small, graph, plan).holds
