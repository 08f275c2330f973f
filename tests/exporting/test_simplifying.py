"""Rewrites before export are exact, and what they are for is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import slimcnn
from at_hand import Net, randomize
from slimcnn.exporting.simplifying import fold_batch_norms, fold_constant_channels, pool_for_slices, simplify
from slimcnn.layers.emptied import EmptyConv2d
from slimcnn.pruning import Plan


def graph_of(model: nn.Module, x: Tensor) -> GraphModule:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    shapes = (shapes,) if isinstance(model, Net) else shapes  # it takes a row of arguments
    found = torch.export.export(model.double().eval(), (x.double(),), dynamic_shapes=shapes).module(check_guards=False)
    assert isinstance(found, GraphModule)
    return found


def calls(graph: GraphModule) -> Counter[str]:
    return Counter(str(node.target).split(".")[1] for node in graph.graph.nodes if node.op == "call_function")


def simplified(model: nn.Module, x: Tensor, rewrite: Callable[[GraphModule], None]) -> Counter[str]:
    """Apply a rewrite in float64, check that it changes nothing, and count what is left."""
    randomize(model)
    graph = graph_of(model, x)
    rewrite(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with torch.no_grad():
        wanted, found = model(x.double()), graph(x.double())
    assert (wanted - found).abs().max() <= 1e-12 * wanted.abs().max()
    return calls(graph)


X = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(1))


def test_a_batch_norm_behind_a_convolution_is_folded() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1),
                        nn.BatchNorm2d(5, affine=False))  # fmt: skip
    assert simplified(net, X, fold_batch_norms) == {"conv2d": 2, "relu": 1}


def test_a_norm_stays_where_others_read_the_convolution_or_its_weight() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.conv(x)
        z = n.two(n.shared(y)) + n.three(n.shared(n.norm(y) + y))
        return n.four(z)

    net = Net(run, conv=nn.Conv2d(4, 6, 1), norm=nn.BatchNorm2d(6), shared=nn.Conv2d(6, 6, 1), two=nn.BatchNorm2d(6),
              three=nn.BatchNorm2d(6), four=nn.BatchNorm2d(6))  # fmt: skip
    assert simplified(net, X, fold_batch_norms)["batch_norm"] == 4


@pytest.mark.parametrize("steps", [(2, 2), (3, 2), (1, 2), (2, 1)])
def test_a_slice_with_a_step_becomes_pooling_with_a_kernel_of_one_pixel(steps: tuple[int, int]) -> None:
    net = Net(lambda n, x: n.conv(x)[:, :, :: steps[0], :: steps[1]] * 2, conv=nn.Conv2d(4, 4, 1))
    assert simplified(net, X, pool_for_slices) == {"conv2d": 1, "max_pool2d": 1, "mul": 1}


def test_other_slices_stay() -> None:
    net = Net(lambda n, x: n.conv(x)[:, 1:3, 1::2] * 2 + x[:, ::2, 1::2, :], conv=nn.Conv2d(4, 4, 1))
    left = simplified(net, X, pool_for_slices)
    assert left["max_pool2d"] == 0
    assert left["slice"] == 4


def test_a_slice_that_others_read_too_stays_right() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.conv(x)[:, :, ::2]
        return y[:, :, :, ::2].sum((2, 3)) + y.sum((2, 3))

    left = simplified(Net(run, conv=nn.Conv2d(4, 4, 1)), X, pool_for_slices)
    assert (left["slice"], left["max_pool2d"]) == (0, 2)


def test_an_emptied_branch_leaves_a_constant_that_is_added() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        return torch.relu(x + n.norm(n.second(torch.relu(n.first(x)))))

    net = Net(
        run, first=EmptyConv2d(4, 1, 3, padding=1), second=EmptyConv2d(1, 4, 3, padding=1), norm=nn.BatchNorm2d(4)
    )
    net.first.weight, net.first.bias, net.first.out_channels = nn.Parameter(torch.zeros(0, 4, 3, 3)), None, 0
    net.second.weight, net.second.in_channels = nn.Parameter(torch.zeros(4, 0, 3, 3)), 0
    assert simplified(net, X, fold_constant_channels) == {"add": 1, "relu": 1}


def test_a_branch_that_adds_zeros_is_gone() -> None:
    net = Net(lambda n, x: n.conv(x) + x.new_zeros(x.shape[0], 4, 9, 8), conv=nn.Conv2d(4, 4, 1))
    assert simplified(net, X, fold_constant_channels) == {"conv2d": 1}


def test_zeros_that_give_a_sum_its_shape_stay() -> None:
    net = Net(
        lambda n, x: n.conv(x).mean((2, 3), keepdim=True) + x.new_ones(x.shape[0], 4, 9, 8), conv=nn.Conv2d(4, 4, 1)
    )
    assert simplified(net, X, fold_constant_channels)["new_ones"] == 1


def test_of_a_resnet_whose_blocks_are_emptied_their_work_is_gone() -> None:
    net = slimcnn.build("resnet20")
    randomize(net)
    graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
    inner = [group for group in graph.groups if group.branch][:4]
    plan = Plan(graph.fingerprint, {group.name: tuple(range(group.channels)) for group in inner})
    small = slimcnn.prune(net, graph, plan)
    emptied = sum(isinstance(module, EmptyConv2d) for module in small.modules())
    assert emptied == 2 * len(inner) == 8
    left = simplified(small, torch.randn(2, 3, 32, 32), simplify)
    assert left["conv2d"] == 19 - emptied
    assert not {"batch_norm", "slice", "new_zeros", "view"} & set(left)
