"""The law on networks that others wrote: a dozen of torchvision always, the rest and some of timm when asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from law_networks import randomise
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimcnn.graph import trace
from slimcnn.pruning import Target, allocate, mask, prune, score, verify

SMALL = {
    "resnet18": 12, "mobilenet_v2": 25, "mobilenet_v3_small": 27, "shufflenet_v2_x1_0": 19, "densenet121": 120,
    "googlenet": 57, "squeezenet1_1": 25, "efficientnet_b0": 40, "regnet_y_400mf": 53, "resnext50_32x4d": 37,
    "mnasnet0_5": 25, "inception_v3": 94,
}  # fmt: skip
"""Network of torchvision → number of groups that can be cut."""

LARGE = """alexnet vgg11 vgg11_bn resnet50 wide_resnet50_2 mobilenet_v3_large shufflenet_v2_x0_5 densenet169
    efficientnet_v2_s regnet_x_400mf mnasnet1_3 squeezenet1_0""".split()

FREE = """segmentation.fcn_resnet50 segmentation.deeplabv3_mobilenet_v3_large segmentation.lraspp_mobilenet_v3_large
    video.r3d_18 video.r2plus1d_18 video.mc3_18""".split()

TIMM = """resnet10t resnet26d resnext26ts seresnet50 ecaresnet26t skresnet18 res2net50_26w_4s resnest14d cspresnet50
    cspdarknet53 darknet53 dla34 dpn68 densenetblur121d efficientnet_lite0 ghostnet_100 hardcorenas_a hrnet_w18_small
    inception_resnet_v2 legacy_xception mixnet_s mobilenetv2_050 mobilenetv4_conv_small mobileone_s0 nfnet_l0
    regnetx_002 regnety_004 repghostnet_050 repvgg_a0 rexnet_100 selecsls42b semnasnet_075 spnasnet_100 tinynet_e
    tresnet_m vovnet39a xception41 convnext_atto lcnet_050 fbnetc_100 gernet_s ese_vovnet19b_dw""".split()


def small_torchvision(name: str) -> nn.Module:
    import torchvision

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    return model


def assert_law(model: nn.Module, example: torch.Tensor, ratio: float = 0.5) -> int:
    """Trace, cut at random, and hold the law, the predicted costs and the next step of training; count the groups."""
    randomise(model)
    graph = trace(model, example)
    if not graph.groups:
        return 0
    plan = allocate(graph, score(model, graph, "random"), Target(ratio=ratio))
    small = prune(model, graph, plan, verify=False)
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.error < 1e-9
    counts, counter = plan.counts(graph), FlopCounterMode(display=False)
    with counter, torch.no_grad():
        small.eval()(example)
    assert graph.macs(counts) == counter.get_total_flops() // 2 < graph.macs()
    assert graph.params(counts) == sum(p.numel() for p in small.parameters()) < graph.params()
    return len(graph.groups)


@pytest.mark.parametrize("name", SMALL)
def test_the_law_holds_on_networks_of_torchvision(name: str) -> None:
    size = 80 if name == "inception_v3" else 64
    assert assert_law(small_torchvision(name), torch.zeros(1, 3, size, size)) >= SMALL[name]


def test_the_auxiliary_heads_of_googlenet_still_fit_after_a_cut() -> None:
    model = small_torchvision("googlenet")
    graph = trace(model, torch.zeros(1, 3, 64, 64))
    plan = allocate(graph, score(model, graph, "l1"), Target(macs=0.5))
    small = prune(model, graph, plan).train()
    outputs = small(torch.randn(2, 3, 64, 64))
    assert [output.shape for output in outputs] == [(2, 10)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_law_holds_on_more_networks_of_torchvision(name: str) -> None:
    size = 224 if name in ("alexnet", "vgg11", "vgg11_bn") else 64
    assert assert_law(small_torchvision(name), torch.zeros(1, 3, size, size)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_the_law_holds_on_networks_for_segmentation_and_video(name: str) -> None:
    import torchvision

    family, _, kind = name.partition(".")
    options = {"weights_backbone": None} if family == "segmentation" else {}
    build: Callable[..., nn.Module] = getattr(getattr(torchvision.models, family), kind)
    model = build(weights=None, **options)
    example = torch.zeros(1, 3, 8, 32, 32) if family == "video" else torch.zeros(1, 3, 64, 64)
    assert assert_law(model, example) > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMM)
def test_the_law_holds_on_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name)
    channels, *_ = model.default_cfg["input_size"]
    size = 160 if model.default_cfg.get("fixed_input_size") else 96
    assert_law(model, torch.zeros(1, channels, size, size))
