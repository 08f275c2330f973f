"""An optimizer that is carried across a cut trains on as if nothing had happened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks_to_prune import image, plain, residual
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer, lr_scheduler

from slimcnn.errors import OptimizerError, PlanError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, mask, prune
from slimcnn.pruning.optimizer_transfer import ParameterMap, _group, carry

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]

OPTIMIZERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=1e-3),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=1e-3),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), amsgrad=True, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.05, t0=1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}
"""Optimizers that treat every number for itself."""


class Tied(nn.Module):
    """Two layers with one weight, and a third that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two, self.twice = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(F.relu(self.stem(x))).relu() + self.two(self.stem(x).relu())
        return self.head(self.twice(self.twice(x).relu()).relu().mean((2, 3)))


def grouped() -> nn.Sequential:
    convolutions = nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.ReLU()
    depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.PReLU(8)
    return nn.Sequential(*convolutions, *depthwise, nn.Flatten(), nn.Linear(128, 5))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: plain(8, 12),
    "residual": residual,
    "tied": Tied,
    "grouped": grouped,
}


def build(name: str) -> nn.Module:
    return NETWORKS[name]().double()


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    weights, others = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]
    return [{"params": weights, "name": "weights"}, {"params": others, "weight_decay": 0.0}]


def train(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    F.cross_entropy(model(x), torch.arange(6) % 5).backward()
    optimizer.step()


def thinned(model: nn.Module) -> tuple[ChannelGraph, Plan]:
    """A plan that takes some channels of every group, the same places in each of its parts."""
    graph = trace(model, image().double())
    removed = {}
    for group in graph.groups:
        parts = getattr(group, "parts", ()) or (torch.arange(group.channels).numpy(),)
        removed[group.name] = tuple(int(c) for part in parts for c in part[1 :: max(2, len(part) // 2)])
    assert len(removed) >= 2
    return graph, Plan(graph.fingerprint, removed)


def trained_and_cut(name: str, make: Callable[[Parameters], Optimizer]) -> tuple[Any, ...]:
    """A network that was trained for some steps, with its optimizer, graph, plan and pruned network."""
    model = build(name)
    optimizer = make(two_groups(model))
    for step in range(3):
        train(model, optimizer, step)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.5
    graph, plan = thinned(model)
    return model, optimizer, graph, plan, prune(model, graph, plan, verify=False)


def farthest(a: nn.Module, b: nn.Module) -> float:
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    assert len(pairs) > 3
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


# --- the law -------------------------------------------------------------------------------------------------------


def train_both(name: str, make: Callable[[Parameters], Optimizer]) -> tuple[float, float]:
    """Train the masked network with the old state, and the pruned one with the carried and with a fresh optimizer.

    Gives how far both are from the masked network at last.
    """
    model, optimizer, graph, plan, small = trained_and_cut(name, make)
    masked, forgetful = mask(model, graph, plan), copy.deepcopy(small)
    whole, fresh = make(two_groups(masked)), make(two_groups(forgetful))
    whole.load_state_dict(optimizer.state_dict())
    carried = carry(optimizer, model, small, plan)
    for step in range(10, 14):
        train(masked, whole, step)
        masked.load_state_dict(mask(masked, graph, plan).state_dict())  # momentum may bring removed channels back
        train(small, carried, step)
        train(forgetful, fresh, step)
    law = prune(masked, graph, plan, verify=False)
    assert farthest(law, prune(model, graph, plan, verify=False)) > 1e-3, "nothing was trained"
    return farthest(law, small), farthest(law, forgetful)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_carried_optimizer_trains_the_pruned_network_as_the_old_one_trains_the_masked(
    make: Callable[[Parameters], Optimizer],
) -> None:
    carried, fresh = train_both("batch norm", make)
    assert carried < 1e-10 < 1e-5 < fresh


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_on_as_if_it_had_been_masked(name: str) -> None:
    for make in (OPTIMIZERS["sgd"], OPTIMIZERS["adamw amsgrad"]):
        carried, fresh = train_both(name, make)
        assert carried < 1e-10 < 1e-5 < fresh


# --- what comes along ----------------------------------------------------------------------------------------------


def test_groups_options_counters_and_hooks_come_along() -> None:
    model, optimizer, _graph, plan, small = trained_and_cut("batch norm", OPTIMIZERS["adamw amsgrad"])
    stepped: list[Optimizer] = []
    optimizer.register_step_post_hook(lambda this, args, kwargs: stepped.append(this))
    carried = carry(optimizer, model, small, plan)
    assert type(carried) is type(optimizer)
    assert [id(p) for group in carried.param_groups for p in group["params"]] == [
        id(p) for group in two_groups(small) for p in group["params"]
    ]
    for before, after in zip(optimizer.param_groups, carried.param_groups, strict=True):
        assert {k: v for k, v in before.items() if k != "params"} == {k: v for k, v in after.items() if k != "params"}
    assert carried.param_groups[0]["lr"] is not optimizer.param_groups[0]["lr"]
    assert carried.param_groups[0]["name"] == "weights"
    assert len(carried.state) == len(optimizer.state) > 0
    for parameter, state in carried.state.items():
        assert int(state["step"]) == 3
        assert {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"} <= state.keys()
        assert all(value.shape == parameter.shape for entry, value in state.items() if entry != "step")
    train(small, carried, 0)
    assert stepped == [carried]


def test_momentum_is_that_of_the_kept_channels() -> None:
    model = plain(4, 4)
    sgd = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    sgd.step()
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"0": (1,), "3": (0, 3)})
    small = prune(model, graph, plan, verify=False)
    carried = carry(sgd, model, small, plan)
    before, after = sgd.state[model[3].weight]["momentum_buffer"], carried.state[small[3].weight]["momentum_buffer"]
    assert torch.equal(after, before[[1, 2]][:, [0, 2, 3]])
    assert before.any()


def test_the_old_optimizer_and_network_are_not_changed() -> None:
    model, optimizer, _graph, plan, small = trained_and_cut("residual", OPTIMIZERS["adam"])
    before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    carried = carry(optimizer, model, small, plan)
    train(small, carried, 0)
    carried.param_groups[0]["lr"] = 7.0
    assert optimizer.state_dict()["param_groups"] == before[0]["param_groups"]
    torch.testing.assert_close(optimizer.state_dict()["state"], before[0]["state"], rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), before[1], rtol=0, atol=0)
    own = {value.data_ptr() for state in optimizer.state.values() for value in state.values()}
    assert not own & {value.data_ptr() for state in carried.state.values() for value in state.values()}


def test_an_optimizer_of_some_named_parameters_stays_one() -> None:
    model = plain(8, 8)
    sgd = SGD([(name, p) for name, p in model.named_parameters() if name.startswith("3.")], lr=0.1)
    graph, plan = thinned(model.double())
    small = prune(model, graph, plan, verify=False)
    carried = carry(sgd, model, small, plan)
    assert carried.param_groups[0]["param_names"] == ["3.weight"]
    assert carried.param_groups[0]["params"][0] is small[3].weight
    assert not carried.state


def test_a_tied_weight_has_one_momentum() -> None:
    model, optimizer, _graph, plan, small = trained_and_cut("tied", OPTIMIZERS["sgd"])
    carried = carry(optimizer, model, small, plan)
    assert small.one.weight is small.two.weight
    assert small.one.weight in carried.state
    assert len(carried.state) == len(optimizer.state) == len(list(small.parameters()))


def test_factored_states_are_cut_along_the_axes_that_they_have() -> None:
    model, optimizer, _graph, plan, small = trained_and_cut("batch norm", lambda p: torch.optim.Adafactor(p, lr=0.01))
    carried = carry(optimizer, model, small, plan)
    kept, read = small[3].weight.shape[:2]
    assert (kept, read) < tuple(model[3].weight.shape[:2])
    state = carried.state[small[3].weight]
    assert state["row_var"].shape == (kept, read, 3, 1)
    assert state["col_var"].shape == (kept, read, 1, 3)
    train(small, carried, 0)


def test_an_optimizer_is_carried_across_one_cut_after_another() -> None:
    model, optimizer, graph, plan, small = trained_and_cut("residual", OPTIMIZERS["adam"])
    carried = carry(optimizer, model, small, plan)
    train(small, carried, 5)
    graph, plan = thinned(small)
    smaller = prune(small, graph, plan, verify=False)
    again = carry(carried, small, smaller, plan)
    train(smaller, again, 6)
    assert {int(state["step"]) for state in again.state.values()} == {5}
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in small.parameters())


def test_a_scheduler_on_the_old_optimizer_does_not_come_along_but_a_new_one_works() -> None:
    model, optimizer, _graph, plan, small = trained_and_cut("batch norm", OPTIMIZERS["nesterov"])
    lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    carried = carry(optimizer, model, small, plan)
    before, rate = copy.deepcopy(small.state_dict()), carried.param_groups[0]["lr"]
    scheduler = lr_scheduler.StepLR(carried, 1, gamma=0.1)
    train(small, carried, 0)
    scheduler.step()
    assert carried.param_groups[0]["lr"] == pytest.approx(rate * 0.1)
    assert optimizer.param_groups[0]["lr"] == rate
    assert not torch.equal(before["0.weight"], small[0].weight)


def test_an_optimizer_that_never_stepped_is_carried_with_all_that_it_holds() -> None:
    model = build("batch norm")
    graph, plan = thinned(model)
    small = prune(model, graph, plan, verify=False)
    lbfgs = carry(LBFGS(model.parameters(), line_search_fn="strong_wolfe"), model, small, plan)
    x, y = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.arange(6) % 5

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = F.cross_entropy(small(x), y)
        loss.backward()
        return loss

    first = lbfgs.step(closure)
    assert bool(closure() < first)


def test_parameters_that_a_cut_took_away_leave_their_group() -> None:
    a, b, c = (nn.Parameter(torch.ones(n)) for n in (1, 2, 3))
    passage = ParameterMap("SGD", {id(a): "a", id(b): "b"}, {id(a): None, id(b): c}, {})
    carried = _group({"params": [a, b], "lr": 0.1, "param_names": ["a", "b"]}, passage)
    assert carried["params"][0] is c
    assert carried == {"params": carried["params"], "lr": 0.1, "param_names": ["b"]}


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(error: type[Exception], words: str, *asked: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        carry(*asked)
    assert "\n" not in str(caught.value)


def test_a_parameter_of_another_network_is_refused() -> None:
    model, optimizer, graph, plan, small = trained_and_cut("batch norm", OPTIMIZERS["sgd"])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 2))]})
    refused(OptimizerError, r"parameter 8 of the SGD, of shape \(3, 2\), is not in this Sequential",
            optimizer, model, small, plan, graph)  # fmt: skip
    refused(OptimizerError, "parameter 0 of the Adam", Adam(small.parameters()), model, small, plan, graph)


def test_a_new_network_that_the_plan_does_not_make_is_refused() -> None:
    model, optimizer, graph, plan, _ = trained_and_cut("batch norm", OPTIMIZERS["sgd"])
    refused(
        PlanError, "by the plan, 0.weight has shape .*; in the new network it is", optimizer, model, model, plan, graph
    )
    refused(PlanError, "in the new network it is missing", optimizer, model, nn.Linear(1, 1), plan, graph)


def test_a_graph_or_plan_of_another_network_is_refused() -> None:
    model, optimizer, _, plan, small = trained_and_cut("batch norm", OPTIMIZERS["sgd"])
    other = trace(plain(6, 6), image())
    refused(PlanError, "made for another network", optimizer, model, small, plan, other)
    nothing = Plan(other.fingerprint, {})
    refused(
        PlanError,
        r"0.weight was \(6, 3, 3, 3\), in the old network it is \(8, 3",
        optimizer,
        model,
        small,
        nothing,
        other,
    )


def test_what_cannot_be_cut_is_refused() -> None:
    model, _, graph, plan, small = trained_and_cut("batch norm", OPTIMIZERS["sgd"])
    lbfgs = LBFGS(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = model(image().double() + 1).square().sum()
        loss.backward()
        return loss

    lbfgs.step(closure)
    refused(
        OptimizerError, "the LBFGS keeps '.*' .* for 0.weight .*create a new LBFGS", lbfgs, model, small, plan, graph
    )
    sgd = SGD(model.parameters())
    sgd.inner = Adam(model.parameters())  # type: ignore[attr-defined]
    refused(OptimizerError, r"holds another optimizer \(inner, Adam\)", sgd, model, small, plan, graph)
