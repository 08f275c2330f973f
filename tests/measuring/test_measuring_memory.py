"""Running memory: counted by hand, and by an interpreter that frees what nobody will read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

import slimcnn
from at_hand import Net
from slimcnn.measuring import measure
from slimcnn.measuring.lifetimes import Lifetimes

X = torch.zeros(1, 3, 4, 4)


def conv(read: int = 3, made: int = 8) -> nn.Conv2d:
    return nn.Conv2d(read, made, 3, padding=1)


def cached() -> nn.Module:
    """A network that keeps its last features in a buffer: weights, whatever is written there."""
    net = Net(lambda n, x: n.kept.copy_(n.conv(x)).sum(1), conv=conv())
    net.register_buffer("kept", torch.zeros(1, 8, 4, 4))
    return net


def standardized(n: Net, x: Tensor) -> Tensor:
    weight = n.conv.weight - n.conv.weight.mean(dim=(1, 2, 3), keepdim=True)
    return F.conv2d(x, weight / weight.std(), padding=1)


def preallocated(n: Net, x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 11, 4, 4)
    out[:, :3] = x
    out[:, 3:] = n.conv(x)
    return out


BY_HAND: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # 48 numbers come in, 8 x 16 are made
    "one layer": (conv, 48 + 128),
    "ReLU reads 128 and makes 128": (lambda: nn.Sequential(conv(), nn.ReLU()), 128 + 128),
    "in place, ReLU makes nothing": (lambda: nn.Sequential(conv(), nn.ReLU(inplace=True)), 48 + 128),
    "a view makes nothing": (lambda: nn.Sequential(conv(), nn.Flatten(), nn.Linear(128, 5)), 48 + 128),
    "indices of pooling, which nothing reads": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2)), 48 + 128),
    "the input lives on where it is added": (
        lambda: Net(lambda n, x: x + n.two(n.one(x)), one=conv(), two=conv(8, 3)),
        48 + 128 + 48,
    ),
    "an output lives to the end": (
        lambda: Net(lambda n, x: ((y := n.one(x)), n.two(y).relu()), one=conv(), two=conv(8, 16)),
        128 + 2 * 256,
    ),
    "what is made of weights alone": (lambda: Net(standardized, conv=conv()), 48 + 128),
    "a tensor that is filled part by part": (lambda: Net(preallocated, conv=conv()), 48 + 128 + 176),
    "a buffer that is written to": (cached, 48 + 128),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_peak_memory_is_what_is_counted_by_hand(name: str) -> None:
    build, numbers = BY_HAND[name]
    found = measure(build(), X)
    assert (found.peak_memory, found.peak_memory_int8) == (4 * numbers, numbers)


def test_peak_memory_is_that_of_one_float32_image_whatever_comes_in() -> None:
    net = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU())
    expected = measure(net, X).peak_memory
    assert measure(net, torch.zeros(5, 3, 4, 4)).peak_memory == expected
    assert measure(net.double(), X.double()).peak_memory == expected


def test_whole_numbers_keep_their_bytes_in_int8() -> None:
    net = Net(lambda n, x: n.conv(x).argmax(1) + 1, conv=conv())
    found = measure(net, X)  # 16 positions of 8 bytes beside 128 numbers; later two of them
    assert (found.peak_memory, found.peak_memory_int8) == (4 * (48 + 128), max(48 + 128, 128 + 8 * 16, 2 * 8 * 16))


class Frees(fx.Interpreter):
    """Runs an exported graph node by node, and adds up the memory of what PyTorch holds after each."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.peak, self._activations = 0, set[fx.Node]()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; the interpreter drops what has no reader left afterwards."""
        if n.op == "placeholder" or any(read in self._activations for read in n.all_input_nodes):
            self._activations.add(n)
        made = super().run_node(n)
        held = [value for node, value in [*self.env.items(), (n, made)] if node in self._activations and node.users]
        tensors = [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        self.peak = max(self.peak, sum(storages.values()))
        return made


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", [
    "resnet20", "vgg11", "mobilenet_v2", "shufflenet_v2", "squeezenet1_1",
    pytest.param("torchvision:densenet121", marks=pytest.mark.slow),
    pytest.param("torchvision:googlenet", marks=pytest.mark.slow),
])  # fmt: skip
def test_peak_memory_is_that_of_an_interpreter_that_frees_what_nobody_reads_again(name: str) -> None:
    model = (slimcnn.resolve(name) if ":" in name else slimcnn.build(name)).eval()
    example = torch.zeros(1, 3, 32, 32)
    interpreter = Frees(torch.export.export(model, (example,)).module())
    with torch.no_grad():
        interpreter.run(example)
    assert measure(model, example).peak_memory == interpreter.peak


def test_memory_that_was_freed_is_not_taken_for_that_of_a_new_tensor() -> None:
    x = torch.ones(3)
    lifetimes = Lifetimes(weights=[], inputs=[x])
    for _ in range(100):
        y = x + 1
        lifetimes.note([x], [y])
        del y
        assert lifetimes.known(torch.zeros(3)) is None


def test_constants_made_after_activations_were_freed_lock_nothing() -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(20):
                y = self.a(x)
                del y
                corners = torch.tensor([[0.0, 0.5], [0.25, 1.0]]) * torch.tensor([4.0, 4.0])
            return self.b(self.a(x)) * corners.sum()

    graph = slimcnn.trace(Boxes().eval(), torch.zeros(1, 3, 4, 4))
    assert [lock.layer for lock in graph.locked] == ["b"]  # the output
