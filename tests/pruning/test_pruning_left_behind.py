"""An optimizer that goes on stepping the network before the cut, on nothing, says so; all others are left alone."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks_to_prune import image, plain
from torch import Tensor, nn
from torch.optim import LBFGS, SGD
from torch.optim import optimizer as torch_optimizer

from slimcnn.errors import OptimizerError
from slimcnn.graph import trace
from slimcnn.pruning import optimizer_transfer
from slimcnn.pruning.optimizer_transfer import watch_optimizers


def two_networks() -> tuple[nn.Module, nn.Module, SGD]:
    """A network that was cut, the pruned one, and an optimizer of the first."""
    old, new = plain(4), plain(3)
    watch_optimizers(old, trace(old, image()))
    return old, new, SGD(old.parameters(), lr=0.1, momentum=0.9)


def loss_of(model: nn.Module) -> Tensor:
    return model(torch.randn(4, 3, 4, 4)).square().sum()


def left_behind(step: Callable[[], Any], words: str = "no gradient") -> None:
    with pytest.raises(
        OptimizerError, match=f"SGD holds the parameters of a Sequential .*they have {words},"
    ) as caught:
        step()
    assert "carry(optimizer, old, new, plan)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("to_none", [True, False])
def test_an_optimizer_of_the_old_network_raises_when_the_loss_is_that_of_the_new(to_none: bool) -> None:
    old, new, sgd = two_networks()
    loss_of(old).backward()
    sgd.step()
    before = copy.deepcopy(old.state_dict())
    sgd.zero_grad(set_to_none=to_none)
    loss_of(new).backward()
    left_behind(sgd.step)
    assert all(torch.equal(before[name], tensor) for name, tensor in old.state_dict().items())


def test_an_optimizer_that_steps_on_the_same_gradients_again_raises() -> None:
    old, new, sgd = two_networks()
    loss_of(old).backward()
    sgd.step()
    for _ in range(2):
        loss_of(new).backward()
        left_behind(sgd.step, "no new gradient")
    loss_of(old).backward()
    sgd.step()


def test_the_old_network_trains_on() -> None:
    old, new, sgd = two_networks()
    fused = SGD([*old.parameters(), *new.parameters()], lr=0.1)
    before = old[0].weight.clone()
    for to_none in (True, False, True):
        sgd.zero_grad(set_to_none=to_none)
        loss_of(old).backward()
        sgd.step()
    loss_of(old).backward()  # without zero_grad
    sgd.step()
    assert not torch.equal(before, old[0].weight)
    sgd.zero_grad()
    loss_of(new).backward()
    fused.step()  # parameters of the new network are in it too


def test_a_step_within_a_step_is_one_step() -> None:
    class Outer(SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    old = two_networks()[0]  # with an SGD, which makes PyTorch announce SGD's own step as well
    outer = Outer(old.parameters(), lr=0.1)
    for _ in range(2):
        loss_of(old).backward()
        outer.step()


def test_with_a_closure_the_question_is_asked_after_the_step() -> None:
    old, new, sgd = two_networks()

    def closure(model: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            sgd.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        return run

    sgd.step(closure(old))
    sgd.step(closure=closure(old))
    LBFGS(old.parameters(), lr=1e-3).step(closure(old))
    left_behind(lambda: sgd.step(closure(new)))


def test_other_optimizers_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    _old, new, sgd = two_networks()
    looked: list[Tensor | None] = []
    monkeypatch.setattr(optimizer_transfer, "_is_nonzero", lambda gradient: looked.append(gradient) or True)
    SGD(new.parameters(), lr=0.1).step()  # without any gradient, as PyTorch allows
    assert not looked
    sgd.step()
    assert len(looked) == 1, "the watch does not work at all"


def test_hooks_are_registered_once_and_networks_are_forgotten() -> None:
    old, _, sgd = two_networks()
    hooks = len(torch_optimizer._global_optimizer_pre_hooks)
    more = [plain(4) for _ in range(3)]
    for model in (*more, *more, old):
        watch_optimizers(model, trace(model, image()))
    assert len(torch_optimizer._global_optimizer_pre_hooks) == hooks > 0
    loss_of(old).backward()
    sgd.step()
    parameters = [weakref.ref(p) for model in (*more, old) for p in model.parameters()]
    numbers, optimizers = {id(there()) for there in parameters}, len(optimizer_transfer._LAST)
    assert numbers <= optimizer_transfer._CUT.keys()
    del model, more, old, sgd
    gc.collect()
    assert not any(there() for there in parameters)
    assert not numbers & optimizer_transfer._CUT.keys()
    assert len(optimizer_transfer._LAST) < optimizers
