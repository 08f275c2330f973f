"""Training with mixed images and with accumulated gradients: the same numbers, resumed, and refused with the reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import PLAIN, shapes, tensors
from training_runs import network as small_network

from slimcnn.datasets import Dataset, Images, Normalization
from slimcnn.datasets.transforms.mixing import cutmix, mixup
from slimcnn.errors import RecipeError
from slimcnn.objectives import cross_entropy
from slimcnn.training import Epoch, Training, fit
from slimcnn.training.mixing import mixed_pairs

ALL = "default + random_resized_crop:smallest=0.5 + randaugment + random_erasing + mixup + cutmix"


def dataset(n: int) -> Dataset:
    """Images with colors: some transforms need them."""
    data = shapes(n)
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    colored = {name: Images(one.pixels[:, [0, 1, 1]].contiguous(), one.labels) for name, one in parts.items()}
    return replace(data, **colored, normalization=Normalization((0.3,) * 3, (0.2,) * 3))


def network(**options: Any) -> nn.Module:
    model = small_network(**options)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model[0] = nn.Conv2d(3, 6, 3, padding=1)  # type: ignore[operator]
    return model


class Cut(Exception):
    pass


def fitted(training: Training, data: Dataset, model: nn.Module, **more: object) -> list[Epoch]:
    return list(fit(model, data, training=training, **more))  # type: ignore[arg-type]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"augmentation": ALL},
        {"accumulate": 3, "augmentation": "mixup", "ema": 0.9},
        {"optimizer": "adamw", "accumulate": 2},
        {"optimizer": "lamb"},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "clip_norm": 1.0},
    ],
    ids=lambda settings: ",".join(map(str, settings.values())),
)
def test_a_training_cut_in_the_middle_of_an_epoch_ends_with_the_same_bits(settings: dict, tmp_path: Path) -> None:
    if settings.get("optimizer") == "lamb":
        pytest.importorskip("timm")
    data = dataset(n=90)
    training = Training(epochs=2, batch_size=16, save_every_seconds=0, **settings, **PLAIN)
    whole, cut, resumed = network(), network(), network()
    fitted(training, data, whole)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise Cut

    with pytest.raises(Cut):
        fitted(training, data, cut, folder=tmp_path, progress=interrupt)
    steps: list[int] = []
    fitted(training, data, resumed, folder=tmp_path, progress=lambda done, _: steps.append(done))
    assert steps[0] in (4, 5)  # with accumulated gradients, from the last step of the optimizer
    assert equal(tensors(whole), tensors(resumed))
    assert not equal(tensors(whole), tensors(network()))


@pytest.mark.parametrize("n", [96, 84, 70])
def test_accumulated_gradients_are_those_of_one_large_batch(n: int) -> None:
    """Also where the last batches are fewer and smaller: every image weighs the same."""
    one, other = (network(batch_norm=False, dropout=0.0) for _ in range(2))
    data = dataset(n=n)
    fitted(Training(epochs=2, batch_size=32, augmentation="none", **PLAIN), data, one)
    fitted(Training(epochs=2, batch_size=8, accumulate=4, augmentation="none", **PLAIN), data, other)
    for a, b in zip(tensors(one).values(), tensors(other).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_follows_the_steps_of_the_optimizer() -> None:
    data = dataset(n=96)
    (large,) = fitted(Training(batch_size=32, epochs=1, **PLAIN), data, network())
    (small,) = fitted(Training(batch_size=8, epochs=1, accumulate=4, **PLAIN), data, network())
    assert large.learning_rate == small.learning_rate


def test_more_batches_than_an_epoch_has_cannot_be_accumulated() -> None:
    with pytest.raises(RecipeError, match="accumulate=7: an epoch has 6 batches of 16 images"):
        fitted(Training(epochs=1, batch_size=16, accumulate=7, **PLAIN), dataset(n=90), network())


def test_a_missing_timm_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match=r"lamb needs the package timm: pip install 'slimcnn\[timm\]'"):
        fitted(Training(epochs=1, optimizer="lamb", **PLAIN), dataset(n=90), network())


def test_the_optimizers_have_their_usual_learning_rates() -> None:
    names = ("sgd", "adamw", "lamb", "rmsprop")
    assert [Training(optimizer=name).learning_rate for name in names] == [0.1, 0.001, 0.005, 0.01]


def test_mixup_is_the_weighted_mean_of_a_pair_and_the_last_of_an_odd_number_stays_whole() -> None:
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5)
    mixed, (first, second), share = mixed_pairs(x, y, [mixup(1.0)], "a")
    assert second.tolist() == [1, 0, 3, 2, 4]
    torch.testing.assert_close(mixed[0], share * x[0] + (1 - share) * x[1])
    torch.testing.assert_close(mixed[4], x[4])
    assert torch.equal(first, y)


def test_the_share_of_cutmix_is_that_of_the_pixels() -> None:
    x = torch.stack([torch.full((3, 16, 16), float(value)) for value in (0, 1)])
    shares = []
    for number in range(40):
        mixed, _, share = mixed_pairs(x, torch.arange(2), [cutmix(1.0)], str(number))
        assert float((mixed[0] == 0).float().mean()) == pytest.approx(share)
        shares.append(share)
    assert 0.5 <= min(shares) < 0.7
    assert max(shares) > 0.9


def test_pairs_are_the_same_for_two_processes_with_even_shares() -> None:
    x, y = torch.rand(8, 3, 6, 6), torch.arange(8)
    for key in "abc":
        whole, labels, share = mixed_pairs(x, y, [mixup(0.4), cutmix(1.0)], key)
        halves = [mixed_pairs(x[part], y[part], [mixup(0.4), cutmix(1.0)], key) for part in (slice(4), slice(4, 8))]
        assert torch.equal(whole, torch.cat([half[0] for half in halves]))
        assert torch.equal(labels[1], torch.cat([half[1][1] for half in halves]))
        assert {share} == {half[2] for half in halves}


def test_a_loader_is_mixed_but_not_augmented() -> None:
    batch = (torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(RecipeError, match="a loader gives images that are ready for a network"):
        next(fit(model, [batch], training=Training(epochs=1, augmentation="mixup + color_jitter", **PLAIN)))
    seen: list[Tensor] = []
    objective = cross_entropy()
    mixed = objective.mixed

    def noted(forward: nn.Module, x: Tensor, *rest: object) -> object:
        seen.append(x)
        return mixed(forward, x, *rest)  # type: ignore[arg-type]

    objective.mixed = noted  # type: ignore[assignment, method-assign]
    list(fit(model, [batch], training=Training(epochs=1, augmentation="mixup:alpha=100", **PLAIN), objective=objective))
    assert len(seen) == 1
    assert not torch.equal(seen[0], batch[0])
