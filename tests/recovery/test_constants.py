"""Constants of removed channels: exact where nothing is padded, off at the border where zeros are, else left alone."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

import slimcnn
from at_hand import Net, randomize
from slimcnn.recovery import FoldedConstants, fold_constants

Conv, Norm = nn.Conv2d, nn.BatchNorm2d


def silenced(model: nn.Module, example: Tensor, ratio: float = 0.5) -> tuple[slimcnn.ChannelGraph, slimcnn.Plan]:
    """Half of the channels inside blocks have scale 0 and a shift; exactly those go."""
    graph = slimcnn.trace(model, example)
    bare = tuple(group.name for group in graph.groups if not group.norms)
    target = slimcnn.Target(pruning_ratio=ratio, residual="inner", protect=bare)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "random"), target)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for index, channels in plan.by_index(graph).items():
            for axis in graph.groups[index].norms:
                tensors[axis.parameter][torch.from_numpy(axis.positions[channels].reshape(-1))] = 0.0
    return graph, plan


def errors(model: nn.Module, x: Tensor) -> tuple[float, float, FoldedConstants]:
    """Relative error of the cut network against the whole one, before and after its constants were folded."""
    graph, plan = silenced(model, x[:1])
    small, expected = slimcnn.prune(model, graph, plan), model(x)
    before = float((small(x) - expected).norm() / expected.norm())
    folded = fold_constants(small, model, graph, plan)
    return before, float((small(x) - expected).norm() / expected.norm()), folded


def sequence(padding: int, bias: bool, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        Conv(3, 8, 3, bias=False), Norm(8), nn.SiLU(), Conv(8, 8, 3, padding=padding, bias=bias),
        Norm(8) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    randomize(model)
    return model


@torch.no_grad()
def test_without_padding_it_is_exact_through_norms_and_biases() -> None:
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    for bias, norm in ((False, True), (True, True), (True, False)):
        before, after, folded = errors(sequence(0, bias, norm).double(), x)
        assert before > 1e-3
        assert after < 1e-9
        assert folded == FoldedConstants(exact=("3", "8") if norm else ("3",)), f"bias {bias}, norm {norm}"


@torch.no_grad()
def test_with_zero_padding_only_the_border_differs() -> None:
    model = sequence(1, True, False).double()
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    graph, plan = silenced(model, x)
    small = slimcnn.prune(model, graph, plan)
    assert fold_constants(small, model, graph, plan).inside == ("3",)
    difference = (small[:4](x) - model[:4](x)).abs().amax(dim=(0, 1))
    assert float(difference[1:-1, 1:-1].max()) < 1e-9
    assert float(difference[0].max()) > 1e-3


@torch.no_grad()
def test_networks_come_nearer_to_what_they_were() -> None:
    torch.manual_seed(0)
    for model, size in ((slimcnn.build("vgg11", width=0.25), 32), (slimcnn.build("resnet20"), 32),
                        (torchvision.models.resnet18(), 64)):  # fmt: skip
        model = model.eval()
        randomize(model)
        before, after, folded = errors(model, torch.randn(2, 3, size, size))
        assert folded.inside
        assert after < 0.8 * before


@torch.no_grad()
def test_what_cannot_take_a_constant_is_left_alone_with_the_reason() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda n, x: n.head(n.b(n.norm(n.a(x)).sigmoid() * x.mean(dim=1, keepdim=True)[:, :, 1:-1, 1:-1]).relu()),
        a=Conv(3, 8, 3), norm=Norm(8), b=Conv(8, 6, 1), head=Conv(6, 4, 1, bias=False),
    ).eval()  # fmt: skip
    _, _, bare = errors(sequence(0, False, False), torch.randn(2, 3, 12, 12))
    assert bare.left == {"3": "it has neither a bias nor its own batch norm"}
    graph, plan = silenced(model, torch.randn(1, 3, 8, 8))
    small = slimcnn.prune(model, graph, plan)
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    folded = fold_constants(small, model, graph, plan)
    assert folded.left["b"] == "a removed channel is not constant in its input"
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())


def test_neither_the_model_nor_its_modes_change() -> None:
    model = slimcnn.build("resnet20").train()
    graph, plan = silenced(model, torch.zeros(1, 3, 32, 32))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_constants(slimcnn.prune(model, graph, plan), model, graph, plan)
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
