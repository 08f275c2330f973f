"""Compact networks are those of their papers, to the last parameter, in both forms and at odd sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimcnn
from at_hand import randomize
from slimcnn.checkpoints import load, save
from slimcnn.errors import ModelError
from slimcnn.layers.shifts import GroupedShift
from slimcnn.models import build, networks, preprocessing
from slimcnn.models.building import takes
from slimcnn.models.published import PUBLISHED, SURVEYED

COMPACT = [entry.name for entry in networks if "family" in entry.facts]
TWO_FORMS = [name for name in COMPACT if takes(name, "image_size")]

# (network, arguments, parameters, millions of MACs), counted from the papers' tables by another program
ROWS: list[tuple[str, dict[str, Any], int, float]] = [
    ("squeezenet1_0", {}, 1_248_424, 818.9),
    ("squeezenet1_1", {}, 1_235_496, 349.2),
    ("mobilenet_v1", {}, 4_231_976, 568.7),
    ("mobilenet_v1", {"width": 0.75}, 2_585_560, 325.4),
    ("mobilenet_v1", {"width": 0.5}, 1_331_592, 149.5),
    ("mobilenet_v1", {"width": 0.25}, 470_072, 41.0),
    ("mobilenet_v2", {}, 3_504_872, 300.8),
    ("mobilenet_v2", {"width": 0.75}, 2_636_424, 209.1),
    ("mobilenet_v2", {"width": 0.5}, 1_968_680, 97.1),
    ("mobilenet_v2", {"width": 1.4}, 6_108_776, 582.2),
    ("shufflenet_v1", {"width": 0.5}, 717_324, 37.6),
    ("shufflenet_v1", {}, 1_864_728, 137.5),
    ("shufflenet_v1", {"width": 1.5}, 3_441_168, 292.4),
    ("shufflenet_v1", {"width": 2}, 5_449_776, 524.0),
    ("shufflenet_v2", {"width": 0.5}, 1_366_792, 40.5),
    ("shufflenet_v2", {}, 2_278_604, 144.9),
    ("shufflenet_v2", {"width": 1.5}, 3_503_624, 295.8),
    ("shufflenet_v2", {"width": 2}, 7_393_996, 583.3),
    ("xception", {}, 22_855_952, 8357.4),
    ("igcv3", {}, 3_491_688, 313.0),
    ("shiftnet_a", {}, 4_187_720, 1424.3),
    ("shiftnet_b", {}, 1_183_000, 371.0),
    ("as_resnet_w32", {}, 901_256, 166.8),
    ("as_resnet_w50", {}, 1_962_950, 397.6),
    ("as_resnet_w68", {}, 3_424_460, 726.9),
    ("fe_net", {}, 4_229_648, 307.2),
    ("fe_net", {"head": 1500}, 3_686_192, 301.3),
    ("fe_net", {"width": 1.375}, 6_002_486, 563.7),
    *(("shift_resnet20", {"expansion": e}, p, m) for e, p, m in (
        (1, 34_906, 5.9), (3, 95_642, 16.4), (6, 186_746, 32.2), (9, 277_850, 47.9))),
    *(("shift_resnet56", {"expansion": e}, p, m) for e, p, m in (
        (1, 102_106, 15.4), (3, 294_554, 44.7), (6, 583_226, 88.8), (9, 871_898, 132.8))),
    *(("shift_resnet110", {"expansion": e}, p, m) for e, p, m in (
        (1, 202_906, 29.5), (3, 592_922, 87.2), (6, 1_177_946, 173.7), (9, 1_762_970, 260.2))),
    *(("as_net", {"expansion": e}, p, m) for e, p, m in (
        (1, 35_386, 5.9), (3, 97_466, 16.4), (6, 190_586, 32.2), (9, 283_706, 47.9))),
    ("as_net", {"expansion": 1, "width": 46 / 16}, 275_596, 46.8),
    ("as_net", {"expansion": 1, "width": 88 / 16}, 992_914, 169.0),
    # chenyaofo's for CIFAR-10, printed with fewer digits
    ("mobilenet_v2", {"image_size": 32, "num_classes": 10}, 2_236_682, 88.0),
    ("mobilenet_v2", {"image_size": 32, "num_classes": 10, "width": 0.5}, 700_490, 28.0),
    ("shufflenet_v2", {"image_size": 32, "num_classes": 10}, 1_263_854, 45.0),
    ("shufflenet_v2", {"image_size": 32, "num_classes": 10, "width": 0.5}, 352_042, 10.9),
]  # fmt: skip


def counted(model: nn.Module, *shape: int) -> tuple[int, float]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() / 2e6


@pytest.mark.parametrize(("name", "arguments", "params", "macs"), ROWS, ids=lambda value: str(value))
def test_parameters_are_exact_and_macs_to_a_tenth_of_a_million(
    name: str, arguments: dict[str, Any], params: int, macs: float
) -> None:
    model = build(name, **arguments)
    shape = preprocessing(model).input
    assert shape is not None
    found, millions = counted(model, *shape)
    assert found == params
    assert millions == pytest.approx(macs, abs=0.06)


def test_every_published_row_is_one_of_these_and_near_what_is_printed() -> None:
    known = {(name, tuple(arguments.items())): (params, macs) for name, arguments, params, macs in ROWS}
    units = {"M": 1.0, "G": 1000.0}
    for row in PUBLISHED:
        params, macs = known[row.network, tuple(row.arguments.items())]
        if "6.9" not in row.note:  # MobileNet v2 x1.4, where the paper contradicts its own table
            assert params / 1e6 == pytest.approx(float(row.params.split()[0]), rel=0.08)
        if row.macs:
            number, unit = row.macs.split()
            assert macs == pytest.approx(float(number) * units[unit], rel=0.03)
    assert set(SURVEYED) <= {row.network for row in PUBLISHED}


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2"])
def test_it_is_torchvisions_network(name: str) -> None:
    theirs_name = {"shufflenet_v2": "shufflenet_v2_x1_0"}.get(name, name)
    theirs = slimcnn.models.resolve(f"torchvision:{theirs_name}").eval()
    ours = build(name).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", TWO_FORMS)
def test_the_form_for_small_images_keeps_their_size_longer(name: str) -> None:
    sizes = {}
    for image_size in (32, 224):
        model = build(name, num_classes=10, image_size=image_size, **({"width": 0.5} if takes(name, "width") else {}))
        seen = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, __, made, seen=seen: seen.append(made.shape[-1]))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, 64, 64))
        sizes[image_size] = seen
    assert sizes[32][0] == 64 > sizes[224][0]
    assert sizes[32][-1] >= 2 * sizes[224][-1]


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("size", [(33, 33), (35, 48)])
def test_odd_sizes_go_through(name: str, size: tuple[int, int]) -> None:
    for image_size in (32, 224) if takes(name, "image_size") else (None,):
        arguments = {} if image_size is None else {"image_size": image_size}
        if takes(name, "width"):
            arguments["width"] = 0.5  # type: ignore[assignment]
        with torch.no_grad():
            logits = build(name, num_classes=4, **arguments).eval()(torch.randn(2, 3, *size))
        assert logits.shape == (2, 4)
        assert torch.isfinite(logits).all()


LEAST = {
    ("squeezenet1_0", 32): 4, ("squeezenet1_1", 32): 4, ("squeezenet1_0", 224): 21, ("squeezenet1_1", 224): 17,
    ("xception", 224): 7,
}  # fmt: skip
"""The smallest image of networks without padding; others accept a single pixel."""


@pytest.mark.parametrize("image_size", [32, 224])
@pytest.mark.parametrize("name", TWO_FORMS)
def test_the_smallest_image_goes_through_and_a_smaller_one_is_refused(name: str, image_size: int) -> None:
    narrow = {"width": 0.5} if takes(name, "width") else {}
    model = build(name, num_classes=4, image_size=image_size, **narrow).eval()
    least = LEAST.get((name, image_size), 1)
    with torch.no_grad():
        assert model(torch.randn(1, 3, least, least)).shape == (1, 4)
        if least > 1:
            complaint = f"at least {least} x {least} pixels, found {least + 2} x {least - 1}: use larger images"
            with pytest.raises(ModelError, match=complaint):
                model(torch.randn(1, 3, least + 2, least - 1))


@pytest.mark.parametrize("name", TWO_FORMS)
def test_an_impossible_image_size_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="image_size=0 is invalid"):
        build(name, image_size=0)


@pytest.mark.parametrize("name", ["shiftnet_b", "shift_resnet20"])
def test_the_two_orders_of_shifts_are_one_network_with_hidden_channels_renamed(name: str) -> None:
    small = {"image_size": 32} if takes(name, "image_size") else {}
    blocks, interleaved = (build(name, num_classes=5, order=order, **small) for order in ("blocks", "interleaved"))
    randomize(blocks)
    state = blocks.state_dict()
    for layer, module in blocks.named_modules():
        if isinstance(module, GroupedShift):
            other = interleaved.get_submodule(layer)
            places = list(zip(module.dy.tolist(), module.dx.tolist(), strict=True))
            order = torch.empty(len(places), dtype=torch.long)
            for c, place in enumerate(zip(other.dy.tolist(), other.dx.tolist(), strict=True)):  # type: ignore[operator, union-attr]
                order[c] = places.index(place)
                places[int(order[c])] = None  # type: ignore[call-overload]
            _rename_hidden(state, layer, order)
    interleaved.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(blocks.eval()(x), interleaved.eval()(x), atol=1e-4)


def _rename_hidden(state: dict[str, torch.Tensor], shift: str, order: torch.Tensor) -> None:
    home, _, leaf = shift.rpartition(".")
    if leaf == "shift":  # CSC: conv1, shift, bn2, conv2
        made, norm, read = f"{home}.conv1.weight", f"{home}.bn2", f"{home}.conv2.weight"
    else:  # ShiftResNet: 0 conv, 1 norm, 2 ReLU, 3 shift, 4 conv
        made, norm, read = f"{home}.0.weight", f"{home}.1", f"{home}.4.weight"
    state[made] = state[made][order]
    state[read] = state[read][:, order]
    for name in ("weight", "bias", "running_mean", "running_var"):
        state[f"{norm}.{name}"] = state[f"{norm}.{name}"][order]
    for name in ("dy", "dx"):
        state[f"{shift}.{name}"] = state[f"{shift}.{name}"][order]


SLOW_TO_EXPORT = ["as_net", "shiftnet_b", "fe_net", "address_net20", "igcv3"]


@pytest.mark.parametrize(
    "name",
    ["shift_resnet20", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_TO_EXPORT)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_pruned_it_saves_loads_and_exports(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    arguments = {"image_size": 32} if takes(name, "image_size") else {}
    net = build(name, num_classes=10, width=0.5, **arguments)
    randomize(net)
    x = torch.randn(2, 3, 32, 32)
    graph = slimcnn.trace(net, x[:1])
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.4))
    small = slimcnn.prune(net, graph, plan).eval()
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors")
    with torch.no_grad():
        wanted = small(x)
        assert torch.equal(again.eval()(x), wanted)
    from slimcnn.exporting import transfer

    made = transfer(again, x, "onnxruntime")(x)
    assert torch.allclose(made, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_the_size_of_the_data_decides_the_form(tmp_path: Path) -> None:
    from slimcnn.datasets import load_dataset
    from slimcnn.running.loading import load_network
    from slimcnn.running.settings import Network

    model, _ = load_network(Network(model="mobilenet_v2", arguments={"width": 0.5}), load_dataset("digits"))
    arguments = model.architecture["arguments"]  # type: ignore[index, union-attr, call-overload]
    assert (arguments["image_size"], arguments["in_channels"], arguments["num_classes"]) == (8, 1, 10)
    assert preprocessing(model).input == (1, 8, 8)
