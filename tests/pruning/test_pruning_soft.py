"""Soft pruning: filters that were zeroed may come back, and the choice of filters follows the beginning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn import SoftPruning, Target
from slimcnn.errors import CriterionError, PlanError
from slimcnn.objectives import cross_entropy
from slimcnn.pruning import verify
from slimcnn.pruning.scores import rows

IMAGE = torch.zeros(1, 1, 8, 8)
TRAINING = slimcnn.Training(epochs=3, layout="nchw", precision="32", learning_rate=0.05)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = slimcnn.build("resnet8", in_channels=1).eval()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.bias.fill_(0.5)  # behind a shift of zero, a ReLU would pass no gradient to filters that are zero
        for weight in model.parameters():
            if weight.dim() == 4:  # norms of many sizes
                weight.mul_(torch.linspace(0.5, 3, len(weight))[torch.randperm(len(weight))].view(-1, 1, 1, 1))
    return model


def prepared(criterion: str = "fpdf") -> tuple[nn.Module, slimcnn.ChannelGraph, SoftPruning]:
    model = network()
    graph = slimcnn.trace(model, IMAGE)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, criterion), Target(pruning_ratio=0.5))
    return model, graph, SoftPruning(model, graph, plan)


def filters(model: nn.Module, graph: slimcnn.ChannelGraph, group: str) -> Tensor:
    """The filters of a group that is made by all of one layer."""
    axis = graph[group].filters[0]
    return model.get_parameter(axis.parameter).detach()


def norms(model: nn.Module, graph: slimcnn.ChannelGraph, group: str) -> Tensor:
    """The norms of a group's filters in the first layer that makes them."""
    axis = graph[group].filters[0]
    return rows(model.get_parameter(axis.parameter), axis).norm(dim=1)


def test_the_plan_is_zero_at_once_and_nothing_else_is() -> None:
    model, graph, soft = prepared()
    fresh = network()
    for group, gone in soft.plan.removed.items():
        assert (norms(model, graph, group)[list(gone)] == 0).all()
        kept = [c for c in range(graph[group].channels) if c not in gone]
        assert torch.equal(norms(model, graph, group)[kept], norms(fresh, graph, group)[kept])


def test_scales_and_shifts_stay_so_that_gradients_reach_what_is_zero() -> None:
    model, graph, soft = prepared()
    model.train()(torch.randn(8, 1, 8, 8)).square().mean().backward()
    group = next(g for g in graph.groups if not g.residual)
    weight = model.get_parameter(group.filters[0].parameter)
    gone = list(soft.plan.removed[group.name])
    assert (weight[gone] == 0).all()
    assert (weight.grad[gone].flatten(1).abs().sum(dim=1) > 0).all()


def test_small_filters_that_come_back_do_not_take_the_places_of_large_ones() -> None:
    """The reference is the beginning: the choice does not drift towards what has just been zeroed."""
    model, graph, soft = prepared()
    kept = {name: set(range(graph[name].channels)) - set(gone) for name, gone in soft.plan.removed.items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, gone in soft.plan.removed.items():
            axis = graph[name].filters[0]
            weight, places = model.get_parameter(axis.parameter), axis.positions[list(gone)].reshape(-1)
            noise = torch.randn(weight[places].shape, generator=generator)
            weight[places] = noise * 1e-3 * weight.std()
    for name, gone in soft.choose(zero=False).removed.items():
        assert set(range(graph[name].channels)) - set(gone) == kept[name]


def test_a_filter_that_grows_where_one_is_missing_comes_back() -> None:
    model, graph, soft = prepared("fpdf:fit=optimal")
    name = next(group.name for group in graph.groups if not group.residual)
    gone, weight = list(soft.plan.removed[name]), filters(model, graph, name)
    largest = int(norms(model, graph, name).argmax())
    with torch.no_grad():  # the largest filter's role goes over to one that is zero
        weight[gone[0]], weight[largest] = weight[largest].clone(), 0
    removed = soft.choose(zero=False).removed[name]
    assert gone[0] not in removed
    assert largest in removed


def test_filters_are_chosen_at_the_start_of_every_epoch_and_the_last_choice_can_be_cut() -> None:
    model, graph, soft = prepared()
    dataset = slimcnn.load_dataset("digits").limit(400)
    counts, plans = soft.plan.counts(graph).tolist(), [soft.plan]
    for _ in slimcnn.fit(model, dataset, training=TRAINING, objective=soft.objective()):
        plans.append(soft.plan)
    assert plans[0] is plans[1]  # the first epoch trains with the plan that was given
    assert len({id(plan) for plan in plans[1:]}) == TRAINING.epochs
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    plan = soft.choose(zero=False)
    assert all(torch.equal(weight, trained[name]) for name, weight in model.state_dict().items())
    assert plan.counts(graph).tolist() == counts
    small = slimcnn.prune(model, graph, plan)
    assert verify(slimcnn.mask(model, graph, plan), small, graph, plan).equal


def test_chosen_filters_are_zero_when_an_epoch_begins_and_come_back_in_it() -> None:
    model, graph, soft = prepared("l2")
    seen = []

    class Watching(slimcnn.Objective):
        def before_step(self, epoch: float) -> None:
            zeros = sum(int((norms(model, graph, name) == 0).sum()) for name in soft.plan.removed)
            seen.append((epoch, zeros))

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> slimcnn.Loss:
            return cross_entropy()(model, x, y)

    dataset = slimcnn.load_dataset("digits").limit(300)
    list(slimcnn.fit(model, dataset, training=TRAINING, objective=soft.objective(Watching())))
    number = sum(len(gone) for gone in soft.plan.removed.values())
    assert [zeros for epoch, zeros in seen if epoch == int(epoch)] == [number] * TRAINING.epochs
    assert all(zeros < number for epoch, zeros in seen if epoch != int(epoch))


@pytest.mark.parametrize("criterion", ["fpdf", "l2"])
@pytest.mark.parametrize("steps_done", [2, 3, 4, 5])
def test_interrupted_at_any_step_and_resumed_it_ends_with_the_same_plan_and_weights(
    tmp_path: Path, criterion: str, steps_done: int
) -> None:
    """Three steps an epoch: interrupted in mid-epoch, and where one epoch ends and the next one begins."""
    dataset = slimcnn.load_dataset("digits").limit(300)
    training = TRAINING.model_copy(update={"save_every_seconds": 0.0})

    def run(folder: Path, stop_after: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
        def interrupt(done: int, total: int) -> None:
            if done == stop_after:
                raise KeyboardInterrupt

        model, _, soft = prepared(criterion)
        objective = soft.objective()
        list(slimcnn.fit(model, dataset, training=training, objective=objective, folder=folder, progress=interrupt))
        return dict(soft.choose(zero=False).removed), model.state_dict()

    plan, weights = run(tmp_path / "whole", stop_after=99)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_after=steps_done)
    again, weights_again = run(tmp_path / "parts", stop_after=99)
    assert again == plan
    assert all(torch.equal(weights[name], tensor) for name, tensor in weights_again.items())
    finished, _ = run(tmp_path / "parts", stop_after=99)
    assert finished == plan


def test_what_cannot_choose_anew_is_refused() -> None:
    model = network()
    graph = slimcnn.trace(model, IMAGE)
    plan = slimcnn.Plan(graph.fingerprint, {"layer1.0.conv1": (0, 1)})
    with pytest.raises(CriterionError, match="names no criterion"):
        SoftPruning(model, graph, plan)
    for criterion in ("taylor", "reconstruction"):
        with pytest.raises(CriterionError, match=f"'{criterion}' needs data"):
            SoftPruning(model, graph, plan, criterion)
    with pytest.raises(PlanError):
        SoftPruning(model, graph, slimcnn.Plan("another", {"layer1.0.conv1": (0,)}), "l2")


def test_a_plan_by_hand_is_followed_in_its_numbers() -> None:
    model = network()
    graph = slimcnn.trace(model, IMAGE)
    soft = SoftPruning(model, graph, slimcnn.Plan(graph.fingerprint, {"layer1.0.conv1": (0, 1, 2)}), "l2")
    assert (norms(model, graph, "layer1.0.conv1")[:3] == 0).all()
    model.load_state_dict(network().state_dict())  # in place of a training
    smallest = norms(model, graph, "layer1.0.conv1").argsort()[:3].tolist()
    assert soft.choose(zero=False).removed == {"layer1.0.conv1": tuple(sorted(smallest))}
