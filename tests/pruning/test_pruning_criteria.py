"""Every criterion against a loop that anybody can check, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from networks_to_prune import image, plain, residual
from torch import Tensor, nn

from slimcnn import insert_relations
from slimcnn.errors import CriterionError, UnknownName, WeightsError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Criterion, Evidence, Target, allocate, criteria, score
from slimcnn.pruning.scores import criterion_named


def data(batches: int = 3, classes: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(4, 3, 4, 4, generator=generator), torch.randint(classes, (4,), generator=generator))
        for _ in range(batches)
    ]


def conv_of(model: nn.Module) -> list[list[float]]:
    return [row.tolist() for row in model[0].weight.detach().double().flatten(1)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return plain(7, 6)


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> ChannelGraph:
    return trace(network, image())


# --- against loops -------------------------------------------------------------------------------------------------


def test_l1_is_the_sum_of_absolute_weights(network: nn.Module, graph: ChannelGraph) -> None:
    expected = [sum(abs(w) for w in filter_) for filter_ in conv_of(network)]
    assert score(network, graph, "l1").values["0"].tolist() == pytest.approx(expected)


def test_l2_is_the_root_of_the_sum_of_squares(network: nn.Module, graph: ChannelGraph) -> None:
    expected = [math.sqrt(sum(w * w for w in filter_)) for filter_ in conv_of(network)]
    assert score(network, graph, "l2").values["0"].tolist() == pytest.approx(expected)


def test_fpgm_is_the_sum_of_distances_to_all_filters(network: nn.Module, graph: ChannelGraph) -> None:
    filters = conv_of(network)
    expected = [sum(math.dist(a, b) for b in filters) for a in filters]
    assert score(network, graph, "fpgm").values["0"].tolist() == pytest.approx(expected)


def test_fpdf_scores_are_norms(network: nn.Module, graph: ChannelGraph) -> None:
    for spec, other in (("fpdf", "l2"), ("fpdf:norm=2", "l2"), ("fpdf:norm=1", "l1")):
        assert torch.equal(score(network, graph, spec).values["0"], score(network, graph, other).values["0"])


def test_bn_scale_is_the_size_of_gamma(network: nn.Module, graph: ChannelGraph) -> None:
    model = copy.deepcopy(network)
    gamma = [0.5, -2.0, 0.0, 1.0, -0.25, 3.0, 1.5]
    model[1].weight.data = torch.tensor(gamma)
    assert score(model, graph, "bn_scale").values["0"].tolist() == [abs(g) for g in gamma]


def test_bn_scale_averages_sizes_where_a_channel_has_several_scales() -> None:
    """A channel read twice has two gammas; +1 and -1 are two scales of 1, not none."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(self.norm(torch.cat([y, y], 1)))

    model = Twice()
    model.norm.weight.data = torch.tensor([1.0, 2.0, 0.0, 4.0, -1.0, 0.0, 1.0, -4.0])
    assert score(model, trace(model, image()), "bn_scale").values["a"].tolist() == [1.0, 1.0, 0.5, 4.0]


def test_taylor_is_the_squared_effect_of_scaling_a_filter(network: nn.Module, graph: ChannelGraph) -> None:
    """sum of w g over a filter = d loss / d s of the filter times s, at s = 1: by finite differences."""
    model = copy.deepcopy(network).double().eval()
    batches = [(x.double(), y) for x, y in data()]
    expected, step = [], 1e-5
    for channel in range(7):
        effects = []
        for x, y in batches:
            losses = []
            for scale in (1 + step, 1 - step):
                scaled = copy.deepcopy(model)
                scaled[0].weight.data[channel] *= scale
                losses.append(float(F.cross_entropy(scaled(x), y).detach()))
            effects.append((losses[0] - losses[1]) / (2 * step))
        expected.append(sum(e * e for e in effects) / len(effects))
    assert score(model, graph, "taylor", batches).values["0"].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_taylor_leaves_network_gradients_and_mode_alone(network: nn.Module, graph: ChannelGraph) -> None:
    model = copy.deepcopy(network).train()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        score(model, graph, "taylor", data())
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_random_is_decided_by_seed_and_group(network: nn.Module, graph: ChannelGraph) -> None:
    one = score(network, graph, "random", seed=1).values
    assert torch.equal(one["0"], score(network, graph, "random", seed=1).values["0"])
    assert torch.equal(one["0"], score(network, graph, "random:seed=1", seed=9).values["0"])
    assert not torch.equal(one["0"], score(network, graph, "random", seed=2).values["0"])
    twins = plain(6, 6)
    values = score(twins, trace(twins, image()), "random").values
    assert not torch.equal(values["0"], values["3"])


def test_layers_that_share_channels_count_alike_whatever_their_scale() -> None:
    model = residual(12, 18)
    graph = trace(model, image())
    filters = [model[0].weight, model[1].two.weight, model[2].two.weight]
    before = score(model, graph, "l2").values["0"]
    norms = [f.detach().double().flatten(1).norm(dim=1) for f in filters]
    assert torch.allclose(before, sum(n / n.mean() for n in norms) / 3)
    with torch.no_grad():
        model[0].weight.mul_(1000)
    assert torch.allclose(score(model, graph, "l2").values["0"], before)


# --- for all of them -----------------------------------------------------------------------------------------------

ALL = [entry.name for entry in criteria]


def test_the_registry_keeps_its_name_after_the_folder_of_that_name_was_imported() -> None:
    import slimcnn.pruning

    assert "l2" in criteria
    assert slimcnn.pruning.criteria is criteria


def as_needed(name: str, model: nn.Module) -> nn.Module:
    """Put in what a criterion looks at."""
    return insert_relations(model.eval(), image().to(model[0].weight.dtype)) if name == "gfr" else model


def test_the_papers_criteria_are_there() -> None:
    assert {"random", "l1", "l2", "fpgm", "bn_scale", "taylor", "fpdf"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_criterion_names_its_source_and_says_what_it_does(name: str) -> None:
    assert criteria[name].source
    assert len(criteria[name].summary) > 10
    assert criterion_named(name).name == name


@pytest.mark.parametrize("name", ALL)
def test_every_criterion_gives_one_finite_number_per_channel_and_again_the_same(
    name: str, network: nn.Module, graph: ChannelGraph
) -> None:
    network = as_needed(name, network)
    graph = trace(network, image()) if name == "gfr" else graph
    one, two = (score(network, graph, name, data()) for _ in range(2))
    for group in graph.groups:
        values = one.values[group.name]
        assert values.shape == (group.channels,)
        assert values.isfinite().all()
        assert torch.equal(values, two.values[group.name])
        for m in range(1, group.channels + 1):
            kept = one.keep(group.name, m).tolist()
            assert len(kept) == len(set(kept)) == m
            assert kept == sorted(kept)
            assert kept == two.keep(group.name, m).tolist()


@pytest.mark.parametrize("name", [name for name in ALL if name != "random"])
def test_every_criterion_follows_the_filters_when_channels_are_renamed(name: str) -> None:
    """The same network with its channels in another order gets the same scores in that order."""
    torch.manual_seed(11)
    model = plain(9)
    model[1].weight.data.uniform_(0.5, 2)
    order = torch.tensor([4, 2, 8, 0, 1, 7, 5, 3, 6])
    other = copy.deepcopy(model)
    other[0].weight.data = model[0].weight.data[order]
    other[1].weight.data = model[1].weight.data[order]
    other[5].weight.data = model[5].weight.data[:, order]
    model, other = as_needed(name, model), as_needed(name, other)
    graph = trace(model, image())
    one, two = (score(net, graph, name, data()) for net in (model, other))
    assert torch.allclose(one.values["0"][order], two.values["0"])
    for m in (3, 5):
        assert set(order[two.keep("0", m)].tolist()) == set(one.keep("0", m).tolist())


@pytest.mark.parametrize("name", ALL)
def test_every_criterion_works_on_half_precision(name: str) -> None:
    model = as_needed(name, plain(8).to(torch.bfloat16))
    batches = [(x.to(torch.bfloat16), y) for x, y in data()]
    scores = score(model, trace(model, image().to(torch.bfloat16)), name, batches)
    assert scores.values["0"].isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, bad: float, graph: ChannelGraph) -> None:
    for where, text in ((3, "3.weight holds 1 values"), (4, "4.weight holds 1 values")):
        model = plain(7, 6)
        model[where].weight.data.view(-1)[2] = bad
        with pytest.raises(WeightsError, match=text):
            score(model, graph, name, data())


def test_statistics_that_are_not_finite_are_refused_by_name(graph: ChannelGraph) -> None:
    model = plain(7, 6)
    model[4].running_var[0] = float("nan")
    with pytest.raises(WeightsError, match=r"4\.running_var holds 1 values"):
        score(model, graph, "l2")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_met_with_a_suggestion(network: nn.Module, graph: ChannelGraph) -> None:
    with pytest.raises(UnknownName, match="unknown criterion 'fpfd': did you mean 'fpdf'"):
        score(network, graph, "fpfd")


@pytest.mark.parametrize(("spec", "said"), [
    ("fpdf:bins", "expected an option such as bins=4, found 'bins'"), ("fpdf:bins=", "found 'bins='"),
    ("fpdf:bins=many", "found 'bins=many'"), ("fpdf:bin=4", "no option 'bin'; its options are bins, norm"),
    ("l2:norm=1", "no option 'norm'; it has none"), ("fpdf:bins=0", "bins=0 must be a whole number, 1 or more"),
    ("fpdf:bins=2.5", "bins=2.5 must be a whole number"), ("fpdf:norm=3", "norm=3 must be 1 or 2"),
    ("random:seed=-1", "seed=-1 must be a whole number"), ("random:seed=0.5", "seed=0.5 must be a whole number"),
])  # fmt: skip
def test_bad_options_are_refused(spec: str, said: str, network: nn.Module, graph: ChannelGraph) -> None:
    with pytest.raises(CriterionError) as caught:
        score(network, graph, spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_criterion_that_needs_data_says_so(network: nn.Module, graph: ChannelGraph) -> None:
    for batches, said in ((None, "pass batches"), ([], "the batches are empty")):
        with pytest.raises(CriterionError, match=f"'taylor' needs data.*{said}"):
            score(network, graph, "taylor", batches)


@pytest.mark.parametrize("batch", [
    (torch.zeros(2, 4, 4, 4), torch.zeros(2).long()), (torch.zeros(2, 3, 4, 4), torch.zeros(3).long()),
    (torch.zeros(2, 3, 4, 4), torch.full((2,), 5)), (torch.zeros(2, 3, 4, 4), torch.zeros(2, 5).long()),
])  # fmt: skip
def test_data_that_does_not_fit_is_refused_in_one_line(
    batch: tuple[Tensor, Tensor], network: nn.Module, graph: ChannelGraph
) -> None:
    with pytest.raises(CriterionError, match="needs batches") as caught:
        score(network, graph, "taylor", [batch])
    assert "\n" not in str(caught.value)


def test_bn_scale_without_any_batch_norm_is_refused_with_advice() -> None:
    model = residual()
    with pytest.raises(CriterionError, match=r"no batch norm with a scale.*such as l2 or fpdf"):
        score(model, trace(model, image()), "bn_scale")


def test_groups_that_bn_scale_cannot_see_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1))
    assert score(model, trace(model, image()), "bn_scale").unscored == {
        "2": "no batch norm with a scale on these channels"
    }


@pytest.mark.parametrize("wrong", [
    lambda evidence: torch.zeros(3), lambda evidence: torch.zeros(evidence.channels, 1),
    lambda evidence: torch.full((evidence.channels,), math.nan),
])  # fmt: skip
def test_a_criterion_of_the_users_own_is_checked(wrong: object, network: nn.Module, graph: ChannelGraph) -> None:
    with pytest.raises(CriterionError, match="'mine' must return one number for each of the 7 channels of '0'"):
        score(network, graph, Criterion("mine", wrong))  # type: ignore[arg-type]


def test_a_criterion_of_the_users_own_needs_no_registration(network: nn.Module, graph: ChannelGraph) -> None:
    mine = Criterion("last_first", lambda evidence: -torch.arange(evidence.channels).double())
    plan = allocate(graph, score(network, graph, mine), Target(per_layer={"0": 0.5}))
    assert plan.removed == {"0": (4, 5, 6)}


def test_evidence_holds_what_was_asked_for(network: nn.Module, graph: ChannelGraph) -> None:
    seen: dict[str, Evidence] = {}

    def look(needs: str) -> Criterion:
        def keep(evidence: Evidence) -> Tensor:
            seen[needs] = evidence
            return torch.zeros(evidence.channels)

        return Criterion(needs, keep, needs=needs)  # type: ignore[arg-type]

    for needs in ("filters", "scales", "contributions", "nothing"):
        score(network, graph, look(needs), data())
    assert seen["filters"].filters[0].shape == (6, 7 * 9)
    assert seen["filters"].filters[0].dtype == torch.float64
    assert seen["scales"].scales[0].shape == (6,)
    assert seen["contributions"].contributions is not None
    assert seen["contributions"].contributions.shape == (3, 6)
    assert seen["nothing"] == Evidence("3", channels=6)


def test_what_is_chosen_later_is_chosen_by_the_weights_that_were_scored() -> None:
    model = plain(8)
    scores = score(model, trace(model, image()), "fpdf")
    before = scores.keep("0", 4)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(8, 3, 3, 3))
    assert torch.equal(scores.keep("0", 4), before)
