"""The head can be trained alone first, and rates fall toward the input; both are the same after an interruption."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_runs import PLAIN, network, shapes, tensors

from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import SparseScales
from slimcnn.training import Training, fit
from slimcnn.training.depth import layers_by_depth, rate_shares
from slimcnn.training.optimizers import SHARE, optimizer_for

FROZEN = Training(epochs=3, batch_size=32, learning_rate=0.05, frozen_epochs=1, depth_decay=0.1, keep="last", **PLAIN)
HEAD = {"6.weight", "6.bias"}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_frozen_epoch_trains_the_head_alone_and_leaves_the_statistics_of_batch_norm() -> None:
    model = network()
    model[0].bias = None
    before, epochs = tensors(model), fit(model, shapes(64), training=FROZEN)
    next(epochs)
    assert changed(before, model) == HEAD
    next(epochs)
    assert changed(before, model) == set(before)
    epochs.close()


def test_frozen_batch_norms_keep_their_statistics_and_train_their_scales() -> None:
    model = network()
    before = tensors(model)
    (epoch,) = fit(
        model, shapes(64), training=Training(epochs=1, batch_size=32, frozen_batch_norm=True, keep="last", **PLAIN)
    )
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert statistics
    assert changed(before, model) >= set(before) - statistics - {"0.bias"}
    assert not changed(before, model) & statistics
    assert epoch.epoch == 1


def test_a_caller_who_stops_in_a_frozen_epoch_gets_back_a_network_that_trains_everywhere() -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    epochs = fit(model, shapes(64), training=FROZEN)
    next(epochs)
    assert sum(parameter.requires_grad for parameter in model.parameters()) == len(HEAD)
    epochs.close()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_parameters_that_the_user_froze_stay_frozen_in_all_epochs() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    before = tensors(model)
    list(fit(model, shapes(64), training=FROZEN))
    assert "0.weight" not in changed(before, model)


class Interrupting:
    """Progress that raises KeyboardInterrupt, as Ctrl-C does, after so many steps."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, done: int, _: int) -> None:
        if done == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 2, 3, 5])  # two steps an epoch: within and after the frozen epoch, and later
def test_interrupted_anywhere_it_ends_with_the_same_bits(at: int, tmp_path) -> None:
    training = FROZEN.model_copy(update={"save_every_seconds": 0, "ema": 0.9})
    whole, parts = network(), network()
    wanted = list(fit(whole, shapes(64), training=training))
    with pytest.raises(KeyboardInterrupt):
        list(fit(parts, shapes(64), training=training, folder=tmp_path, progress=Interrupting(at)))
    parts = network()
    found = list(fit(parts, shapes(64), training=training, folder=tmp_path))
    assert [epoch.loss for epoch in found] == [epoch.loss for epoch in wanted]
    assert not changed(tensors(whole), parts)


def test_rates_fall_toward_the_input_by_the_formula_and_groups_are_the_same_at_every_start() -> None:
    model, x = network(), torch.zeros(1, 2, 8, 8)
    assert list(layers_by_depth(model, x)) == ["0", "1", "6"]
    groups = [optimizer_for(model, FROZEN, rate_shares(model, x, 0.01)).param_groups for _ in range(2)]
    found = [(group[SHARE], group["weight_decay"], [p.dim() for p in group["params"]]) for group in groups[0]]
    wanted = [(1, 5e-4, [2]), (1, 0, [1]), (0.1, 0, [1, 1]), (0.01, 5e-4, [4])]
    assert found == [(pytest.approx(share), decay, dims) for share, decay, dims in wanted]
    assert [[id(p) for p in group["params"]] for group in groups[0]] == [
        [id(p) for p in group["params"]] for group in groups[1]
    ]


def test_a_step_moves_each_layer_by_its_share_of_the_rate() -> None:
    plain = Training(epochs=1, batch_size=64, momentum=0, weight_decay=0, keep="last", **PLAIN)
    moved = []
    for decay in (1.0, 0.01):
        model = network(dropout=0)
        before = tensors(model)
        list(fit(model, shapes(64), training=plain.model_copy(update={"depth_decay": decay})))
        moved.append({name: model.state_dict()[name] - before[name] for name in ("0.weight", "1.weight", "6.weight")})
    for name, share in (("0.weight", 0.01), ("1.weight", 0.1), ("6.weight", 1.0)):
        torch.testing.assert_close(moved[1][name], share * moved[0][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frozen", [2, 5])
def test_at_least_one_epoch_trains_all_layers(frozen: int) -> None:
    with pytest.raises(ValueError, match=f"frozen_epochs {frozen} must be below epochs 2: the others train all layers"):
        Training(epochs=2, frozen_epochs=frozen)


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        (network(), {"head": "fc"}, "head = 'fc': the network has no module of this name"),
        (network(), {"head": "2"}, "head = '2' has no trainable parameters"),
        (nn.Sequential(nn.Flatten(), nn.Linear(128, 4)), {}, "1 is the only trainable layer: leave frozen_epochs out"),
    ],
)
def test_a_head_that_cannot_be_trained_alone_is_refused(model: nn.Module, more: dict[str, str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        next(fit(model, shapes(64), training=FROZEN.model_copy(update=more)))


def test_an_objective_that_changes_all_weights_refuses_frozen_layers() -> None:
    with pytest.raises(RecipeError, match=r"SparseScales changes weights of all layers.*leave frozen_epochs out"):
        next(fit(network(), shapes(64), training=FROZEN, objective=SparseScales(1e-4)))
