"""Networks on which `trace` was once wrong: now every cut is exact, or the channels are locked with the reason."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimcnn
from slimcnn.graph import ChannelGraph

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Code(nn.Module):
    """Modules, and a function of them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.code = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def exact(model: nn.Module, x: Tensor = X, ratio: float = 0.5) -> ChannelGraph:
    """Prune half of everything that is free; `prune` proves the cut."""
    torch.manual_seed(0)
    graph = slimcnn.trace(model, x)
    if graph.groups:
        plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l1"), slimcnn.Target(pruning_ratio=ratio))
        slimcnn.prune(model, graph, plan)
    return graph


def free(graph: ChannelGraph) -> set[str]:
    return {group.name for group in graph.groups}


def reason(graph: ChannelGraph, layer: str) -> str:
    return next(lock.reason for lock in graph.locked if lock.layer == layer)


def test_a_hard_coded_expansion_of_one_channel_is_noticed() -> None:
    model = Code(
        lambda n, x: n.c(n.a(x) * n.gate(x).sigmoid().expand(-1, 16, -1, -1)),
        a=nn.Conv2d(3, 16, 1),
        gate=nn.Conv2d(3, 1, 1),
        c=nn.Conv2d(16, 2, 1),
    )
    assert "a" not in free(exact(model))


def test_a_hard_coded_expansion_of_the_input_is_noticed() -> None:
    model = Code(
        lambda n, x: n.c(n.a(x) + x[:, :1].expand(-1, 16, -1, -1)), a=nn.Conv2d(3, 16, 1), c=nn.Conv2d(16, 2, 1)
    )
    assert "a" not in free(exact(model))


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "parameter": lambda y: nn.Parameter(y, requires_grad=False),
    "numpy": lambda y: torch.from_numpy(y.numpy()),
    "list": lambda y: torch.tensor(y.tolist()),
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
    "dlpack": lambda y: torch.from_dlpack(y),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_that_no_operation_made_keeps_the_output(way: str) -> None:
    model = Code(lambda n, x: COPIES[way](n.a(x)), a=nn.Conv2d(3, 8, 1))
    graph = exact(model)
    assert not graph.groups
    assert "left PyTorch" in reason(graph, "a") or "is_pinned" in reason(graph, "a")  # asked by dlpack


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_that_no_operation_made_keeps_what_reads_it(way: str) -> None:
    model = Code(lambda n, x: n.b(COPIES[way](n.a(x)).relu()), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    assert not exact(model).groups


def test_a_weight_that_is_scaled_by_its_own_shape_stays() -> None:
    """Equalized learning rate: w / sqrt(fan in)."""
    model = Code(
        lambda n, x: F.conv2d(n.a(x), n.b.weight * (2 / n.b.weight[0].numel()) ** 0.5),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 2, 1),
    )
    assert "a" not in free(exact(model))


def test_inference_mode_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    outside = slimcnn.trace(model, X)
    with torch.inference_mode():
        inside = slimcnn.trace(model, X.clone())
        plan = slimcnn.allocate(inside, slimcnn.score(model, inside, "l1"), slimcnn.Target(macs=0.5))
        small = slimcnn.prune(model, inside, plan)
    assert inside.fingerprint == outside.fingerprint
    assert inside.macs() == outside.macs() > 0
    small(X).sum().backward()  # its parameters can be trained


def tokens_as_image(n: Any, x: Tensor) -> Tensor:
    """Position attention of segmentation_models_pytorch: (B, h w, C) read as (B, C, h, w)."""
    y = n.a(x)
    batch, channels, height, width = y.shape
    return n.b(y.flatten(2).transpose(1, 2).reshape(batch, channels, height, width))  # type: ignore[no-any-return]


def test_positions_that_depend_on_the_size_lock() -> None:
    """At 1 x 1 the tokens are the channels; at any other size they are not."""
    model = Code(tokens_as_image, a=nn.Conv2d(3, 8, 2, stride=2), b=nn.Conv2d(8, 2, 1))
    graph = exact(model, torch.rand(1, 3, 2, 2))
    assert not graph.groups


def test_flattening_one_averaged_pixel_needs_no_second_size_and_flattening_tokens_does() -> None:
    def counted(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        assert y.shape[1]  # the code asks for a size, so that it is not known to be blind to it
        return n.head(y.mean((2, 3), keepdim=True).flatten(1))  # type: ignore[no-any-return]

    model = Code(counted, a=nn.Conv2d(3, 8, 1), head=nn.Linear(8, 2))
    assert exact(model).other_example is None
    tokens = Code(tokens_as_image, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    assert exact(tokens).other_example is not None


def test_a_network_that_takes_one_size_only_is_traced_at_that_size() -> None:
    model = Code(lambda n, x: n.head(n.a(x).view(x.shape[0], -1)), a=nn.Conv2d(3, 8, 1), head=nn.Linear(8 * 64, 2))
    graph = exact(model)
    assert free(graph) == {"a"}
    assert graph.other_example is None


def test_a_cut_is_proven_at_two_sizes_where_the_code_reshapes() -> None:
    model = Code(
        lambda n, x: n.b(n.a(x).flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, x.shape[2:])),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 2, 1),
    )
    graph = exact(model)
    assert free(graph) == {"a"}
    assert graph.other_example.shape == (1, 3, 16, 16)


def test_a_branch_that_no_run_takes_is_reported_and_its_alternative_stays() -> None:
    model = Code(
        lambda n, x: n.c(n.b(n.a(x)) if n.plain else n.other(n.a(x))),
        a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1), other=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    model.plain = True  # type: ignore[assignment]
    graph = exact(model)
    assert reason(graph, "other") == "no run reached this weight; it keeps its shape"
    assert "other.weight, which no run reached, could replace this layer" in reason(graph, "b")
    assert not free(graph)
    model.plain = False  # type: ignore[assignment]
    assert model(X).shape == (1, 2, 8, 8)


def test_a_head_that_no_run_reaches_locks_nothing_else() -> None:
    model = Code(lambda n, x: n.b(n.a(x)), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1), spare=nn.Linear(8, 5))
    graph = exact(model)
    assert free(graph) == {"a"}
    assert reason(graph, "spare").startswith("no run reached")


def test_control_flow_operators_are_named() -> None:
    model = Code(
        lambda n, x: torch.cond(x.sum() > 0, lambda t: t.relu(), lambda t: -t, (n.a(x),)), a=nn.Conv2d(3, 8, 1)
    )
    with pytest.raises(slimcnn.SlimcnnError, match=r"torch\.cond .* cannot be traced; write a Python if"):
        slimcnn.trace(model, X)


@pytest.mark.parametrize(
    "nothing",
    [
        lambda y: y.flatten()[:0].sum(),
        lambda y: y.flatten()[y.flatten() > 1e9].sum(),
        lambda y: y[:0].relu().sum(),
        lambda y: y.permute(0, 2, 3, 1).reshape(-1, 8)[:0].relu().sum(),
    ],
    ids=["slice", "mask", "batch", "rows"],
)
def test_empty_tensors_as_of_a_detector_that_finds_nothing_are_traced(nothing: Callable[[Tensor], Tensor]) -> None:
    def code(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.b(y) + nothing(y)  # type: ignore[no-any-return]

    model = Code(code, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 4, 1)).eval()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 4, 4))
    assert graph.peak_memory() > 0
