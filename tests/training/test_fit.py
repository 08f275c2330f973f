import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import PLAIN, network, shapes, tensors

from slimcnn.datasets import batches, steps
from slimcnn.errors import ModelError, RecipeError, TrainingDiverged
from slimcnn.objectives import Loss, cross_entropy
from slimcnn.training import Training, evaluate, fit

SHORT = Training(epochs=2, batch_size=32, learning_rate=0.05, **PLAIN)


def with_settings(**changes) -> Training:
    return Training(**(SHORT.model_dump() | changes))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a).values(), tensors(b).values(), strict=True))


def test_a_network_learns():
    epochs = list(fit(network(), shapes(), training=with_settings(epochs=8)))
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].validation_metric > 95
    assert epochs[-1].train_accuracy > 80
    assert epochs[-1].loss < epochs[0].loss
    assert all(epoch.images_per_second > 0 and epoch.seconds > 0 and not epoch.resumed for epoch in epochs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_the_textbook_loop(optimizer):
    """An independent loop: PyTorch's optimizers, scheduler and clipping, the average by its formula."""
    training = with_settings(optimizer=optimizer, ema=0.8, clip_norm=1.0, learning_rate=0.02, label_smoothing=0.1)
    data, model = shapes(), network(dropout=0.0)
    decayed = [model[0].weight, model[6].weight]
    rest = [model[1].weight, model[1].bias, model[6].bias]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    if optimizer == "sgd":
        descent = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)
    else:
        descent = torch.optim.AdamW(groups, lr=0.02)
    count = steps(data.train, 32)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(descent, 2 * count)
    average: dict[str, torch.Tensor] = {}
    losses = []
    for epoch in range(2):
        feed = batches(
            data.train, 32, normalization=data.normalization, augmentation=data.augmentation, seed=0, epoch=epoch
        )
        for x, y in feed:
            descent.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            cosine.step()
            losses += [loss.item()] * len(y)
            now = tensors(model)
            average = {k: 0.8 * average[k] + 0.2 * v for k, v in now.items()} if average else now

    ours = network(dropout=0.0)
    found = list(fit(ours, data, training=training))
    for name, tensor in tensors(ours).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name], msg=name)
    assert found[0].loss == pytest.approx(sum(losses[:203]) / 203)
    assert found[1].loss == pytest.approx(sum(losses[203:]) / 203)
    assert tensors(ours)["1.num_batches_tracked"] == 2 * count


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_weights_in_hand_are_those_that_were_validated(ema):
    data, model = shapes(), network()
    for epoch in fit(model, data, training=with_settings(epochs=3, ema=ema)):
        assert not model.training
        assert evaluate(model, data.validation, data.normalization).loss == pytest.approx(epoch.validation_loss)
        kept = tensors(model)
        if epoch.epoch == 2:
            break
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors(model).items())


def test_the_network_is_handed_back_as_it_was_found():
    model = network()
    model[3].eval()
    modes, parameters = [m.training for m in model.modules()], list(model.parameters())
    list(fit(model, shapes(), training=with_settings(layout="channels_last")))
    assert [m.training for m in model.modules()] == modes
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(p.is_contiguous() and p.grad is None for p in model.parameters())


def test_seed_decides_everything_and_the_caller_keeps_the_random_state():
    weights = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        expected = torch.rand(3)
        torch.manual_seed(noise)
        model = network()
        list(fit(model, shapes(), training=with_settings(seed=seed)))
        assert torch.equal(torch.rand(3), expected)
        weights.append(model)
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_layout_changes_nothing_but_speed():
    models = [network(dropout=0.0), network(dropout=0.0)]  # dropout draws its mask in the order of the memory
    for model, layout in zip(models, ["nchw", "channels_last"], strict=True):
        list(fit(model, shapes(), training=with_settings(layout=layout)))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_mixed_precision_trains_float32_weights():
    model = network()
    *_, last = fit(model, shapes(), training=with_settings(precision="bf16-mixed", epochs=6))
    assert last.validation_metric > 90
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_progress_counts_every_step_of_the_run():
    seen = []
    list(fit(network(), shapes(), training=SHORT, progress=lambda *step: seen.append(step)))
    assert seen == [(done, 14) for done in range(1, 15)]  # 203 images are 7 batches of 32


def test_terms_sum_to_the_loss():
    def objective(model, x, y) -> Loss:
        loss = cross_entropy()(model, x, y)
        decay = 0.01 * sum(p.square().sum() for p in model.parameters())
        return Loss({**loss.terms, "size": decay}, loss.logits)

    for epoch in fit(network(), shapes(), training=SHORT, objective=objective):
        assert list(epoch.terms) == ["cross_entropy", "size"]
        assert epoch.terms["size"] > 0
        assert sum(epoch.terms.values()) == pytest.approx(epoch.loss)


def test_a_diverging_run_names_its_moment_and_keeps_the_last_good_state(tmp_path):
    def poisoned(model, x, y) -> Loss:
        loss = cross_entropy()(model, x, y)
        calls.append(1)
        poison = loss.logits.sum() * (math.nan if len(calls) == 10 else 0.0)
        return Loss({**loss.terms, "extra": poison}, loss.logits)

    calls: list[int] = []
    training = with_settings(save_every_seconds=0)
    with pytest.raises(
        TrainingDiverged, match=r"term 'extra' is nan at step 3 of 7 of epoch 2, learning rate 0\.0"
    ) as e:
        list(fit(network(), shapes(), training=training, objective=poisoned, folder=tmp_path))
    assert str(tmp_path) in str(e.value)
    assert "\n" not in str(e.value)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 2)
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    assert len(list(fit(network(), shapes(), training=training, objective=poisoned, folder=tmp_path))) == 2


def test_weights_that_overflow_behind_a_finite_loss_are_never_saved(tmp_path):
    class Explosive(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (math.inf if len(calls) == 4 else 1)

    def objective(model, x, y) -> Loss:
        calls.append(1)
        return cross_entropy()(lambda images: Explosive.apply(model(images)), x, y)

    calls: list[int] = []
    with pytest.raises(TrainingDiverged, match="'cross_entropy' is nan at step 5"):
        list(
            fit(network(), shapes(), training=with_settings(save_every_seconds=0), objective=objective, folder=tmp_path)
        )
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3


def test_a_huge_learning_rate_diverges_instead_of_returning_a_broken_network():
    with pytest.raises(TrainingDiverged, match=r"at step 2 of 7 of epoch 1, learning rate 9\.875e\+29"):
        list(fit(network(), shapes(), training=with_settings(learning_rate=1e30)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(classes=3), "has 3 outputs, but the labels have 4 classes"),
        (nn.Conv2d(3, 4, 8), "does not accept images"),
        (nn.Conv2d(2, 4, 3), "a classifier returns"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(128, 4).requires_grad_(False)),
            "no parameter of the network requires a gradient",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(model, message):
    with pytest.raises(ModelError, match=message) as caught:
        next(fit(model, shapes(), training=SHORT))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_by_name():
    model = network()
    model[6].bias.data[1] = math.nan
    with pytest.raises(ModelError, match=r"6\.bias has values that are not finite"):
        next(fit(model, shapes(), training=SHORT))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(RecipeError, match="label_smoothing"):
        fit(network(), shapes(), training=with_settings(label_smoothing=0.1), objective=cross_entropy())
    with pytest.raises(RecipeError, match="needs a CUDA device"):
        next(fit(network(), shapes(), training=with_settings(precision="16-mixed")))


def test_a_fabric_brings_processes_not_precision():
    from lightning_fabric import Fabric

    with pytest.raises(RecipeError, match=r"Training\(precision"):
        next(fit(network(), shapes(), training=SHORT, fabric=Fabric(accelerator="cpu", precision="bf16-mixed")))
    model, plain = network(), network()
    list(fit(model, shapes(), training=SHORT, fabric=Fabric(accelerator="cpu", devices=1)))
    list(fit(plain, shapes(), training=SHORT))
    assert same(model, plain)


@pytest.mark.slow
def test_compiled_training_is_eager_training():
    eager, compiled = network(dropout=0.0), network(dropout=0.0)
    list(fit(eager, shapes(), training=SHORT))
    list(fit(compiled, shapes(), training=with_settings(compile=True)))
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
