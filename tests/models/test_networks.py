"""Every registered network is the one of its paper, says where it is from, and can be built again from its label."""

import copy
import json
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimcnn.errors import ModelError, UnknownName
from slimcnn.models import build, networks
from slimcnn.models.building import takes

NAMES = [entry.name for entry in networks]

RESNETS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
VGG_CONVOLUTIONS = {  # (channels, side of the image), from the paper's table with 32x32 input
    "vgg11": [(64, 32), (128, 16), (256, 8), (256, 8), (512, 4), (512, 4), (512, 2), (512, 2)],
    "vgg13": [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 2 + [(512, 4)] * 2 + [(512, 2)] * 2,
    "vgg16": [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 3 + [(512, 4)] * 3 + [(512, 2)] * 3,
    "vgg19": [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 4 + [(512, 4)] * 4 + [(512, 2)] * 4,
}


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, *shape: int) -> int:
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_registry(name: str) -> None:
    facts = networks[name].facts
    model = build(name)
    assert params(model) == facts["params"]
    assert macs(model, *facts["input"]) == facts["macs"]


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_channels_are_what_was_asked(name: str) -> None:
    channels, *size = networks[name].facts["input"]
    small = {"image_size": 32} if takes(name, "image_size") else {}
    size = [32, 32] if small else size
    model = build(name, num_classes=7, in_channels=channels + 1, **small).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, channels + 1, *size))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert logits.std() > 1e-3  # random weights tell images and classes apart


@pytest.mark.parametrize("name", NAMES)
def test_the_label_builds_the_same_network_again(name: str) -> None:
    half = {"width": 0.5} if takes(name, "width") else {}
    model = build(name, num_classes=3, **half)
    label: dict[str, Any] = copy.deepcopy(model).architecture  # type: ignore[assignment]
    assert label["model"] == name
    label = json.loads(json.dumps(label))
    again = build(label["model"], **label["arguments"])
    assert shapes(again) == shapes(model)
    assert again.architecture == model.architecture
    assert not half or params(model) < params(build(name, num_classes=3)) / 1.9


@pytest.mark.parametrize("name", NAMES)
def test_docstring_and_source_name_the_paper(name: str) -> None:
    entry = networks[name]
    assert re.search(r"\(.*[A-Z]\w+.* 20\d\d", entry.summary)
    assert "arXiv" in entry.source


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"classes": 10}, r"has no argument 'classes'; it takes num_classes, in_channels"),
        ({"num_classes": 0}, r"num_classes=0 is invalid"),
        ({"num_classes": 2.5}, r"num_classes=2.5 is invalid"),
        ({"in_channels": True}, r"in_channels=True is invalid"),
        ({"width": math.nan}, r"width=nan is invalid"),
        ({"width": -1}, r"width=-1 is invalid"),
        ({"width": "wide"}, r"width='wide' is invalid"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(name: str, arguments: dict[str, Any], complaint: str) -> None:
    if "width" in arguments and not takes(name, "width"):
        complaint = "has no argument 'width'"
    with pytest.raises(ModelError, match=complaint) as refusal:
        build(name, **arguments)
    assert "\n" not in str(refusal.value)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet56'"):
        build("resnet65")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("resnet20", {"shortcut": "A"}, 269_722),
        ("resnet32", {"shortcut": "A"}, 464_154),
        ("resnet44", {"shortcut": "A"}, 658_586),
        ("resnet56", {"shortcut": "A"}, 853_018),
        ("resnet110", {"shortcut": "A"}, 1_727_962),
        ("resnet20", {"shortcut": "B"}, 272_474),
        ("resnet164", {"shortcut": "B"}, 1_704_154),
        ("vgg16", {"head": "4096-4096-10"}, 33_642_442),
    ],
)
def test_published_parameters(name: str, arguments: dict[str, Any], expected: int) -> None:
    assert params(build(name, **arguments)) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "millions"),
    [
        ("resnet20", {"shortcut": "B"}, 40.813),
        ("resnet56", {"shortcut": "A"}, 125.486),
        ("resnet56", {"shortcut": "B"}, 125.748),
        ("resnet110", {"shortcut": "A"}, 252.888),
        ("vgg16", {"head": "10"}, 313.202),
        ("vgg16", {"head": "4096-4096-10"}, 332.112),
    ],
)
def test_published_macs(name: str, arguments: dict[str, Any], millions: float) -> None:
    assert macs(build(name, **arguments), 3, 32, 32) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_macs_follow_the_papers_formula(name: str) -> None:
    n = (RESNETS[name] - 2) // 6
    stages = [(16, 16, 32), (16, 32, 16), (32, 64, 8)]  # channels before, channels, side of the image
    convolutions = sum(9 * side**2 * (before * c + (2 * n - 1) * c * c) for before, c, side in stages)
    assert networks[name].facts["macs"] == 9 * 3 * 16 * 32**2 + convolutions + 64 * 10


@pytest.mark.parametrize("name", VGG_CONVOLUTIONS)
def test_vgg_macs_follow_the_papers_table(name: str) -> None:
    before, total = 3, 512 * 10
    for channels, side in VGG_CONVOLUTIONS[name]:
        total += 9 * before * channels * side**2
        before = channels
    assert networks[name].facts["macs"] == total


def test_resnet_tensors_have_the_names_of_the_published_weights() -> None:
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{leaf}" for leaf in batch_norm)}
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3)):
        expected |= {f"{block}.conv{i}.weight" for i in (1, 2)}
        expected |= {f"{block}.bn{i}.{leaf}" for i in (1, 2) for leaf in batch_norm}
    assert set(build("resnet20").state_dict()) == expected


def test_option_a_subsamples_and_pads_as_the_published_code_does() -> None:
    block = build("resnet20").get_submodule("layer2.0")
    x = torch.randn(2, 16, 32, 32)
    assert torch.equal(block.get_submodule("shortcut")(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4)))


def test_option_b_adds_a_projection_only_where_the_shape_changes() -> None:
    names = build("resnet56", shortcut="B").state_dict()
    assert [name for name in names if "shortcut.0" in name] == [
        "layer2.0.shortcut.0.weight",
        "layer3.0.shortcut.0.weight",
    ]


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ModelError, match=r"choose 'A' .* or 'B'"):
        build("resnet20", shortcut="C")


@pytest.mark.parametrize(("head", "linears"), [("10", 1), ("512-10", 2), ("4096-4096-10", 3), ("64-100", 2)])
def test_vgg_heads_end_in_the_classes(head: str, linears: int) -> None:
    model = build("vgg11", head=head, num_classes=100, width=0.125)
    found = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert len(found) == linears
    assert found[:-1] == [int(width) for width in head.split("-")[:-1]]
    assert found[-1] == 100


@pytest.mark.parametrize("head", ["", "512", "a-10", "-10", "10-", "0-10", "512-512"])
def test_vgg_heads_that_do_not_end_in_the_classes_are_refused(head: str) -> None:
    with pytest.raises(ModelError, match=r"as in '10', '512-10' or '4096-4096-10'"):
        build("vgg11", head=head)


def test_vgg_bias_adds_one_number_per_channel() -> None:
    assert params(build("vgg16", bias=True)) - params(build("vgg16")) == 4224


def test_weights_start_as_he_et_al_say() -> None:
    model = build("resnet20")
    weight = model.layer3[1].conv1.weight  # type: ignore[index, union-attr]
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert not model.linear.bias.any()  # type: ignore[union-attr, operator]
