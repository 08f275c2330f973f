"""Feature reuse: the right counts, the right function, every convolution accounted for, and an ordinary network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import slimcnn
from at_hand import Net, randomize
from slimcnn.errors import CheckpointError, ModelError, UnknownName
from slimcnn.layers.reusing import FeatureReuse, ReusingBlock, units_in
from slimcnn.pruning import verify
from slimcnn.rewriting import feature_reuse, rewritten

Conv = nn.Conv2d
SMALL, LARGE = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64)
VARIANTS = ["pair", "chain", "half", "dense"]


def resnet50_for_32_pixels() -> nn.Module:
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1, model.maxpool = Conv(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def stage(read: int, width: int, n: int, activation: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k in range(n):
        layers += [Conv(width if k else read, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), activation()]
    return layers


def plain(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A user's own: a pair, a stage that doubles, one convolution alone."""
    return nn.Sequential(
        *stage(3, 8, 2, activation), nn.MaxPool2d(2), *stage(8, 16, 3, activation), *stage(16, 24, 1, activation),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "plain": (plain, SMALL),
    "vgg16": (lambda: slimcnn.build("vgg16", width=0.25), SMALL),
    "resnet20": (lambda: slimcnn.build("resnet20"), SMALL),
    "resnet164": (lambda: slimcnn.build("resnet164", width=0.5), SMALL),
    "vgg11_bn": (torchvision.models.vgg11_bn, LARGE),
    "vgg13 without norms": (torchvision.models.vgg13, LARGE),
    "resnet18": (torchvision.models.resnet18, LARGE),
    "resnet50": (torchvision.models.resnet50, LARGE),
}


PAIRS = [
    (kind, variant) if (number + place) % len(VARIANTS) == 0 else pytest.param(kind, variant, marks=pytest.mark.slow)
    for number, kind in enumerate(NETWORKS)
    for place, variant in enumerate(VARIANTS)
]
"""Every network with one variant often, every variant with two networks; the others are slow."""


def prepared(kind: str, rewrite: str = "feature_reuse") -> tuple[nn.Module, nn.Module, Tensor]:
    """A network, rewritten, with numbers that hide nothing, and images."""
    make, example = NETWORKS[kind]
    torch.manual_seed(0)
    model = make().eval()
    small = slimcnn.replace(model, rewrite, example)
    randomize(small)
    return model, small, torch.randn(2, *example.shape[1:])


# --- counts -----------------------------------------------------------------------------------------------------------


def conv_params(read: int, made: int, kernel: int = 3) -> int:
    return read * made * kernel**2 + 2 * made


def test_vgg16_has_the_closed_formula_of_parameters() -> None:
    convolutions, read = 0, 3
    for width, n in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        h, pairs = width // 2, n // 2
        if read == h:  # one unit: n convolutions of h
            convolutions += conv_params(read, h) + (n - 1) * conv_params(h, h)
        else:
            alone = conv_params(read, width) if n % 2 else 0
            first = width if n % 2 else read
            convolutions += alone + pairs * conv_params(h, h) + conv_params(first, h)
            convolutions += (pairs - 1) * conv_params(width, h)
        read = width
    head = 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 10 + 10
    model = slimcnn.build("vgg16", head="4096-4096-10")
    assert slimcnn.measure(model, SMALL).params == 33_642_442
    found = slimcnn.measure(slimcnn.replace(model, feature_reuse()), SMALL)
    assert found.params == convolutions + head == 25_352_682
    assert found.macs / 332_111_872 == pytest.approx(0.3651, abs=5e-5)


def test_resnet20_has_the_closed_formula_of_parameters() -> None:
    whole = slimcnn.measure(slimcnn.build("resnet20"), SMALL).params
    saved = 0
    for width, blocks in ((16, 3), (32, 2), (64, 2)):  # the first blocks of the second and third stage are kept
        h = width // 2
        saved += blocks * (2 * conv_params(width, width) - conv_params(width, h) - conv_params(h, h))
    assert whole == 269_722
    assert slimcnn.measure(slimcnn.replace(slimcnn.build("resnet20"), feature_reuse()), SMALL).params == whole - saved
    assert whole - saved == 145_402


def test_resnet50_has_the_closed_formula_of_parameters() -> None:
    model = resnet50_for_32_pixels()
    saved, read = 0, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            h = width // 2
            saved += (
                conv_params(read, width, 1) - conv_params(read, h, 1) + conv_params(width, width) - conv_params(h, h)
            )
            read = 4 * width
    assert slimcnn.measure(model, SMALL).params == 23_520_842
    assert (
        slimcnn.measure(slimcnn.replace(model, feature_reuse(), SMALL), SMALL).params
        == 23_520_842 - saved
        == 12_860_618
    )


@pytest.mark.parametrize(
    ("network", "rewrite", "params", "macs"),
    [
        ("vgg16", "chain", 70.10, 34.38), ("vgg16", "half", 78.13, 53.11), ("vgg16", "dense", 65.04, 22.24),
        ("resnet20", "pair,transition=concat", 36.75, 37.46), ("resnet32", "pair", 47.06, 44.33),
        ("resnet56", "pair", 42.73, 41.25), ("resnet56", "half", 54.14, 53.00), ("resnet164", "pair", 50.40, 49.72),
    ],
)  # fmt: skip
def test_every_variant_has_the_share_that_was_computed_for_it(
    network: str, rewrite: str, params: float, macs: float
) -> None:
    model = slimcnn.build(network, **({"head": "4096-4096-10"} if network == "vgg16" else {}))
    before = slimcnn.measure(model, SMALL)
    after = slimcnn.measure(slimcnn.replace(model, f"feature_reuse:variant={rewrite}"), SMALL)
    assert 100 * after.params / before.params == pytest.approx(params, abs=0.006)
    assert 100 * after.macs / before.macs == pytest.approx(macs, abs=0.006)


# --- the function -----------------------------------------------------------------------------------------------------


def features(layer: nn.Module, x: Tensor) -> Tensor:
    """What one convolution and its norm make, by functions alone."""
    conv, norm = layer.conv, layer.norm
    z = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    return F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def by_hand(variant: str, unit: FeatureReuse, x: Tensor) -> Tensor:
    """One unit by functions alone, written from the definition."""
    steps, fits = unit.steps, unit.unit.reused == "input"
    if variant == "half":
        h = steps[0].conv.out_channels
        return torch.cat([x[:, x.shape[1] - h :], features(steps[0], x).relu()], 1)
    made = [features(steps[0], x).relu()]
    for step in list(steps)[1:]:
        read = torch.cat([x, *made] if fits else made, 1) if variant == "dense" else made[-1]
        made.append(features(step, read).relu())
    if variant == "dense":
        return torch.cat([x, *made] if fits else made, 1)
    return torch.cat([x if fits else made[0], made[-1]], 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_units_of_plain_stages_compute_what_their_definition_says(variant: str) -> None:
    _, small, _ = prepared("plain", f"feature_reuse:variant={variant}")
    units = [module for module in small.modules() if isinstance(module, FeatureReuse)]
    assert [len(unit.steps) for unit in units] == ([1] * 5 if variant == "half" else [2, 3])
    assert any(unit.unit.reused == "input" for unit in units) is (variant != "half")
    for unit in units:
        x = torch.randn(2, unit.unit.reads[0], 9, 9).relu()
        torch.testing.assert_close(unit(x), by_hand(variant, unit, x))


def test_a_residual_block_joins_its_features_before_their_activation() -> None:
    _, small, _ = prepared("resnet20")
    block = small.layer2[1]
    assert isinstance(block, ReusingBlock)
    x = torch.randn(2, 32, 8, 8).relu()
    first = features(block.features.steps[0], x)
    second = features(block.features.steps[1], first.relu())
    torch.testing.assert_close(block(x), (torch.cat([first, second], 1) + x).relu())
    assert first.min() < 0


def test_a_rewritten_transition_joins_its_pooled_input_and_has_no_shortcut() -> None:
    _, small, _ = prepared("resnet20", "feature_reuse:transition=concat")
    block = small.layer2[0]
    x = torch.randn(2, 16, 9, 9).relu()
    first = features(block.features.steps[0], x).relu()
    second = features(block.features.steps[1], first)
    expected = torch.cat([F.avg_pool2d(x, 2, ceil_mode=True), second], 1).relu()
    torch.testing.assert_close(block(x), expected)


def test_a_bottleneck_passes_on_what_its_first_convolution_makes() -> None:
    _, small, _ = prepared("resnet50")
    block = small.layer2[0]
    x = torch.randn(1, 256, 8, 8).relu()
    a = features(block.conv1.steps[0], x).relu()
    b = features(block.conv1.steps[1], a).relu()
    joined = torch.cat([F.avg_pool2d(a, 2), b], 1)
    torch.testing.assert_close(block(x), (block.bn3(block.conv3(joined)) + block.downsample(x)).relu())


@pytest.mark.parametrize(("kind", "variant"), PAIRS)
def test_what_comes_out_of_rewritten_layers_is_as_wide_as_before(kind: str, variant: str) -> None:
    model, small, x = prepared(kind, f"feature_reuse:variant={variant}")
    assert small(x).shape == model(x).shape
    before, after = (slimcnn.measure(network, x) for network in (model, small))
    assert after.params < before.params
    shapes = {layer.name: layer.output for layer in after.layers}
    names = {unit.place for unit in units_in(small)}
    assert names
    whole = {layer.name: layer.output for layer in before.layers}
    for unit in units_in(small):
        last = unit.layers[-1][0]
        assert whole[last][1] == sum(unit.makes if unit.dense else unit.makes[-1:]) + (
            unit.makes[0] if unit.reused == "first" and not unit.dense else 0
        ) + (whole[last][1] // 2 if unit.reused != "first" else 0)
    assert all(layer.output == shapes[layer.name] for layer in before.layers if layer.name in shapes)


def test_with_silent_convolutions_a_unit_gives_its_input_back() -> None:
    _, small, _ = prepared("plain")
    unit = next(m for m in small.modules() if isinstance(m, FeatureReuse) and m.unit.reused == "input")
    with torch.no_grad():
        for step in unit.steps:
            step.conv.weight.zero_()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(unit(x)[:, :8], x)
    assert len(unit(x)[:, 8:].amax((2, 3)).unique(dim=0)) == 1  # the rest is the same everywhere


def test_the_gradient_reaches_the_input_past_silent_convolutions() -> None:
    _, small, _ = prepared("plain")
    unit = next(m for m in small.modules() if isinstance(m, FeatureReuse) and m.unit.reused == "input")
    with torch.no_grad():
        for step in unit.steps:
            step.conv.weight.zero_()
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    unit(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# --- an ordinary network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "variant"), PAIRS)
def test_the_law_holds_on_rewritten_networks(kind: str, variant: str) -> None:
    _, small, x = prepared(kind, f"feature_reuse:variant={variant},transition=concat")
    graph = slimcnn.trace(small, x)
    plan = slimcnn.allocate(graph, slimcnn.score(small, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    cut = slimcnn.prune(small, graph, plan)
    verdict = verify(slimcnn.mask(small, graph, plan), cut, graph, plan)
    assert verdict.equal
    assert verdict.error < 1e-9
    assert slimcnn.measure(cut, x).macs < 0.6 * slimcnn.measure(small, x).macs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cut", [False, True])
def test_it_is_saved_and_loads_bit_for_bit_cut_or_not(variant: str, cut: bool, tmp_path: Path) -> None:
    for kind in ("resnet20", "vgg16"):
        _, small, x = prepared(kind, f"feature_reuse:variant={variant},transition=concat")
        if cut:
            graph = slimcnn.trace(small, x)
            plan = slimcnn.allocate(graph, slimcnn.score(small, graph, "l2"), slimcnn.Target(pruning_ratio=0.3))
            small = slimcnn.prune(small, graph, plan)
        slimcnn.save(small, tmp_path / "net.safetensors")
        loaded = slimcnn.load(tmp_path / "net.safetensors")
        assert torch.equal(loaded(x), small.eval()(x))
        assert units_in(loaded) == units_in(small)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    _, small, _ = prepared("resnet20")
    slimcnn.save(small, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="for another network"):
        slimcnn.load(tmp_path / "net.safetensors", slimcnn.build("vgg11"))


@pytest.mark.filterwarnings("ignore:.*has no digest")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reads": [10**12, 8]}, "cannot map 1000000000000 to 8"),
        ({"makes": [0, 8]}, "cannot map 16 to 0"),
        ({"makes": ["8", 8]}, "for another network"),
        ({"layers": [["linear", ""], ["linear", ""]]}, "only an nn.Conv2d"),
        ({"place": "layer9"}, "no layer 'layer9'"),
        ({"surprise": 1}, "for another network"),
    ],
)
def test_a_file_whose_units_cannot_be_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    _, small, _ = prepared("resnet20")
    path = tmp_path / "net.safetensors"
    slimcnn.save(small, path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["slimcnn"])
    content["reusing"][0] |= change
    save_file(load_file(path), path, metadata={"slimcnn": json.dumps(content)})
    with pytest.raises(CheckpointError, match=message):
        slimcnn.load(path)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_exports_to_onnx_and_agrees_there(dynamo: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, small, x = prepared("resnet20", "feature_reuse:transition=concat")
    path = tmp_path / "small.onnx"
    torch.onnx.export(small, (x,), str(path), dynamo=dynamo, input_names=["x"], opset_version=18)
    (made,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    assert np.allclose(made, small(x).detach().numpy(), atol=1e-3, rtol=1e-3)


def test_everything_in_it_trains() -> None:
    for variant in VARIANTS:
        _, small, x = prepared("plain", f"feature_reuse:variant={variant}")
        small.train()(x).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())


def test_mode_dtype_layout_and_flags_stay_and_the_model_is_not_changed() -> None:
    model = plain().double().to(memory_format=torch.channels_last).train()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = slimcnn.replace(model, feature_reuse(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    first = small[0].steps[0].conv.weight
    assert small.training
    assert all(module.training for module in small.modules())
    assert first.dtype == torch.float64
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not first.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_layers_outside_of_units_keep_their_weights_and_units_are_drawn_by_the_seed() -> None:
    model = plain()
    state = torch.random.get_rng_state()
    one, same, other = (slimcnn.replace(model, feature_reuse(seed=seed), SMALL) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one[-1].weight, model[-1].weight)
    weights = [network[0].steps[0].conv.weight for network in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- what is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "variant"), PAIRS)
def test_every_convolution_is_rewritten_or_left_with_a_reason(kind: str, variant: str) -> None:
    make, example = NETWORKS[kind]
    model = make()
    found = rewritten(model, feature_reuse(variant), example)
    convolutions = {name for name, module in model.named_modules() if isinstance(module, Conv)}
    assert {change.layer for change in found.changes} == convolutions
    assert all(bool(change.what) != bool(change.why_left) for change in found.changes)


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def with_dropout() -> nn.Module:
    layers = stage(3, 8, 2)
    return sequence(*layers[:3], nn.Dropout(0.3), *layers[3:])


def functional(act: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(lambda n, x: act(n.b(act(n.a(x)))), a=Conv(3, 8, 3, padding=1), b=Conv(8, 8, 3, padding=1))


def functional_on_signed_input() -> nn.Module:
    return Net(lambda n, x: F.relu(n.b(F.relu(n.a(x)))), a=Conv(4, 8, 3, padding=1), b=Conv(8, 8, 3, padding=1))


class Block(nn.Module):
    """A residual block with one more thing in it."""

    def __init__(self, more: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = Conv(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.more(x))


class DroppingBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.relu(self.bn1(self.conv1(x))), 0.3, self.training)
        return F.relu(self.bn2(self.conv2(y)) + x)


def block(more: nn.Module) -> nn.Module:
    return sequence(Conv(3, 8, 3), nn.ReLU(), Block(more))


def residual_without_block() -> nn.Module:
    return Net(
        lambda n, x: F.relu((y := F.relu(n.stem(x))) + n.b(F.relu(n.a(y)))),
        stem=Conv(3, 8, 1),
        a=Conv(8, 8, 1),
        b=Conv(8, 8, 1),
    )


def shared() -> nn.Module:
    conv = Conv(8, 8, 3, padding=1)
    return sequence(Conv(3, 8, 3), nn.ReLU(), conv, nn.ReLU(), conv, nn.ReLU())


LEFT: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "a dropout between": (with_dropout, SMALL, "3 is active in its stage during training"),
    "odd widths": (lambda: sequence(*stage(3, 7, 2)), SMALL, "odd number of output channels"),
    "groups": (lambda: sequence(Conv(3, 8, 3), nn.ReLU(), Conv(8, 8, 3, groups=2), nn.ReLU()), SMALL, "grouped"),
    "a function that is no ReLU": (lambda: functional(F.silu), SMALL, "applying it twice would change"),
    "a ReLU in code on signed input": (functional_on_signed_input, torch.zeros(1, 4, 9, 9), "below 0"),
    "activations that differ": (
        lambda: sequence(Conv(3, 8, 3, padding=1), nn.ReLU(), Conv(8, 8, 3, padding=1), nn.SiLU()), SMALL,
        "activations in its stage differ",
    ),
    "no padding": (
        lambda: sequence(Conv(3, 8, 3), nn.ReLU(), Conv(8, 8, 3), nn.ReLU()), SMALL, "28x28 from 30x30 pixels",
    ),
    "a block that does more": (
        lambda: block(nn.Sigmoid()), SMALL, "changes the width or size|its block has other operations",
    ),
    "a dropout in code": (
        lambda: Net(
            lambda n, x: F.relu(n.b(F.dropout(F.relu(n.a(x)), 0.5, n.training))),
            a=Conv(3, 8, 3, padding=1), b=Conv(8, 8, 3, padding=1),
        ), SMALL, "a random operation .* is active in its stage during training",
    ),
    "a block with dropout in code": (
        lambda: sequence(Conv(3, 8, 3), nn.ReLU(), DroppingBlock(nn.Identity())), SMALL,
        "a random operation .* is active in its block during training",
    ),
    "a block with dropout": (lambda: block(nn.Dropout(0.5)), SMALL, "2.more is active in its block during training"),
    "no block": (residual_without_block, SMALL, "not a separate module"),
    "a shared convolution": (shared, SMALL, "used more than once"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_rewritten_is_left_with_its_reason_and_nothing_at_all_is_refused(kind: str) -> None:
    make, example, reason = LEFT[kind]
    model = make().eval()
    with pytest.raises(ModelError, match="nothing in the network could be rewritten"):
        rewritten(model, feature_reuse(), example)
    changes = feature_reuse()(model, example).changes
    assert any(re.search(reason, change.why_left) for change in changes)


def test_other_activations_than_relu_are_done_by_the_unit() -> None:
    small = slimcnn.replace(plain(nn.SiLU).eval(), feature_reuse(), SMALL)
    assert [type(module).__name__ for module in small[:6]] == ["FeatureReuse", *["Identity"] * 5]
    unit = small[0]
    x = torch.randn(1, 3, 5, 5)
    first = F.silu(unit.steps[0](x))
    torch.testing.assert_close(unit(x), torch.cat([first, F.silu(unit.steps[1](first))], 1))


def test_wrong_wishes_are_refused_in_one_line() -> None:
    model = slimcnn.build("resnet20")
    with pytest.raises(ModelError, match="variant='triple' is unknown: choose pair, chain, half, dense"):
        feature_reuse(variant="triple")
    with pytest.raises(ModelError, match="transition='drop' is unknown: choose keep, concat"):
        feature_reuse(transition="drop")
    with pytest.raises(UnknownName, match="did you mean 'feature_reuse'"):
        slimcnn.replace(model, "feature_resue")
    with pytest.raises(ModelError, match="no option 'varaint'; its options are variant, transition, seed"):
        slimcnn.replace(model, "feature_reuse:varaint=pair")
    with pytest.raises(ModelError, match="already reuses features"):
        slimcnn.replace(slimcnn.replace(model, "feature_reuse"), "feature_reuse")
    with pytest.raises(ModelError, match="give an example of its input"):
        slimcnn.replace(plain(), "feature_reuse")


@pytest.mark.parametrize("name", ["relations", "scatter"])
def test_rewrites_that_change_nothing_have_names_too(name: str) -> None:
    model, x = slimcnn.build("resnet20").eval(), torch.randn(2, 3, 32, 32)
    found = rewritten(model, name, x)
    torch.testing.assert_close(found.model(x), model(x), atol=1e-5, rtol=1e-5)
    assert sum(bool(change.what) for change in found.changes) == (19 if name == "relations" else 11)


def test_a_network_that_does_not_accept_the_example_is_refused_in_one_line() -> None:
    model = slimcnn.build("vgg11", width=0.25, in_channels=1).train()
    with pytest.raises(ModelError, match=r"does not accept an input of .*Output size is too small.*use images") as no:
        slimcnn.replace(model, "feature_reuse", torch.zeros(1, 1, 8, 8))
    assert "\n" not in str(no.value)
    assert model.training
