"""Counts equal torch's own counter and closed formulas, add up over the layers, and leave the network alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimcnn.errors import ModelError
from slimcnn.measuring import file_bytes, measure, state_bytes
from slimcnn.models import build, networks, preprocessing, resolve


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class Functional(nn.Module):
    """One convolution and one linear layer without a layer, both with the weights of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.matrix = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, self.kernel).mean(dim=(2, 3)), self.matrix)


class Dot(nn.Module):
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key)


LAYERS: dict[str, tuple[nn.Module, Any, int]] = {
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 5, 5), 9 * 3 * 8 * 25),
    "strided": (nn.Conv2d(3, 8, 3, stride=2), (2, 3, 5, 5), 9 * 3 * 8 * 4),
    "grouped": (nn.Conv2d(8, 8, 3, padding=1, groups=4), (3, 8, 5, 5), 9 * 2 * 8 * 25),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 5, 5), 9 * 8 * 25),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 5), 4 * 4 * 6 * 25),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (2, 4, 5, 5), 4 * 4 * 3 * 25),
    "one dimension": (nn.Conv1d(3, 8, 3), (2, 3, 10), 3 * 3 * 8 * 8),
    "linear": (nn.Linear(7, 5), (2, 7), 35),
    "linear on positions": (nn.Linear(7, 5), (2, 3, 7), 3 * 35),
    "functional": (Functional(), (2, 3, 5, 5), 9 * 3 * 4 * 9 + 20),
    "attention": (Attention(), (2, 5, 8), 5 * 8 * 32 + 2 * 5 * 5 * 8),
    "batch norm": (nn.BatchNorm2d(3), (2, 3, 5, 5), 0),
}


@pytest.mark.parametrize("case", LAYERS)
def test_macs_equal_the_closed_formula(case: str) -> None:
    model, shape, expected = LAYERS[case]
    found = measure(model, torch.randn(shape))
    assert found.macs == expected
    assert sum(layer.macs for layer in found.layers) == expected
    assert sum(layer.params for layer in found.layers) == found.params


def test_attention_of_several_inputs_counts_both_products() -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8)
    expected = 2 * 4 * 5 * 7 * 8
    assert measure(Dot(), (query, key)).macs == expected
    assert measure(Dot(), [query, key]).macs == expected
    assert measure(Dot(), {"key": key, "query": query}).macs == expected


@pytest.mark.parametrize("name", [entry.name for entry in networks])
def test_networks_agree_with_torchs_counter_and_add_up(name: str) -> None:
    model = build(name).eval()
    x = torch.randn(1, *networks[name].facts["input"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    found = measure(model, x)
    assert 2 * found.macs == counter.get_total_flops()
    assert found.macs == networks[name].facts["macs"]
    assert found.params == networks[name].facts["params"]
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.params for layer in found.layers) == found.params
    convolutions = [layer for layer in found.layers if layer.kind == "Conv2d"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert all(layer.macs > 0 and layer.input and layer.output for layer in convolutions)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_torchvision_prints_the_same_numbers(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    found = measure(torchvision.models.get_model(name), torch.zeros(1, 3, 224, 224))
    assert found.params == published["num_params"]
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=5.1e-4)  # three digits; called GFLOPS, but MACs


def published_networks() -> list[str]:
    """Those of torchvision that are not huge; googlenet's published count leaves its auxiliary heads out."""
    names = torchvision.models.list_models(torchvision.models, exclude="googlenet")
    small = [torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] < 50e6 for name in names]
    return [name for name, fits in zip(names, small, strict=True) if fits]


@pytest.mark.slow
@pytest.mark.parametrize("name", published_networks())
def test_every_torchvision_network_has_its_published_numbers(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = resolve(f"torchvision:{name}")
    image = preprocessing(model).input
    assert image is not None
    found = measure(model, torch.zeros(1, *image))
    assert found.params == published["num_params"]
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=6e-4)


def test_the_batch_makes_no_difference() -> None:
    model = build("resnet8")
    one = measure(model, torch.randn(1, 1, 8, 8))
    assert measure(model, torch.randn(5, 1, 8, 8)) == one
    assert one.layers[0].input == (1, 1, 8, 8)
    assert one.layers[0].output == (1, 16, 8, 8)


def test_a_shared_layer_costs_its_macs_twice_and_its_params_once() -> None:
    linear = nn.Linear(4, 4)
    found = measure(nn.Sequential(linear, nn.ReLU(), linear), torch.randn(2, 4))
    assert (found.params, found.macs, found.bytes) == (20, 32, 80)
    assert [(layer.name, layer.params, layer.macs) for layer in found.layers] == [("0", 20, 32)]


def test_a_shared_and_frozen_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    model[1].weight = model[0].weight.requires_grad_(False)
    found = measure(model, torch.randn(2, 4))
    assert (found.params, found.bytes) == (20, 80)
    assert [layer.params for layer in found.layers] == [16, 4]


def test_bytes_are_those_of_the_file_without_its_header(tmp_path: Path) -> None:
    model = build("resnet8")
    save_file(model.state_dict(), tmp_path / "file.safetensors")
    size = file_bytes(tmp_path / "file.safetensors")
    header = 8 + int.from_bytes((tmp_path / "file.safetensors").read_bytes()[:8], "little")
    assert state_bytes(model) == size - header
    assert state_bytes(model.half()) < 0.52 * (size - header)


def test_what_takes_time_and_counts_nothing_is_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.PReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    found = measure(model, torch.randn(1, 3, 4, 4))
    assert found.not_counted == ("batch_norm", "max_pool2d", "prelu", "relu")


def fingerprint(model: nn.Module) -> Any:
    hooks = [
        {key: len(value) for key, value in vars(module).items() if "hooks" in key and value is not None}
        for module in model.modules()
    ]
    tensors = [(id(tensor), tensor.clone()) for tensor in model.state_dict(keep_vars=True).values()]
    return [module.training for module in model.modules()], hooks, tensors, torch.backends.mha.get_fastpath_enabled()


def assert_untouched(before: Any, model: nn.Module) -> None:
    after = fingerprint(model)
    assert before[:2] == after[:2]
    assert before[3] == after[3]
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(before[2], after[2], strict=True))


class Counting(nn.Module):
    """Counts its calls in one buffer in place and replaces another; breaks when it is told to."""

    calls: Tensor
    last: Tensor

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.breaks = breaks
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x[0, :2].clone()
        if self.breaks:
            raise RuntimeError("on purpose")
        return x


@pytest.mark.parametrize("breaks", [False, True])
def test_the_network_is_untouched_even_if_it_breaks(breaks: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), Counting(breaks), nn.Linear(4, 2))
    model[1].eval()
    before = fingerprint(model)
    if breaks:
        with pytest.raises(ModelError, match=r"layer '3' \(Counting\) fails: on purpose"):
            measure(model, torch.randn(3, 4))
    else:
        assert measure(model, torch.randn(3, 4)).macs == 24
    assert_untouched(before, model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_of_the_user_stay() -> None:
    seen = []
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *_: seen.append(1))
    measure(model, torch.randn(1, 4))
    model(torch.randn(1, 4))
    assert len(seen) == 2


def test_a_copy_measures_the_same() -> None:
    model = build("resnet8", shortcut="B")
    x = torch.randn(1, 1, 8, 8)
    assert measure(copy.deepcopy(model), x) == measure(model, x)


WRONG_EXAMPLES: dict[str, tuple[nn.Module, Any, str]] = {
    "channels": (
        build("resnet20"),
        torch.zeros(2, 1, 32, 32),
        r"1x1x32x32: layer 'conv1' \(Conv2d\) expects \(n, 3, h, w\)",
    ),
    "no batch": (build("resnet20"), torch.zeros(3, 32, 32), r"expects \(n, 3, h, w\) and found \(1, 32, 32\)"),
    "features": (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 2)),
        torch.zeros(2, 3, 3, 3),
        r"'1' \(Linear\) expects \(..., 12\)",
    ),
    "too small": (build("vgg11", width=0.1), torch.zeros(1, 3, 16, 16), r"'features.28' .*fails: .*too small"),
    "dtype": (build("resnet20"), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"'conv1' \(Conv2d\) fails: .*type"),
    "too many": (nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, 2)), r"shape \(1x2, 1x2\): .*positional"),
    "empty": (nn.Linear(2, 2), torch.zeros(0, 2), "at least one sample, found 0x2"),
    "no tensor": (nn.Linear(2, 2), (), r"at least one sample, found \(\)"),
    "scalar": (nn.Linear(2, 2), torch.tensor(1.0), "at least one sample, found scalar"),
    "lazy": (nn.LazyLinear(2), torch.zeros(1, 2), "lazy layers"),
}


@pytest.mark.parametrize("case", WRONG_EXAMPLES)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_wrong_example_is_refused_in_one_line(case: str) -> None:
    model, example, complaint = WRONG_EXAMPLES[case]
    with pytest.raises(ModelError, match=complaint) as refusal:
        measure(model, example)
    assert "\n" not in str(refusal.value)
