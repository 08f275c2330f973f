"""The law on networks that others wrote: some of every kind always, the whole zoo when asked.

Two judges that share no code have to agree: slimcnn's own, and the zoo's, which reads off the numbers that are left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import zoo_law
import zoo_networks
from torch import Tensor

from at_hand import mostly_slow
from slimcnn.graph import trace
from slimcnn.measuring import measure
from slimcnn.pruning import Target, allocate, mask, prune, score, verify

SIZES = (64, 80, 96, 128, 160, 192, 224)

FAST = {
    "torchvision:resnet18": 0.27, "torchvision:mobilenet_v2": 0.29, "torchvision:mobilenet_v3_small": 0.34,
    "torchvision:shufflenet_v2_x1_0": 0.44, "torchvision:densenet121": 0.27, "torchvision:googlenet": 0.28,
    "torchvision:squeezenet1_1": 0.33, "torchvision:efficientnet_b0": 0.29, "torchvision:regnet_y_400mf": 0.27,
    "torchvision:resnext50_32x4d": 0.27, "torchvision:mnasnet0_5": 0.34, "torchvision:inception_v3": 0.26,
    "timm:ecaresnet50d_pruned": 0.39, "timm:efficientnet_b1_pruned": 0.30, "timm:skresnet18": 0.28,
    "timm:resnest14d": 0.26, "timm:res2net50_14w_8s": 0.27, "timm:dla46x_c": 0.32, "timm:hrnet_w18_small": 0.27,
    "timm:densenetblur121d": 0.27, "timm:dpn48b": 0.27, "timm:cs3darknet_focus_s": 0.29, "timm:ese_vovnet19b_dw": 0.27,
    "timm:ghostnet_100": 0.31, "timm:mobilenetv4_conv_small": 0.30, "timm:mobileone_s0": 0.28, "timm:repvgg_a0": 0.27,
    "timm:mixnet_s": 0.32, "timm:rexnet_100": 0.30, "timm:nfnet_l0": 0.98, "timm:legacy_xception": 0.27,
    "timm:convnext_atto": 0.58, "timm:edgenext_xx_small": 0.63, "timm:inception_next_atto": 0.29,
    "timm:fastvit_t8": 0.30, "timm:inception_resnet_v2": 0.26, "timm:selecsls42b": 0.26, "timm:halonet26t": 0.31,
}  # fmt: skip
"""Network → largest share of its MACs that may be left when half of the channels of every group have gone.

A quarter is what half of the channels everywhere comes to; much above it, `trace` names what is locked and why.
"""

OFTEN = """torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x1_0 torchvision:densenet121
    torchvision:googlenet timm:skresnet18 timm:resnest14d timm:ghostnet_100 timm:repvgg_a0 timm:convnext_atto
    timm:fastvit_t8""".split()
"""One network of every idea; the others run in the slow suite."""

SEGMENTATION = ["segmentation:lraspp_mobilenet_v3_large", "segmentation:deeplabv3_mobilenet_v3_large"]
DETECTION = ["detection:ssdlite320_mobilenet_v3_large"]
SLOW_DETECTION = ["detection:retinanet_resnet50_fpn", "detection:fasterrcnn_mobilenet_v3_large_fpn"]
TOO_LARGE = {"torchvision:regnet_y_128gf"}
"""644 million parameters, several times in float64: too much for two test processes; the benchmark does it."""


def assert_law(subject: zoo_networks.Subject, ratio: float = 0.5, *, fixed_memory: bool = True) -> float:
    """Cut at random, and hold the law, the predicted costs and the other judge's opinion; give the MACs left.

    Without `fixed_memory`, running memory depends on the answers (how many boxes are found) and is not compared.
    """
    model, example, codes = subject.model, subject.example, zoo_law.address(subject.model)
    graph = trace(model, example)
    assert all(lock.reason for lock in graph.locked)
    if not graph.groups:
        return 1.0
    plan = allocate(graph, score(model, graph, "random"), Target(pruning_ratio=ratio))
    small = prune(model, graph, plan, verify=False)
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.error < 1e-9
    counts = plan.counts(graph)
    size = measure(small, example)
    assert graph.macs(counts) == size.macs < graph.macs()
    assert graph.bytes(counts) == size.bytes
    assert graph.peak_memory(counts) == size.peak_memory or not fixed_memory
    assert graph.params(counts) == sum(p.numel() for p in small.parameters()) < graph.params()
    left = graph.macs(counts) / graph.macs()
    judgment = zoo_law.judge(copy.deepcopy(model), small, codes, example)
    assert judgment.equal, judgment
    assert judgment.change > 1e-6, "the removed channels had no influence: nothing was tested"
    return left


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", mostly_slow(FAST, OFTEN))
def test_the_law_holds_on_networks_of_every_kind_and_what_can_go_does_go(name: str) -> None:
    assert assert_law(zoo_networks.build(name, SIZES)) <= FAST[name]


def test_the_auxiliary_heads_of_googlenet_still_fit_after_a_cut() -> None:
    subject = zoo_networks.build("torchvision:googlenet", (64,))
    graph = trace(subject.model, subject.example)
    plan = allocate(graph, score(subject.model, graph, "l1"), Target(macs=0.5))
    small = prune(subject.model, graph, plan).train()
    outputs = small(torch.randn(2, 3, 64, 64))
    assert [output.shape for output in outputs] == [(2, 1000)] * 3


@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_law_holds_where_a_network_returns_a_dict(name: str) -> None:
    subject = zoo_networks.build(name, (64,))
    output = subject.model(subject.example)
    assert isinstance(output, Mapping)
    assert isinstance(output["out"], Tensor)
    assert assert_law(subject) < 0.35


def in_one_order(found: Mapping[str, Tensor]) -> Tensor:
    """The order of boxes by score, then by class and place: an untrained detector gives many boxes the same score.

    Their order is then decided by rounding, which differs between processors.
    """
    columns = [found["boxes"].round(decimals=3), found["labels"][:, None], -found["scores"][:, None].round(decimals=9)]
    return torch.from_numpy(np.lexsort(torch.cat(columns, dim=1).T.numpy()))


@torch.no_grad()
def assert_detector(name: str) -> None:
    """The law for all that a detector has learned, and for the boxes that the whole detector finds."""
    subject = zoo_networks.build(name, (96,))
    zoo_law.address(subject.model)
    if hasattr(subject.model.detector, "roi_heads"):
        subject.model.detector.roi_heads.score_thresh = 0.0  # untrained, it is sure of nothing
    graph = trace(subject.model, subject.example)
    plan = allocate(graph, score(subject.model, graph, "random"), Target(pruning_ratio=0.5))
    small = prune(subject.model, graph, plan)
    assert graph.macs(plan.counts(graph)) < 0.5 * graph.macs()
    image = torch.rand(3, 96, 96, dtype=torch.float64)
    masked = mask(subject.model, graph, plan)
    (expected,), (found,), (before,) = (
        whole.double().eval().detector([image]) for whole in (masked, small, subject.model)
    )
    assert len(found["boxes"]) > 0
    assert expected.keys() == found.keys()
    orders = in_one_order(expected), in_one_order(found)
    for key, value in expected.items():
        torch.testing.assert_close(found[key][orders[1]], value[orders[0]], rtol=1e-9, atol=1e-9)
    assert not (before["scores"].shape == found["scores"].shape and torch.allclose(before["scores"], found["scores"]))


@pytest.mark.parametrize("name", DETECTION)
def test_a_cut_detector_finds_the_boxes_of_the_masked_one(name: str) -> None:
    assert_detector(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_DETECTION)
def test_more_cut_detectors_find_the_boxes_of_the_masked_ones(name: str) -> None:
    assert_detector(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in zoo_networks.names() if name not in {*FAST, *TOO_LARGE}])
def test_the_law_holds_on_the_whole_zoo(name: str) -> None:
    subject = zoo_networks.build(name, SIZES)
    assert not math.isnan(assert_law(subject, fixed_memory=not name.startswith("detection:")))
