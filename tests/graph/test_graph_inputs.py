"""What goes into trace() and prune() and what comes out: inputs, outputs, types, layouts, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from traced import half_of_everything, image, law_holds, sizes, traced

import slimcnn
from at_hand import Net
from slimcnn.errors import ModelError
from slimcnn.graph import trace

Conv = nn.Conv2d


def plain() -> nn.Sequential:
    return nn.Sequential(Conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))


# --- inputs and outputs ------------------------------------------------------------------------------------------


def two_inputs(n: Net, left: Tensor, right: Tensor) -> Tensor:
    return n.c(n.a(left) + n.b(right))


@pytest.mark.parametrize("pack", [tuple, list, lambda pair: dict(zip(("left", "right"), pair, strict=True))])
def test_inputs_come_by_position_or_by_name(pack: Callable[..., Any]) -> None:
    net = Net(two_inputs, a=Conv(3, 8, 1), b=Conv(4, 8, 1), c=Conv(8, 5, 1))
    assert sizes(traced(net, pack([image(), image(channels=4)]))) == {"a": 8}


def test_inputs_come_by_position_and_by_name_together() -> None:
    net = Net(two_inputs, a=Conv(3, 8, 1), b=Conv(4, 8, 1), c=Conv(8, 5, 1))
    example = slimcnn.Inputs(image(), right=image(channels=4))
    graph = traced(net, example)
    assert sizes(graph) == {"a": 8}
    assert slimcnn.measure(net, example).macs == graph.macs()


def test_one_input_may_be_a_dict() -> None:
    net = Net(lambda n, batch: n.b(n.a(batch["image"])), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    assert sizes(traced(net, ({"image": image()},))) == {"a": 8}


def test_one_input_may_be_a_list_of_images_of_different_size() -> None:
    def forward(n: Net, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"scores": n.b(n.a(one[None]).mean((2, 3)))} for one in images]

    net = Net(forward, a=Conv(3, 8, 1), b=nn.Linear(8, 5))
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 6, 9)]
    graph = traced(net, images)
    assert sizes(graph) == {"a": 8}
    assert graph.batch == 2
    assert graph.unproven == ()


def test_only_the_part_of_the_answer_that_counts_is_kept() -> None:
    net = Net(
        lambda n, x: {"out": n.b(y := n.a(x)), "features": y, "aux": n.c(y)},
        a=Conv(3, 8, 1), b=Conv(8, 5, 1), c=Conv(8, 4, 1),
    )  # fmt: skip
    assert sizes(trace(net, image())) == {}
    graph = trace(net, image(), output=lambda answer: answer["out"])
    assert sizes(graph) == {"a": 8, "c": 4}
    assert law_holds(net, graph) > 0
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(net, graph, plan)
    assert small(image())["features"].shape[1] == 4
    assert small(image())["out"].shape[1] == 5


def test_an_output_function_that_does_not_fit_says_what_the_network_returns() -> None:
    net = Net(lambda n, x: {"out": n.a(x)}, a=Conv(3, 8, 1))
    with pytest.raises(ModelError, match=r"output= fails on the network's answer, \['out'\]: KeyError: 'logits'"):
        trace(net, image(), output=lambda answer: answer["logits"])


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d, (40,)), (nn.Conv2d, (8, 8)), (nn.Conv3d, (4, 8, 8))])
def test_sound_images_and_volumes_need_no_special_case(layer: Any, shape: tuple[int, ...]) -> None:
    net = Net(lambda n, x: n.b(n.a(x).relu()), a=layer(2, 8, 3, padding=1), b=layer(8, 3, 1))
    graph = traced(net, torch.zeros(1, 2, *shape))
    assert sizes(graph) == {"a": 8}
    small = half_of_everything(net, torch.zeros(1, 2, *shape))
    assert small.a.out_channels == 4


def test_whole_numbers_may_be_inputs() -> None:
    net = Net(
        lambda n, x: n.b(n.a(n.words(x).transpose(1, 2))),
        words=nn.Embedding(10, 3),
        a=nn.Conv1d(3, 8, 1),
        b=nn.Conv1d(8, 5, 1),
    )
    assert sizes(traced(net, torch.zeros(1, 6, dtype=torch.int64))) == {"a": 8}


@dataclass
class Answer:
    logits: Tensor
    more: dict[str, Tensor]
    name: str = "answer"


@pytest.mark.parametrize("pack", [
    lambda p, q: (p, q), lambda p, q: [p, [q]], lambda p, q: {"out": p, "aux": q}, lambda p, q: Answer(p, {"q": q}),
])  # fmt: skip
def test_every_output_is_protected_by_itself(pack: Callable[..., Any]) -> None:
    net = Net(lambda n, x: pack(n.b(y := n.a(x)), n.c(y)), a=Conv(3, 8, 1), b=Conv(8, 5, 1), c=Conv(8, 4, 1))
    graph = trace(net, image())
    assert sizes(graph) == {"a": 8}
    assert {(lock.layer, lock.channels, lock.reason) for lock in graph.locked} == {
        ("b", 5, "the network's output"),
        ("c", 4, "the network's output"),
    }


def test_features_that_are_returned_are_protected_too() -> None:
    net = Net(lambda n, x: (n.b(y := n.a(x)), y), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    assert sizes(trace(net, image())) == {}


# --- types, devices, layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_traced_and_keep_it(dtype: torch.dtype) -> None:
    model = plain().to(dtype)
    small = half_of_everything(model, image().to(dtype))
    assert {tensor.dtype for tensor in small.parameters()} == {dtype}
    assert small(torch.rand(2, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_a_conversion_in_the_code_is_no_obstacle() -> None:
    net = Net(lambda n, x: n.b(n.a(x).float().relu()), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    small = half_of_everything(net)
    assert small.a.out_channels == 4


def test_channels_last_stays_channels_last() -> None:
    model = nn.Sequential(Conv(3, 8, 3), Conv(8, 8, 3), Conv(8, 5, 3)).to(memory_format=torch.channels_last)
    small = half_of_everything(model)
    for conv in small:
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert not conv.weight.is_contiguous()


def test_channels_last_3d_stays_channels_last_3d() -> None:
    model = nn.Sequential(nn.Conv3d(3, 8, 2), nn.Conv3d(8, 5, 2)).to(memory_format=torch.channels_last_3d)
    small = half_of_everything(model, torch.zeros(1, 3, 4, 4, 4))
    assert small[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not small[1].weight.is_contiguous()


def test_what_the_user_set_on_the_network_carries_over() -> None:
    model = nn.Sequential(Conv(3, 8, 1), nn.BatchNorm2d(8), Conv(8, 8, 1), nn.ReLU(), Conv(8, 5, 1))
    seen = []
    model[0].weight.requires_grad_(False)
    model[2].weight.no_decay = True
    model[1].eval()
    model[3].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model.register_buffer("fleeting", torch.rand(3), persistent=False)
    small = half_of_everything(model)
    assert not small[0].weight.requires_grad
    assert small[2].weight.requires_grad
    assert small[2].weight.no_decay
    assert small.training
    assert not small[1].training
    assert "fleeting" not in small.state_dict()
    assert torch.equal(small.fleeting, model.fleeting)
    seen.clear()
    small(torch.rand(2, 3, 8, 8))
    assert seen == [(2, 4, 8, 8)]


def test_tied_weights_stay_tied() -> None:
    first, second = Conv(8, 8, 1, bias=False), Conv(8, 8, 1, bias=False)
    second.weight = first.weight
    small = half_of_everything(nn.Sequential(Conv(3, 8, 1), first, nn.ReLU(), second, Conv(8, 5, 1)))
    assert small[1].weight is small[3].weight
    assert (small[1].out_channels, small[3].out_channels, small[3].in_channels) == (4, 4, 4)


def test_modules_know_their_new_size() -> None:
    model = nn.Sequential(
        Conv(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.PReLU(8),
        Conv(8, 16, 3, groups=8), Conv(16, 12, 1, groups=2),
        nn.ConvTranspose2d(12, 12, 2, groups=12), nn.ConvTranspose2d(12, 6, 1),
        nn.Flatten(), nn.Linear(6 * 49, 10), nn.BatchNorm1d(10), nn.Linear(10, 5),
    )  # fmt: skip
    small = half_of_everything(model)
    convs = [(conv.in_channels, conv.out_channels, conv.groups) for conv in (small[0], *small[3:7])]
    assert convs == [(3, 4, 1), (4, 8, 4), (8, 6, 2), (6, 6, 6), (6, 3, 1)]
    assert (small[1].num_features, small[2].num_parameters, small[9].num_features) == (4, 4, 5)
    assert [(layer.in_features, layer.out_features) for layer in (small[8], small[10])] == [(147, 5), (5, 5)]
    assert "3, 4" in repr(small[0])


# --- bad input ---------------------------------------------------------------------------------------------------


def refusal(model: Any, example: Any) -> str:
    with pytest.raises(ModelError) as caught:
        trace(model, example)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_example_of_the_wrong_shape_says_what_was_given_and_where_it_failed() -> None:
    message = refusal(plain(), image(channels=4))
    assert "does not accept an input of shape (1, 4, 8, 8)" in message
    assert "in 0" in message
    assert "in 4" in refusal(plain(), image(size=9))


@pytest.mark.parametrize("example", [torch.zeros(8), torch.tensor(1.0), torch.zeros(0, 3, 8, 8), "image", None, (), {}])
def test_an_example_that_is_no_batch_is_refused(example: Any) -> None:
    assert "must be a batch of inputs like (1, 3, 32, 32)" in refusal(plain(), example)


def test_one_image_without_a_batch_is_refused() -> None:
    assert "the example's first axis must be the batch" in refusal(
        nn.Sequential(Conv(3, 8, 1), Conv(8, 5, 1)), torch.zeros(3, 8, 8)
    )


def test_a_network_that_accepts_one_batch_size_only_is_traced_at_that_size_and_that_is_said() -> None:
    net = Net(lambda n, x: n.b(n.a(x).view(1, -1, 64).mean(2)), a=Conv(3, 8, 1), b=nn.Linear(8, 5))
    graph = trace(net, image())
    assert sizes(graph) == {"a": 8}
    assert graph.macs() == slimcnn.measure(net, image()).macs
    assert graph.unproven[0].startswith("other batch sizes than 1: the network does not accept 2")
    assert law_holds(net, graph) > 0


@pytest.mark.parametrize(
    "forget", [lambda y: y.sum(), lambda y: y.sum(0), lambda y: y.flatten(), lambda y: y.view(-1, 1)]
)
def test_an_output_whose_first_axis_is_not_the_batch_is_traced_and_that_is_said(
    forget: Callable[[Tensor], Tensor],
) -> None:
    """Heads of CTC and detection, scalar losses."""
    net = Net(lambda n, x: forget(n.b(n.a(x))), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    graph = trace(net, image())
    assert set(sizes(graph)) - {"b"} == {"a"}
    assert graph.unproven[0].startswith("that every sample is computed alone")
    assert law_holds(net, graph) > 0


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    net = Net(lambda n, x: n.a(x), a=Conv(3, 8, 1), lock=threading.Lock())
    assert "cannot be copied" in refusal(net, image())


def test_a_lazy_network_is_refused() -> None:
    assert "has no weights yet" in refusal(nn.Sequential(nn.LazyConv2d(8, 1)), image())


def test_a_network_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = plain()
    assert "meta device" in refusal(model, image())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_scripted_network_is_refused() -> None:
    assert "scripted" in refusal(torch.jit.script(nn.Sequential(Conv(3, 8, 1))), image())


def test_a_compiled_network_is_refused() -> None:
    assert "compiled" in refusal(torch.compile(nn.Sequential(Conv(3, 8, 1))), image())


def test_a_function_is_refused() -> None:
    assert "must be an nn.Module; found function" in refusal(lambda x: x, image())


@pytest.mark.parametrize("result", [lambda y: None, lambda y: "text", lambda y: object(), lambda y: 3.0])
def test_an_output_without_tensors_is_refused(result: Callable[[Tensor], Any]) -> None:
    assert "the network returns" in refusal(Net(lambda n, x: result(n.a(x)), a=Conv(3, 8, 1)), image())


def test_a_network_without_parameters_has_an_empty_graph() -> None:
    graph = trace(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), image())
    assert (graph.groups, graph.locked, graph.macs(), graph.params()) == ((), (), 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_is_traced_on_the_cpu_and_stays_on_the_gpu() -> None:
    model = plain().cuda().to(memory_format=torch.channels_last)
    small = half_of_everything(model, image().cuda())
    assert {tensor.device.type for tensor in small.state_dict().values()} == {"cuda"}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    assert small(torch.rand(2, 3, 8, 8).cuda()).device.type == "cuda"
