"""Channels that others replace go first, and where removing them hurts least."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimcnn
from at_hand import Net, randomize
from slimcnn.errors import CriterionError, DataError, TargetError
from slimcnn.pruning.criteria.reconstruction import removal_costs
from slimcnn.pruning.input_statistics import Reading, readings_of
from slimcnn.pruning.scores import Evidence, criteria
from slimcnn.pruning.sensitivity_curves import rising

Conv = nn.Conv2d


def reading(x: Tensor, weight: Tensor, kernel: int = 1) -> Reading:
    """How a layer with this weight (o, f) reads rows (n, f), `kernel` inputs for each channel."""
    columns = torch.arange(x.shape[1]).view(-1, kernel)
    return Reading("w", 0, x.T.cov(correction=0), x.mean(0), weight, torch.arange(len(columns)), columns)


def rows(n: int, f: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(f, f, generator=generator, dtype=torch.float64)
    return torch.randn(n, f, generator=generator, dtype=torch.float64) @ mixing


def labeled(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(len(x), dtype=torch.long)) for x in images.split(8)]


def least_error(x: Tensor, weight: Tensor, kept: list[int]) -> float:
    """What least squares cannot make of a layer's outputs from some of its inputs, as a share."""
    centered = x - x.mean(0)
    made = centered @ weight.T
    found = torch.linalg.lstsq(centered[:, kept], made, driver="gelsd").solution
    return float((made - centered[:, kept] @ found).square().sum() / made.square().sum())


@pytest.mark.parametrize("kernel", [1, 2])
def test_costs_add_up_to_what_least_squares_leaves(kernel: int) -> None:
    x, weight = rows(500, 6 * kernel), torch.randn(4, 6 * kernel, dtype=torch.float64)
    costs = removal_costs((reading(x, weight, kernel),), 6)
    order = costs.argsort().tolist()
    total = 0.0
    for gone, channel in enumerate(order[:3], start=1):
        total += float(costs[channel])
        kept = [c * kernel + k for c in sorted(order[gone:]) for k in range(kernel)]
        left = least_error(x, weight, kept)
        assert left <= total * 1.01 + 1e-6  # costs never fall, so that they may add up to more


def test_the_first_to_go_is_the_one_that_costs_least_of_all() -> None:
    x, weight = rows(500, 7, seed=3), torch.randn(3, 7, dtype=torch.float64)
    costs = removal_costs((reading(x, weight),), 7)
    alone = [least_error(x, weight, [i for i in range(7) if i != gone]) for gone in range(7)]
    assert int(costs.argmin()) == min(range(7), key=alone.__getitem__)
    assert float(costs.min()) == pytest.approx(min(alone), rel=0.01)


def test_of_two_equal_channels_one_goes_for_nothing_and_then_the_other_is_needed() -> None:
    x = torch.randn(400, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:, 3] = x[:, 0]
    costs = removal_costs((reading(x, torch.eye(4, dtype=torch.float64)),), 4)
    first, second = sorted(costs[[0, 3]].tolist())
    assert first < 1e-3 < 0.1 < second


def test_layers_that_read_the_same_channels_add_up() -> None:
    x, weight = rows(300, 5), torch.randn(4, 5, dtype=torch.float64)
    one = reading(x, weight)
    assert torch.allclose(removal_costs((one, one), 5), 2 * removal_costs((one,), 5), rtol=1e-6)


def test_a_layer_that_reads_constants_costs_nothing_and_no_number_is_lost() -> None:
    x = torch.ones(50, 3, dtype=torch.float64)
    costs = removal_costs((reading(x, torch.ones(2, 3, dtype=torch.float64)),), 3)
    assert torch.isfinite(costs).all()
    assert float(costs.max()) < 1e-6


NETWORKS = {
    "3x3": lambda: nn.Sequential(Conv(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), Conv(6, 5, 3, stride=2)),
    "grouped": lambda: nn.Sequential(Conv(3, 8, 1), nn.ReLU(), Conv(8, 6, 3, groups=2)),
    "depthwise": lambda: nn.Sequential(Conv(3, 8, 1), Conv(8, 8, 3, groups=8), nn.ReLU(), Conv(8, 5, 1)),
    "linear": lambda: nn.Sequential(Conv(3, 6, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 4)),
    "transposed": lambda: nn.Sequential(Conv(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, stride=2)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_readings_make_what_the_layer_makes(kind: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]().eval()
    randomize(model)
    images = torch.randn(6, 3, 8, 8)
    graph = slimcnn.trace(model, images[:1])
    found = readings_of(model, graph, [images])
    for group in graph.groups:
        seen = torch.cat([one.channels for one in found[group.name]]).unique()
        assert seen.tolist() == list(range(group.channels))
        for one in found[group.name]:
            assert one.columns.unique().numel() == one.columns.numel()
            assert one.moments.shape == (one.weight.shape[1],) * 2
            # The columns of a channel are those at which the layer's weight vanishes when the channel is masked.
            gone = next(part for part in zip(*group.parts, strict=True) if set(part) & set(one.channels.tolist()))
            plan = slimcnn.Plan(graph.fingerprint, {group.name: tuple(map(int, gone))})
            masked = dict(slimcnn.mask(model, graph, plan).named_parameters())[one.name]
            zeroed = (masked == 0) & (dict(model.named_parameters())[one.name] != 0)
            assert int(zeroed.sum()) >= one.columns.shape[1]


def test_the_criterion_needs_images(capsys: pytest.CaptureFixture[str]) -> None:
    model = NETWORKS["3x3"]()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(CriterionError, match="needs images"):
        slimcnn.score(model, graph, "reconstruction")
    with pytest.raises(CriterionError, match="empty"):
        slimcnn.score(model, graph, "reconstruction", data=[])


def test_a_group_that_only_a_computed_weight_reads_keeps_all_its_channels() -> None:
    model = Net(lambda n, x: n.c(F.conv2d(n.a(x).relu(), n.b.weight * 2).relu()),
                a=Conv(3, 6, 1), b=Conv(6, 5, 1), c=Conv(5, 4, 1))  # fmt: skip
    images = torch.randn(8, 3, 8, 8)
    graph = slimcnn.trace(model, images[:1])
    scores = slimcnn.score(model, graph, "reconstruction", data=labeled(images))
    assert scores.unscored == {"a": "no layer that reads these channels has input statistics"}


def test_a_duplicated_channel_is_cut_and_least_squares_makes_up_for_it_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv(3, 6, 3), nn.ReLU(), Conv(6, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[:2]
        model[0].bias[4:] = model[0].bias[:2]
    images = torch.randn(16, 3, 10, 10)
    graph = slimcnn.trace(model, images[:1])
    scores = slimcnn.score(model, graph, "reconstruction", data=labeled(images))
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.34))
    assert len({0, 4} & set(plan.removed["0"])) == 1
    assert len({1, 5} & set(plan.removed["0"])) == 1
    small = slimcnn.prune(model, graph, plan)
    slimcnn.least_squares(small, model, graph, plan, [images])
    assert torch.allclose(small(images), model(images), atol=1e-3)


def test_costs_are_registered_as_comparable() -> None:
    criterion = criteria["reconstruction"].value()
    assert criterion.comparable
    evidence = Evidence("conv", readings=(reading(rows(50, 4), torch.ones(2, 4, dtype=torch.float64)),), channels=4)
    assert criterion.score(evidence).shape == (4,)


# --- sensitivity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_costs_of_a_curve_rise_and_never_exceed_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    errors = [0.0, *torch.rand(4, generator=generator).sort().values.tolist()]
    costs = rising(dict(zip([0, 2, 4, 6, 8], errors, strict=True)), 10).tolist()
    assert costs == sorted(costs)
    for channels, error in zip([2, 4, 6, 8], errors[1:], strict=True):
        assert sum(costs[:channels]) <= error + 1e-9
    assert sum(costs[:8]) == pytest.approx(errors[-1])


def test_channels_go_where_the_output_does_not_notice() -> None:
    torch.manual_seed(0)
    model = Net(lambda n, x: n.c(n.a(x).relu()) + n.d(n.b(x).relu()),
                a=Conv(3, 8, 1), b=Conv(3, 8, 1), c=Conv(8, 4, 1), d=Conv(8, 4, 1)).eval()  # fmt: skip
    with torch.no_grad():
        model.d.weight.mul_(1e-3)
    images = torch.randn(64, 3, 4, 4)
    graph = slimcnn.trace(model, images[:1])
    scores = slimcnn.score(model, graph, "l2")
    measured = slimcnn.sensitivity(model, graph, scores, [images])
    plan = slimcnn.allocate(graph, measured, slimcnn.Target(macs=0.7, scope="sensitivity"))
    assert len(plan.removed["b"]) > len(plan.removed.get("a", ()))


def weight_computed(ordinary: float) -> nn.Module:
    """Two groups; the second is read by a weight that is computed in every run, and `ordinary` times by another."""
    torch.manual_seed(0)

    def run(net: nn.Module, x: Tensor) -> Tensor:
        y = F.conv2d(net.b(x).relu(), net.d.weight * 100)
        return net.c(net.a(x).relu()) + y + (ordinary * net.e(net.b(x).relu()) if ordinary else 0)

    other = {"e": Conv(8, 4, 1)} if ordinary else {}
    return Net(run, a=Conv(3, 8, 1), b=Conv(3, 8, 1), c=Conv(8, 4, 1), d=Conv(8, 4, 1), **other).eval()


@pytest.mark.parametrize("ordinary", [0.0, 1.0])
def test_channels_are_not_free_where_what_reads_them_cannot_be_followed(ordinary: float) -> None:
    model, images = weight_computed(ordinary), torch.randn(64, 3, 4, 4)
    graph = slimcnn.trace(model, images[:1])
    measured = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), [images])
    assert float(measured.costs["b"][0]) > float(measured.costs["a"][0]) > 0


def test_channels_that_something_reads_unseen_are_not_scored() -> None:
    model, images = weight_computed(1.0), torch.randn(64, 3, 4, 4)
    graph = slimcnn.trace(model, images[:1])
    found = slimcnn.score(model, graph, "reconstruction", data=labeled(images))
    assert found.unscored == {"b": "d.weight reads these channels too and has no input statistics"}


@pytest.mark.parametrize("kind", NETWORKS)
def test_sensitivity_leaves_the_network_as_it_was_and_its_plans_obey_the_law(kind: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]().train()
    randomize(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(12, 3, 8, 8)
    graph = slimcnn.trace(model, images[:1])
    measured = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), images.split(5))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for macs, residual in itertools.product((0.5, 0.8), ("auto", "cut")):
        target = slimcnn.Target(macs=macs, scope="sensitivity", residual=residual)  # type: ignore[arg-type]
        plan = slimcnn.allocate(graph, measured, target)
        slimcnn.prune(model, graph, plan)
        assert graph.macs(plan.counts(graph)) <= macs * graph.macs()


def test_sensitivity_must_be_measured_before_it_can_be_followed() -> None:
    model = NETWORKS["3x3"]()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 8, 8))
    scores = slimcnn.score(model, graph, "l2")
    with pytest.raises(TargetError, match="needs measured costs"):
        slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.5, scope="sensitivity"))
    with pytest.raises(DataError, match="at least two images"):
        slimcnn.sensitivity(model, graph, scores, [torch.zeros(1, 3, 8, 8)])
