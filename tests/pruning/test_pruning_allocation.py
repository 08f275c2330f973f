"""From scores and a target to a plan: hit, by as little as possible, or told why not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from networks_to_prune import image, plain, residual, widths
from torch import Tensor, nn

import slimcnn
from at_hand import Net
from slimcnn.errors import TargetError, TargetUnreachable
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, Scores, Target, allocate, score


def setting(model: nn.Module, criterion: str = "l2", size: int = 4) -> tuple[ChannelGraph, Scores]:
    graph = trace(model, image(size))
    return graph, score(model, graph, criterion)


def removed(plan: Plan) -> dict[str, int]:
    return {name: len(channels) for name, channels in plan.removed.items()}


def share(graph: ChannelGraph, plan: Plan, kind: str) -> float:
    count = getattr(graph, kind)
    return float(count(plan.counts(graph)) / count())


# --- hitting a target --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("residual_channels", ["auto", "cut"])
@pytest.mark.parametrize(("wanted", "round_to"), [(0.9, 1), (0.5, 1), (0.21, 1), (0.5, 4), (0.3, 2)])
def test_a_target_is_met_and_missed_with_one_step_less(
    kind: str, scope: Any, residual_channels: Any, wanted: float, round_to: int
) -> None:
    graph, scores = setting(residual(24, 36))
    target = Target(**{kind: wanted}, scope=scope, round_to=round_to, residual=residual_channels)  # type: ignore[arg-type]
    plan = allocate(graph, scores, target)
    count, counts = getattr(graph, kind), plan.counts(graph)
    assert count(counts) <= wanted * count()
    given_back = [count(np.maximum(counts - step, 0)) for step in np.eye(len(counts), dtype=np.int64) * round_to]
    assert max(given_back) > wanted * count(), "some step could be left out"


def test_both_targets_are_met_when_both_are_given() -> None:
    graph, scores = setting(plain(12, 16, 24))
    for macs, params in ((0.9, 0.4), (0.4, 0.9)):
        plan = allocate(graph, scores, Target(macs=macs, params=params))
        assert share(graph, plan, "macs") <= macs
        assert share(graph, plan, "params") <= params


def test_a_target_of_everything_removes_nothing() -> None:
    graph, scores = setting(plain(8, 8))
    for target in (Target(macs=1.0), Target(params=1), Target(pruning_ratio=0)):
        assert removed(allocate(graph, scores, target)) == {}


def test_a_local_target_takes_the_same_share_of_every_layer() -> None:
    graph, scores = setting(plain(12, 16, 24))
    counts = allocate(graph, scores, Target(macs=0.4)).counts(graph)
    channels = np.array(list(widths(graph).values()))
    for a, b in itertools.permutations(range(len(counts)), 2):
        assert counts[a] / channels[a] <= (counts[b] + 1) / channels[b]


@pytest.mark.parametrize(
    ("channels", "ratio", "left"), [(16, 0.7, 5), (16, 0.5, 8), (10, 0.3, 7), (10, 0.99, 1), (9, 0.5, 5)]
)
def test_a_ratio_is_rounded_down_without_the_trap_of_binary_fractions(channels: int, ratio: float, left: int) -> None:
    graph, scores = setting(plain(channels))
    assert removed(allocate(graph, scores, Target(pruning_ratio=ratio))) == {"0": channels - left}


def test_a_global_ratio_takes_that_share_of_all_channels_together() -> None:
    graph, scores = setting(plain(12, 16, 24))
    assert sum(removed(allocate(graph, scores, Target(pruning_ratio=0.5, scope="global"))).values()) == 26


def test_a_global_target_takes_the_lowest_scores_first() -> None:
    graph, _ = setting(plain(4, 4))
    values = {"0": torch.tensor([5.0, 1.0, 6.0, 7.0]), "3": torch.tensor([2.0, 8.0, 3.0, 0.5])}
    plan = allocate(graph, Scores("mine", values, comparable=True), Target(pruning_ratio=0.5, scope="global"))
    assert plan.removed == {"0": (1,), "3": (0, 2, 3)}


def test_a_global_target_compares_layers_after_dividing_by_their_mean() -> None:
    graph, _ = setting(plain(4, 4))
    values = {"0": 100 * torch.tensor([1.0, 1.1, 1.2, 1.3]), "3": torch.tensor([0.1, 0.1, 3.0, 3.0])}
    plan = allocate(graph, Scores("mine", values), Target(pruning_ratio=0.25, scope="global"))
    assert plan.removed == {"3": (0, 1)}


def test_of_equal_scores_the_earlier_channel_stays() -> None:
    graph, _ = setting(plain(6))
    plan = allocate(graph, Scores("mine", {"0": torch.ones(6)}), Target(pruning_ratio=0.5))
    assert plan.removed == {"0": (3, 4, 5)}


# --- fences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("round_to", [1, 4, 8, 16])
@pytest.mark.parametrize("min_channels", [1, 5])
def test_kept_counts_respect_rounding_and_the_least_number(scope: Any, round_to: int, min_channels: int) -> None:
    graph, scores = setting(plain(12, 20, 32))
    target = Target(macs=0.55, scope=scope, round_to=round_to, min_channels=min_channels)
    cut = removed(allocate(graph, scores, target))
    assert cut
    for name, channels in widths(graph).items():
        left = channels - cut.get(name, 0)
        assert left == channels or left % round_to == 0
        assert left >= min(min_channels, channels)


@pytest.mark.parametrize("round_to", [4, 8])
def test_a_ratio_with_rounding_keeps_the_next_multiple(round_to: int) -> None:
    graph, scores = setting(plain(20))
    left = 20 - removed(allocate(graph, scores, Target(pruning_ratio=0.5, round_to=round_to)))["0"]
    assert left == {4: 12, 8: 16}[round_to]


def test_protected_layers_keep_all_their_channels() -> None:
    graph, scores = setting(plain(12, 16, 24))
    for pattern in ("3", "4", "[34]"):
        for target in (Target(macs=0.5, protect=(pattern,)), Target(pruning_ratio=0.5, protect=(pattern,)),
                       Target(pruning_ratio=0.3, scope="global", protect=(pattern,))):  # fmt: skip
            assert "3" not in removed(allocate(graph, scores, target))


def test_a_layer_may_have_a_ratio_of_its_own() -> None:
    graph, scores = setting(plain(12, 16, 24))
    assert removed(allocate(graph, scores, Target(per_layer={"0": 0.5, "6": 0.25}))) == {"0": 6, "6": 6}
    with_rest = removed(allocate(graph, scores, Target(macs=0.5, per_layer={"3": 0.25})))
    assert with_rest["3"] == 4
    assert with_rest["0"] > 0
    assert removed(allocate(graph, scores, Target(pruning_ratio=0.5, per_layer={"3": 0.0}))) == {"0": 6, "6": 12}


class Headed(nn.Module):
    """Layers inside modules, a layer whose channels form two groups, and an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Conv2d(6, 8, 1))
        self.split = nn.Conv2d(8, 14, 1)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(10, 5, 1)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(5, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.split(self.body(x)).split([self.left.in_channels, self.right.in_channels], 1)
        return self.head(self.left(one) + self.right(two))  # type: ignore[no-any-return]


def headed() -> tuple[ChannelGraph, Scores]:
    return setting(Headed())


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [("body", {"body.0.0", "body.1"}), ("body.0", {"body.0.0"}), ("b?dy.1", {"body.1"}), ("*.0", {"body.0.0"})],
)
def test_a_modules_name_protects_all_layers_inside_it(pattern: str, kept: set[str]) -> None:
    graph, scores = headed()
    free = {group.name for group in graph.groups}
    plan = allocate(graph, scores, Target(pruning_ratio=0.5, protect=(pattern,)))
    assert set(removed(plan)) == free - kept


def test_every_name_that_a_message_prints_is_accepted_as_it_is_printed() -> None:
    graph, scores = headed()
    names = [group.name for group in graph.groups]
    assert [name for name in names if "[" in name], "a group of a part of a layer's channels"
    for name in names:
        plan = allocate(graph, scores, Target(pruning_ratio=0.5, protect=(name,)))
        assert name not in plan.removed
        assert name in allocate(graph, scores, Target(per_layer={name: 0.5})).removed


@pytest.mark.parametrize("pattern", ["head", "head.1", "head.*"])
def test_protecting_what_is_locked_anyway_is_no_error(pattern: str) -> None:
    graph, scores = headed()
    plain_plan = allocate(graph, scores, Target(pruning_ratio=0.5))
    assert allocate(graph, scores, Target(pruning_ratio=0.5, protect=(pattern,))).removed == plain_plan.removed


def test_a_pattern_with_a_typo_is_refused_with_the_name_that_was_meant() -> None:
    graph, scores = headed()
    for target in (Target(macs=0.5, protect=("body.0.1",)), Target(per_layer={"body.0.1": 0.5})):
        with pytest.raises(TargetError, match=r"the pattern 'body.0.1' matches no layer; did you mean 'body.0.0'\?"):
            allocate(graph, scores, target)


def test_of_two_patterns_the_later_and_over_both_protection_wins() -> None:
    graph, scores = setting(plain(12, 16, 24))
    assert removed(allocate(graph, scores, Target(per_layer={"*": 0.5, "3": 0.25}))) == {"0": 6, "3": 4, "6": 12}
    assert removed(allocate(graph, scores, Target(per_layer={"*": 0.5}, protect=("3",)))) == {"0": 6, "6": 12}


def test_channels_between_blocks_wait_for_those_inside() -> None:
    graph, scores = setting(residual(12, 18))
    assert [group.residual for group in graph.groups] == [True, False, False]
    assert "0" not in removed(allocate(graph, scores, Target(macs=0.6)))
    assert "0" in removed(allocate(graph, scores, Target(macs=0.05)))
    assert "0" in removed(allocate(graph, scores, Target(macs=0.6, residual="cut")))
    for target in (Target(macs=0.3, residual="inner"), Target(pruning_ratio=0.5, residual="inner")):
        assert "0" not in removed(allocate(graph, scores, target))
    assert removed(allocate(graph, scores, Target(per_layer={"0": 0.5}, residual="inner"))) == {"0": 6}


def test_a_squeeze_keeps_two_channels() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).mean((2, 3), keepdim=True).squeeze((1, 2, 3)))

    model = Squeezing()
    graph, scores = setting(model)
    for target in (Target(pruning_ratio=0.99), Target(pruning_ratio=0.75, scope="global"), Target(macs=0.3)):
        plan = allocate(graph, scores, target)
        assert removed(plan) == {"a": 6}
        slimcnn.prune(model, graph, plan)


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(model: nn.Module, target: Target, criterion: str = "l2") -> str:
    graph, scores = setting(model, criterion)
    with pytest.raises(TargetError) as caught:
        allocate(graph, scores, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unreachable_target_says_the_best_and_that_it_is_possible() -> None:
    graph, scores = setting(plain(8, 8))
    with pytest.raises(TargetUnreachable) as caught:
        allocate(graph, scores, Target(macs=0.01))
    assert "cannot reach macs <= 0.01" in str(caught.value)
    best = float(str(caught.value).split("the best possible is macs=")[1].split(";")[0])
    plan = allocate(graph, scores, Target(macs=best + 1e-3))
    assert share(graph, plan, "macs") == pytest.approx(best, abs=1e-3)


def test_an_unreachable_target_names_what_is_in_the_way() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    said = refused(model, Target(macs=0.1, min_channels=2, round_to=4, protect=("2",)))
    for part in (
        "0 (computed across its channels)",
        "4 (the network's output)",
        "protected: 2",
        "round_to=4",
        "min_channels=2",
    ):
        assert part in said


@pytest.mark.parametrize("target", [
    Target(macs=0.5, protect=("*",)), Target(params=0.5, protect=("*",)), Target(pruning_ratio=0.5, protect=("*",)),
    Target(pruning_ratio=0.5, scope="global", protect=("*",)), Target(pruning_ratio=0.5, min_channels=8),
])  # fmt: skip
def test_when_nothing_may_go_the_target_is_unreachable(target: Target) -> None:
    assert "cannot reach" in refused(plain(8, 8), target)


def test_a_ratio_of_less_than_one_channel_says_so() -> None:
    said = refused(plain(8, 8), Target(pruning_ratio=0.1))
    assert "0.1 of the widest group (8 channels) is less than one channel" in said


@pytest.mark.parametrize(
    "target", [Target(macs=0.5), Target(pruning_ratio=0.5), Target(pruning_ratio=0.5, scope="global")]
)
def test_a_network_without_any_free_channel_cannot_be_made_smaller(target: Target) -> None:
    assert "limited by" in refused(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1), nn.Conv2d(8, 5, 1)), target)


@pytest.mark.parametrize("target", [Target(macs=0.5, protect=("layer9.*",)), Target(per_layer={"layer9.*": 0.5})])
def test_a_pattern_that_matches_nothing_is_refused_and_names_are_shown(target: Target) -> None:
    said = refused(plain(8, 8), target)
    assert "'layer9.*' matches no layer" in said
    assert "0, 3" in said


def test_cutting_a_locked_layer_is_refused_with_the_reason() -> None:
    assert "is locked: the network's output" in refused(plain(8, 8), Target(per_layer={"8": 0.5}))
    graph, scores = setting(plain(8, 8))
    assert removed(allocate(graph, scores, Target(pruning_ratio=0.5, protect=("8",)))), "protecting it is no mistake"


def test_cutting_what_the_criterion_cannot_score_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    assert "bn_scale cannot score" in refused(model, Target(per_layer={"2": 0.5}), "bn_scale")
    graph, scores = setting(model, "bn_scale")
    plan = allocate(graph, scores, Target(pruning_ratio=0.5))
    assert removed(plan) == {"0": 4}
    assert plan.notes == ("2 keeps all channels: no batch norm with a scale on these channels",)


def test_scores_of_another_network_are_refused() -> None:
    graph, _ = setting(plain(8, 8))
    for other in (plain(8), plain(8, 9)):
        with pytest.raises(TargetError, match="the scores are for another network: '3' has 8 channels"):
            allocate(graph, setting(other)[1], Target(pruning_ratio=0.5))


# --- facts about published networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet110"])
def test_half_of_the_inner_channels_is_half_of_the_macs_of_a_cifar_resnet(name: str) -> None:
    model = slimcnn.build(name)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    plan = allocate(graph, score(model, graph, "random"), Target(pruning_ratio=0.5, residual="inner"))
    cut = 1 - share(graph, plan, "macs")
    n = (int(name.removeprefix("resnet")) - 2) // 6
    stages = [(16, 32, n), (32, 16, n), (64, 8, n)]
    inner = sum(2 * blocks * 9 * width * width * size * size for width, size, blocks in stages)
    narrower = sum(
        9 * width * width // 2 * size * size for width, size, _ in stages[1:]
    )  # the first of a stage reads half
    stem_and_head = 3 * 16 * 9 * 32 * 32 + 64 * 10
    assert graph.macs() == inner - narrower + stem_and_head
    assert cut == pytest.approx((inner - narrower) / 2 / graph.macs())
    assert 0.49 < cut < 0.5


# --- bytes and running memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("wanted", [0.9, 0.6])
def test_bytes_are_met_and_missed_with_one_step_less(scope: Any, wanted: float) -> None:
    graph, scores = setting(residual(24, 36))
    most = int(wanted * graph.bytes())
    counts = allocate(graph, scores, Target(bytes=most, scope=scope)).counts(graph)
    assert graph.bytes(counts) <= most
    assert max(graph.bytes(np.maximum(counts - step, 0)) for step in np.eye(len(counts), dtype=np.int64)) > most


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("wanted", [0.9, 0.7, 0.4])
def test_memory_is_met_and_nothing_goes_that_does_not_help(scope: Any, wanted: float) -> None:
    graph, scores = setting(residual(24, 36))
    most = int(wanted * graph.peak_memory())
    counts = allocate(graph, scores, Target(memory=most, scope=scope)).counts(graph)
    assert graph.peak_memory(counts) <= most
    for step in np.eye(len(counts), dtype=np.int64):
        assert not (counts @ step) or graph.peak_memory(counts - step) > most, "a channel could have stayed"


def test_memory_spares_layers_that_are_not_alive_at_the_peak() -> None:
    wide_then_small = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(4), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 8, 1), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip
    graph, scores = setting(wide_then_small, size=8)
    most = graph.peak_memory() // 2
    assert set(allocate(graph, scores, Target(memory=most)).removed) == {"0"}
    assert set(allocate(graph, scores, Target(macs=0.5)).removed) == {"0", "2", "3"}


def test_memory_by_sensitivity_costs_less_than_the_same_memory_by_macs() -> None:
    torch.manual_seed(0)
    model = slimcnn.build("resnet8", in_channels=3)
    graph = trace(model, torch.zeros(1, 3, 16, 16))
    scores = slimcnn.sensitivity(model, graph, score(model, graph, "l2"), [torch.randn(24, 3, 16, 16)])

    def cost(plan: Plan) -> float:
        return sum(float(scores.costs[name][: len(gone)].sum()) for name, gone in plan.removed.items())

    most = int(0.7 * graph.peak_memory())
    ours = allocate(graph, scores, Target(memory=most, scope="sensitivity", residual="cut"))
    targets = (Target(macs=m / 50, scope="sensitivity", residual="cut") for m in range(49, 0, -1))
    by_macs = (allocate(graph, scores, target) for target in targets)
    enough = next(plan for plan in by_macs if graph.peak_memory(plan.counts(graph)) <= most)
    assert cost(ours) < 0.7 * cost(enough)


def test_all_quantities_hold_together() -> None:
    graph, scores = setting(residual(24, 36))
    whole = graph.bytes(), graph.peak_memory()
    for shares in ((0.8, 0.9, 0.9, 0.5), (0.8, 0.9, 0.4, 0.9), (0.4, 0.9, 0.9, 0.9), (0.8, 0.4, 0.9, 0.8)):
        target = Target(
            macs=shares[0], params=shares[1], bytes=int(shares[2] * whole[0]), memory=int(shares[3] * whole[1])
        )
        counts = allocate(graph, scores, target).counts(graph)
        assert graph.macs(counts) <= shares[0] * graph.macs()
        assert graph.params(counts) <= shares[1] * graph.params()
        assert graph.bytes(counts) <= shares[2] * whole[0]
        assert graph.peak_memory(counts) <= shares[3] * whole[1]


@pytest.mark.parametrize("kind", ["bytes", "memory"])
def test_bytes_out_of_reach_say_what_is_possible_and_asking_for_that_succeeds(kind: str) -> None:
    graph, scores = setting(plain(24, 24), size=8)
    with pytest.raises(TargetUnreachable, match=rf"cannot reach {kind} <= 10 B.*best possible is {kind}=") as caught:
        allocate(graph, scores, Target(**{kind: 10}))  # type: ignore[arg-type]
    number, unit = str(caught.value).partition(f"{kind}=")[2].split(";")[0].split()
    possible = round(float(number) * {"B": 1, "kB": 1000}[unit])
    assert allocate(graph, scores, Target(**{kind: possible})).removed  # type: ignore[arg-type]
    if kind == "memory":
        assert "the input alone takes 768 B of memory" in str(caught.value)


def two_heads(scale: float) -> nn.Module:
    """A network that returns two maps; the second is scaled."""

    def run(n: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(n.stem(x))
        return n.one(torch.relu(n.inner(y))), scale * n.two(torch.relu(n.other(y)))

    torch.manual_seed(0)
    layers = {name: nn.Conv2d(8, 8, 3, padding=1) for name in ("inner", "other")}
    heads = {name: nn.Conv2d(8, 2, 1) for name in ("one", "two")}
    return Net(run, stem=nn.Conv2d(3, 8, 3, padding=1), **layers, **heads).eval()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_one_of_several_outputs_changes_no_plan(scale: float) -> None:
    plans = []
    for each in (1.0, scale):
        net = two_heads(each)
        graph = trace(net, torch.zeros(1, 3, 8, 8))
        images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        measured = slimcnn.sensitivity(net, graph, score(net, graph, "l2"), [images])
        plans.append(allocate(graph, measured, Target(macs=0.5, scope="sensitivity")).removed)
    assert plans[0] == plans[1]
    assert {"inner", "other"} & set(plans[0])
