"""Relations of channels go into any network without changing it, are pruned with its channels, and fold away."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import slimcnn
from at_hand import Net, mostly_slow, randomize, some_channels
from slimcnn.errors import CriterionError, ModelError, RecipeError
from slimcnn.layers.relating import MOMENTUM, anneal, fold, relate, relating_of, relations_in, settle
from slimcnn.objectives import SparseScales, spread
from slimcnn.pruning import verify
from slimcnn.rewriting import relations_left_out

Conv, Norm = nn.Conv2d, nn.BatchNorm2d
IMAGE, LARGE = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64)


def bare() -> nn.Module:
    """A network of the user's own: one norm behind a convolution, one behind a sum, one without scales."""
    return Net(
        lambda n, x: n.head(n.after(n.norm(n.a(x)).relu() + (y := n.plain(n.b(x)))).relu() + y).mean(dim=(2, 3)),
        a=Conv(3, 8, 3, padding=1), norm=Norm(8), b=Conv(3, 8, 1), plain=Norm(8, affine=False), after=Norm(8),
        head=Conv(8, 5, 1),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "vgg11": (lambda: slimcnn.build("vgg11", width=0.25), IMAGE),
    "resnet20": (lambda: slimcnn.build("resnet20"), IMAGE),
    "resnet18": (torchvision.models.resnet18, LARGE),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, LARGE),
    "bare": (bare, IMAGE),
}


def prepared(kind: str, mode: str = "mean") -> tuple[nn.Module, nn.Module, Tensor]:
    """A network that hides nothing, its copy with relations as if they had learned something, and an input."""
    make, example = NETWORKS[kind]
    torch.manual_seed(0)
    model = make().eval()
    randomize(model)
    related = slimcnn.insert_relations(model, example, mode)
    return model, related, torch.randn(4, *example.shape[1:])


def taught(related: nn.Module) -> nn.Module:
    with torch.no_grad():
        for _, norm in relations_in(related):
            norm.sr.uniform_(0.1, 0.9)
            for parameter in norm.gate.parameters():
                parameter.normal_()
    return related


@pytest.mark.parametrize("mode", ["mean", "sample"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_putting_relations_in_changes_nothing(kind: str, mode: str) -> None:
    model, related, x = prepared(kind, mode)
    torch.testing.assert_close(related(x), model(x), rtol=1e-4, atol=1e-4)
    assert not relating_of(model)
    assert set(relating_of(related).values()) == {mode}


def test_only_norms_with_scales_that_a_convolution_feeds_have_relations() -> None:
    _, related, _ = prepared("bare")
    assert relating_of(related) == {"norm": "mean"}
    assert relations_left_out(related) == ["plain", "after"]


@pytest.mark.parametrize("mode", ["mean", "sample"])
@pytest.mark.parametrize("kind", mostly_slow(NETWORKS, ("vgg11", "resnet20", "bare")))
def test_the_law_holds_with_relations_in_the_network(kind: str, mode: str) -> None:
    _, related, x = prepared(kind, mode)
    graph = slimcnn.trace(taught(related), x[:1])
    assert graph.groups
    for seed in (1, 2):
        plan = some_channels(graph, seed)
        small = slimcnn.prune(related, graph, plan, verify=False)
        assert verify(slimcnn.mask(related, graph, plan), small, graph, plan).equal
        small.train()(x)  # in training mode too: everything has been cut that belongs together
        assert all(len(norm.sr) == norm.num_features for _, norm in relations_in(small))


@pytest.mark.parametrize("kind", NETWORKS)
def test_folded_computes_the_same_to_1e_6_and_has_no_trace_of_relations(kind: str) -> None:
    model, related, x = prepared(kind)
    related, x = taught(related).double(), x.double()
    folded = slimcnn.fold_relations(related)
    expected = related(x).detach()
    assert float((folded(x).detach() - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))
    assert folded.state_dict().keys() == model.state_dict().keys()
    assert [type(m) for m in folded.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("kind", ["vgg11", "resnet20"])
def test_the_folded_network_has_the_groups_of_the_one_with_relations(kind: str) -> None:
    _, related, x = prepared(kind)
    folded = slimcnn.fold_relations(related)
    groups = [[(g.name, g.channels) for g in slimcnn.trace(m, x[:1]).groups] for m in (related, folded)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_relations_make_no_streams_of_channels_inside_blocks(mode: str) -> None:
    model, related, x = prepared("resnet20", mode)
    inner = {g.name for g in slimcnn.trace(model, x[:1]).groups if not g.residual}
    assert inner <= {g.name for g in slimcnn.trace(related, x[:1]).groups if not g.residual}


def test_the_moving_average_is_the_closed_form_and_the_first_batch_begins_it() -> None:
    norm = Norm(8)
    relate(norm)
    taught(nn.Sequential(norm))
    x = torch.randn(16, 8, 3, 3)
    means = []
    for k in range(5):
        with torch.no_grad():
            norm.gate[2].bias.fill_(float(k))
        z = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
        means.append(norm.gate(z.mean(dim=(2, 3))).mean(dim=0).detach())
        norm(x)
    expected = means[0]
    for mean in means[1:]:
        expected = (1 - MOMENTUM) * expected + MOMENTUM * mean
    torch.testing.assert_close(norm.sr, expected)
    assert int(norm.batches_related) == 5
    assert not norm.sr.requires_grad


def test_training_weighs_by_the_batch_and_eval_by_the_average() -> None:
    norm = Norm(4)
    relate(norm)
    taught(nn.Sequential(norm))
    x = torch.randn(6, 4, 5, 5)
    z = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    e = torch.sigmoid(norm.gate[2](norm.gate[0](z.mean(dim=(2, 3))).relu())).mean(dim=0)
    torch.testing.assert_close(norm(x), z * e.view(1, -1, 1, 1))
    norm.eval()
    plain = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), plain * norm.sr.view(1, -1, 1, 1))


def test_under_mixed_precision_gates_tell_apart_what_bfloat16_could_not() -> None:
    norm = nn.BatchNorm2d(4)
    relate(norm)
    with torch.no_grad():
        norm.gate[2].bias.add_(torch.tensor([0.0, 1e-3, 2e-3, 3e-3]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norm(torch.randn(8, 4, 2, 2))
    assert torch.allclose(norm.sr, torch.sigmoid(norm.gate[2].bias), atol=1e-6)
    assert len(norm.sr.unique()) == 4


def test_a_gate_learns() -> None:
    _, related, x = prepared("vgg11")
    related.train()(x).square().mean().backward()
    gates = [norm.gate for _, norm in relations_in(related)]
    assert all(float(gate[2].weight.grad.abs().sum()) > 0 for gate in gates)


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_a_pruned_network_with_relations_is_saved_and_loads(mode: str, tmp_path: Path) -> None:
    _, related, x = prepared("resnet20", mode)
    graph = slimcnn.trace(taught(related), x[:1])
    small = slimcnn.prune(related, graph, some_channels(graph, 1)).eval()
    loaded = slimcnn.load(slimcnn.save(small, tmp_path / "small.safetensors"))
    assert torch.equal(loaded(x), small(x))
    assert relating_of(loaded) == relating_of(small)
    assert torch.equal(copy.deepcopy(small)(x), small(x))


def test_what_cannot_be_related_or_folded_is_refused() -> None:
    model = slimcnn.build("resnet20")
    with pytest.raises(ModelError, match="choose mean"):
        slimcnn.insert_relations(model, IMAGE, "median")
    with pytest.raises(ModelError, match="nothing to relate"):
        slimcnn.insert_relations(nn.Sequential(Conv(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2)), IMAGE)
    with pytest.raises(ModelError, match="already"):
        slimcnn.insert_relations(slimcnn.insert_relations(model, IMAGE), IMAGE)
    with pytest.raises(ModelError, match="no relation of mode 'mean'"):
        slimcnn.fold_relations(model)
    with pytest.raises(ModelError, match="insert relations first, then scatter"):
        slimcnn.insert_relations(slimcnn.scatter(model, IMAGE), IMAGE)
    both = slimcnn.scatter(slimcnn.insert_relations(model, IMAGE), IMAGE)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(both.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)


# --- the criterion ----------------------------------------------------------------------------------------------------


def planted() -> tuple[nn.Module, slimcnn.ChannelGraph]:
    """Two layers; every scale is 1 but for one channel of `0`, which is zero with its shift."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Conv(3, 8, 3), Norm(8), nn.ReLU(), Conv(8, 16, 3), Norm(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip
    related = slimcnn.insert_relations(model, IMAGE)
    with torch.no_grad():
        related[1].weight[3] = related[1].bias[3] = 0.0
    return related, slimcnn.trace(related, IMAGE)


@pytest.mark.parametrize("a", [0.25, 0.5, 0.75, 1])
def test_a_dead_channel_goes_first_and_outputs_stay_bit_for_bit(a: float) -> None:
    model, graph = planted()
    scores = slimcnn.score(model, graph, f"gfr:a={a}")
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=1 / 24, scope="global"))
    assert plan.removed == {"0": (3,)}
    x = torch.randn(8, 3, 32, 32)
    assert torch.equal(slimcnn.mask(model, graph, plan)(x), model(x))


def test_all_layers_are_ranked_together_and_not_each_by_itself() -> None:
    model, graph = planted()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(0.1, 0.2, 8))
        model[4].weight.copy_(torch.linspace(1, 2, 16))
    scores = slimcnn.score(model, graph, "gfr")
    together = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.25, scope="global"))
    apart = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.25))
    assert together.removed == {"0": (0, 1, 2, 3, 4, 5)}
    assert {name: len(gone) for name, gone in apart.removed.items()} == {"0": 2, "3": 4}


def test_with_a_1_it_removes_what_network_slimming_removes() -> None:
    _, related, x = prepared("resnet20")
    graph = slimcnn.trace(taught(related), x[:1])
    target = slimcnn.Target(pruning_ratio=0.4, scope="global", residual="inner")
    slimming, ours = (
        slimcnn.allocate(graph, slimcnn.score(related, graph, c), target) for c in ("bn_scale", "gfr:a=1")
    )
    assert ours.removed == slimming.removed
    assert ours.removed != slimcnn.allocate(graph, slimcnn.score(related, graph, "gfr:a=0"), target).removed


def test_a_share_of_every_layer_stays() -> None:
    model, graph = planted()
    with torch.no_grad():
        model[1].weight.fill_(1e-6)
    scores = slimcnn.score(model, graph, "gfr")
    target = slimcnn.Target(pruning_ratio=0.3, scope="global", min_share=0.5)
    assert {n: len(gone) for n, gone in slimcnn.allocate(graph, scores, target).removed.items()} == {"0": 4, "3": 3}


def test_groups_without_relations_keep_their_channels() -> None:
    model = slimcnn.build("resnet20")
    graph = slimcnn.trace(model, IMAGE)
    with pytest.raises(CriterionError, match="see insert_relations"):
        slimcnn.score(model, graph, "gfr")
    related = slimcnn.insert_relations(model, IMAGE)
    fold(related.layer1[0].bn1)
    graph = slimcnn.trace(related, IMAGE)
    scores = slimcnn.score(related, graph, "gfr")
    assert list(scores.unscored) == ["layer1.0.conv1"]
    assert "layer1.0.conv1" not in slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.5)).removed
    with pytest.raises(CriterionError, match="a=2 must be between 0"):
        slimcnn.score(model, graph, "gfr:a=2")


# --- sparse training --------------------------------------------------------------------------------------------------


def test_the_proximal_step_is_soft_thresholding() -> None:
    model = nn.Sequential(Conv(3, 4, 1), Norm(4), nn.Flatten(), nn.Linear(4, 2))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0, 0.05, -0.05]))
    SparseScales(strength=0.1, penalty="l1").after_step(model, sgd)  # threshold 0.1 * 0.1 / (1 - 0.9) = 0.1
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([0.9, -0.9, 0.0, 0.0]))


def test_the_product_weighs_the_threshold_by_sr() -> None:
    model = slimcnn.insert_relations(nn.Sequential(Conv(3, 2, 1), Norm(2)), IMAGE)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].sr.copy_(torch.tensor([0.25, 1.0]))
    SparseScales(strength=0.1, penalty="product").after_step(model, sgd)
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([0.975, 0.9]))


@pytest.mark.parametrize(("penalty", "expected"), [("product", 0.3 * 0.8), ("l1", 0.3)])
def test_the_penalty_is_the_sum_over_all_scales(penalty: str, expected: float) -> None:
    model = slimcnn.insert_relations(
        nn.Sequential(Conv(3, 2, 1), Norm(2), nn.Flatten()), torch.zeros(1, 3, 1, 1)
    ).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0]))
        model[1].sr.fill_(0.8)
    for step in ("proximal", "subgradient"):
        loss = SparseScales(strength=0.1, penalty=penalty, step=step)  # type: ignore[arg-type]
        terms = loss(model, torch.zeros(2, 3, 1, 1), torch.tensor([0, 1])).terms
        assert terms["sparsity"].item() == pytest.approx(expected)
        assert terms["sparsity"].requires_grad == (step == "subgradient")


def test_the_product_closes_gates_and_l1_does_not() -> None:
    """In training mode the gate's mean over the batch is in the penalty, with its gradient."""
    for penalty in ("product", "l1"):
        model = slimcnn.insert_relations(nn.Sequential(Conv(3, 2, 1), Norm(2), nn.Flatten()), torch.zeros(1, 3, 1, 1))
        loss = SparseScales(lambda m, x, _: slimcnn.objectives.Loss({"zero": m(x).sum() * 0}, m(x)), 1.0, penalty)  # type: ignore[arg-type]
        loss(model.train(), torch.randn(4, 3, 1, 1), torch.tensor([0, 1, 0, 1])).total.backward()
        assert bool((model[1].gate[2].bias.grad > 0).all()) == (penalty == "product")


def test_sparse_training_makes_exact_zeros_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(300)
    training = slimcnn.Training(epochs=3, batch_size=16, layout="nchw", precision="32")

    def trained(folder: Path | None, stop: int | None = None) -> nn.Module:
        torch.manual_seed(0)
        model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
        for epoch in slimcnn.fit(model, data, training=training, objective=SparseScales(strength=0.05), folder=folder):
            if epoch.epoch == stop:
                break
        return model

    whole = trained(None)
    assert spread(whole).small > 0.1
    assert any(bool((norm.weight == 0).any()) for _, norm in relations_in(whole))
    trained(tmp_path, stop=1)
    again = trained(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.state_dict().items())


def two_images_with_gates(mode: str) -> tuple[nn.Module, Tensor]:
    """A norm of one channel whose gate is sigmoid of the channel's mean: 0 and ln 3 give 1/2 and 3/4."""
    norm = nn.BatchNorm2d(1, affine=True, momentum=None, eps=1e-12)
    relate(norm, mode)
    with torch.no_grad():
        for parameter in norm.gate.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        norm.gate[0].weight[0, 0] = norm.gate[2].weight[0, 0] = 1.0  # type: ignore[index, union-attr]
        norm.running_mean.zero_(), norm.running_var.fill_(1.0), norm.sr.fill_(0.25)  # type: ignore[operator, union-attr]
    return norm.eval(), torch.tensor([0.0, math.log(3)]).view(2, 1, 1, 1)


@pytest.mark.parametrize(("t", "scale"), [(0.0, 0.75), (0.5, 0.5), (1.0, 0.25)])
def test_an_annealed_relation_goes_from_each_images_gate_to_their_mean(t: float, scale: float) -> None:
    norm, x = two_images_with_gates("annealed")
    anneal(norm, t)
    assert torch.allclose(norm(x)[1], x[1] * scale)


def test_in_training_an_annealed_relation_ends_as_mode_mean() -> None:
    (annealed, x), (mean, _) = two_images_with_gates("annealed"), two_images_with_gates("mean")
    anneal(annealed, 1.0)
    batch = torch.cat([x, x + 1])
    assert torch.allclose(annealed.train()(batch), mean.train()(batch))
    assert torch.allclose(annealed.sr, mean.sr)  # type: ignore[arg-type]


def test_a_settled_relation_computes_the_same_and_folds() -> None:
    model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=3).eval(), IMAGE, "annealed")
    taught(model)
    x = torch.randn(4, 3, 32, 32)
    with pytest.raises(ModelError, match="annealed to 0"):
        settle(model)
    anneal(model, 1.0)
    before = model(x)
    settle(model)
    assert relating_of(model) == dict.fromkeys(relating_of(model), "mean")
    assert torch.equal(model(x), before)
    assert torch.allclose(slimcnn.fold_relations(model)(x), before, atol=1e-4)


def test_training_anneals_between_a_quarter_and_three_quarters() -> None:
    model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8), "annealed")
    objective = SparseScales(epochs=8)
    seen = []
    for epoch in (0, 2, 3, 4, 6, 7.5):
        objective.before_step(epoch)
        objective(model, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
        seen.append({float(norm.annealed) for _, norm in relations_in(model)})
    assert seen == [{0.0}, {0.0}, {0.25}, {0.5}, {1.0}, {1.0}]


def test_gates_that_are_born_different_differ() -> None:
    torch.manual_seed(0)
    related = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=3).train(), IMAGE, equal=False)
    related(torch.randn(8, 3, 32, 32))
    assert spread(related).std > 0.01


def test_the_relative_penalty_counts_only_differences_within_a_layer() -> None:
    model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    objective = SparseScales(lambda m, x, _: slimcnn.Loss({"zero": m(x).sum() * 0}, m(x)), 0.5, "relative")
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    size = sum(float(norm.weight.detach().abs().sum()) for _, norm in relations_in(model))
    whole = float(objective(model, x, y).terms["sparsity"].detach())
    assert whole == pytest.approx(0.5 * size, rel=1e-5)  # equal gates: the layer's mean divides them out
    norm = next(iter(dict(relations_in(model)).values()))
    with torch.no_grad():
        norm.gate[2].bias[0] = 30.0  # type: ignore[union-attr]
    closed, other = 1.0, float(torch.sigmoid(torch.tensor(2.0)))
    mean = (closed + (len(norm.sr) - 1) * other) / len(norm.sr)
    scales = norm.weight.detach().abs()
    expected = 0.5 * (size - float(scales.sum()) + float(scales[0] * closed + scales[1:].sum() * other) / mean)
    assert float(objective(model, x, y).terms["sparsity"].detach()) == pytest.approx(expected, rel=1e-5)


def test_polarization_is_greatest_for_gates_half_open() -> None:
    model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    objective = SparseScales(polarization=3.0)
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    gate = torch.sigmoid(torch.tensor(2.0))
    assert float(objective(model, x, y).terms["polarization"].detach()) == pytest.approx(
        float(12 * gate * (1 - gate)), rel=1e-5
    )
    with torch.no_grad():
        for _, norm in relations_in(model):
            norm.gate[2].bias.zero_()  # type: ignore[union-attr]
    assert float(objective(model, x, y).terms["polarization"].detach()) == pytest.approx(3.0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="strength=0"):
        SparseScales(strength=0)
    with pytest.raises(RecipeError, match="choose l1, product or relative"):
        SparseScales(penalty="l2")  # type: ignore[arg-type]
    x, y = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(ModelError, match="insert_relations first"):
        SparseScales(penalty="product")(slimcnn.build("resnet20"), x, y)
    with pytest.raises(ModelError, match="polarization=1 needs channel relations"):
        SparseScales(polarization=1)(slimcnn.build("resnet20"), x, y)
    with pytest.raises(RecipeError, match="polarization=-1"):
        SparseScales(polarization=-1)
    with pytest.raises(RecipeError, match="pass epochs"):
        SparseScales()(slimcnn.insert_relations(slimcnn.build("resnet20"), IMAGE, "annealed"), x, y)
    with pytest.raises(ModelError, match="no batch norm"):
        SparseScales(penalty="l1")(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), x, y)
