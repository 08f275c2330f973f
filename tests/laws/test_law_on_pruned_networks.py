"""Networks that were cut before, with uneven widths, are cut again; two cuts together are still exact."""

from __future__ import annotations

import pytest
import torch
import zoo_law
import zoo_networks
from torch import nn

from at_hand import mostly_slow
from slimcnn.graph import trace
from slimcnn.pruning import Target, allocate, mask, prune, score, verify

NETWORKS = """slimcnn:resnet56 torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x0_5
    torchvision:resnext50_32x4d timm:ecaresnet50d_pruned timm:skresnet18 timm:cs3darknet_focus_s
    timm:mixnet_s""".split()


def cut(model: nn.Module, example: torch.Tensor, target: Target, criterion: str) -> tuple[nn.Module, float]:
    """Cut, hold the law, and give the smaller network with the share of the MACs that it has left."""
    graph = trace(model, example)
    plan = allocate(graph, score(model, graph, criterion), target)
    small = prune(model, graph, plan, verify=False)
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.error < 1e-9
    return small, graph.macs(plan.counts(graph)) / graph.macs()


def left_of_each(model: nn.Module, small: nn.Module) -> set[float]:
    """Shares of the filters that convolutions have left."""
    before = dict(model.named_modules())
    return {
        round(layer.weight.shape[0] / before[name].weight.shape[0], 2)
        for name, layer in small.named_modules()
        if isinstance(layer, nn.Conv2d)
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", mostly_slow(NETWORKS, NETWORKS[::3]))
def test_a_network_that_was_cut_unevenly_is_cut_again_and_both_cuts_together_are_exact(name: str) -> None:
    subject = zoo_networks.build(name, (64, 96))
    codes = zoo_law.address(subject.model)
    once, first = cut(subject.model, subject.example, Target(macs=0.6, scope="global"), "l1")
    assert 0.5 < first <= 0.6
    assert len(left_of_each(subject.model, once)) > 3
    twice, second = cut(once, subject.example, Target(pruning_ratio=0.5), "random")
    assert second < 0.5
    judgment = zoo_law.judge(subject.model, twice, codes, subject.example)
    assert judgment.equal, judgment
    assert judgment.change > 1e-6


def test_networks_that_their_authors_pruned_have_uneven_widths() -> None:
    widths = {m.weight.shape[0] for m in zoo_networks.build("timm:ecaresnet50d_pruned", (64,)).model.modules()
              if isinstance(m, nn.Conv2d)}  # fmt: skip
    assert any(width % 8 for width in widths)
