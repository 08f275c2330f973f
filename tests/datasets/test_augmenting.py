"""Augmentations by name: what they change, that they repeat, and that masks and boxes follow their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimcnn.datasets import Augmentation, Images, Normalization, augmentations, batches
from slimcnn.datasets.augmenting import OnEachImage, parts_of, refuse_for_task
from slimcnn.errors import DataError, RecipeError, SlimcnnError, UnknownName

PLAIN = Normalization.none(3)
EACH_IMAGE = [one.name for one in augmentations if isinstance(one.value(), OnEachImage)]


def noise(n: int = 6, channels: int = 3, side: int = 12) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n))


def epoch(images: Images, others: str, normalization: Normalization = PLAIN, **asked: int) -> Tensor:
    feed = batches(images, 4, normalization=normalization, augmentation=Augmentation(others=others), **asked)
    return torch.cat([x for x, _ in feed])


def by_label(images: Images, others: str, **asked: int) -> dict[int, Tensor]:
    feed = batches(images, 4, normalization=PLAIN, augmentation=Augmentation(others=others), **asked)
    return {int(one): pixels for x, y in feed for pixels, one in zip(x, y, strict=True)}


@pytest.mark.parametrize("name", EACH_IMAGE)
def test_every_transform_changes_images_keeps_their_shape_and_repeats_by_seed_and_epoch(name: str) -> None:
    images = noise(24)
    one, again = (epoch(images, name, seed=3, epoch=2) for _ in range(2))
    assert one.shape == (24, 3, 12, 12)
    assert torch.equal(one, again)
    assert bool((one >= 0).all())
    assert bool((one <= 255).all())
    plain = by_label(images, "", seed=3)
    changed = {key for key, x in by_label(images, name, seed=3).items() if not torch.equal(x, plain[key])}
    later = {key for key, x in by_label(images, name, seed=3, epoch=1).items() if not torch.equal(x, plain[key])}
    assert len(changed) > 2
    assert changed != later or not torch.equal(one, epoch(images, name, seed=3, epoch=3))


@pytest.mark.parametrize("name", EACH_IMAGE)
def test_every_transform_takes_gray_images(name: str) -> None:
    assert epoch(noise(channels=1), name, Normalization.none(1), seed=0).shape == (6, 1, 12, 12)


def test_evaluation_is_never_augmented() -> None:
    images = noise()
    assert torch.equal(epoch(images, "randaugment + random_erasing:probability=1.0"), images.pixels.float())


def test_a_view_of_an_image_is_the_same_pixels_in_every_epoch() -> None:
    one, two = (by_label(noise(), "trivial_augment + color_jitter", seed=1, view=4, epoch=epoch) for epoch in (0, 7))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_shares_of_processes_are_those_of_one() -> None:
    name = "random_resized_crop + randaugment"
    whole = by_label(noise(8), name, seed=5)
    parts = [by_label(noise(8), name, seed=5, rank=rank, world=2) for rank in (0, 1)]
    assert all(torch.equal(whole[key], (parts[0] | parts[1])[key]) for key in whole)


def test_the_fast_path_draws_the_same_crops_whatever_else_is_asked_for() -> None:
    images = Images(noise().pixels * 0 + 200, torch.arange(6))
    asked = {"normalization": PLAIN, "seed": 2}
    alone, with_more = (
        torch.cat([x for x, _ in batches(images, 4, augmentation=chosen, **asked)])
        for chosen in (Augmentation(crop=3), Augmentation(crop=3, others="color_jitter:brightness=0.1"))
    )
    assert torch.equal(alone == 0, with_more == 0)  # the black of the padding
    assert not torch.equal(alone, with_more)


def squares() -> Iterator[tuple[Tensor, int, int]]:
    for number in range(12):
        pixels, top = torch.full((3, 16, 16), 20, dtype=torch.uint8), number % 8
        pixels[:, top : top + 6, 2:10] = 220
        yield pixels, top, 2


def test_masks_move_with_their_pixels() -> None:
    pixels = torch.stack([one for one, _, _ in squares()])
    images = Images(pixels, (pixels[:, 0] > 128).to(torch.uint8))
    chosen = Augmentation(crop=2, flip=True, others="random_resized_crop:smallest=0.3")
    feed = list(batches(images, 4, normalization=PLAIN, augmentation=chosen, seed=0))
    agreement = torch.cat([((x[:, 0] > 128) == (y == 1))[y != 255] for x, y in feed]).float().mean()
    assert agreement > 0.93  # scaled edges are rounded differently; unmoved masks reach 0.7
    assert any(not torch.equal(y, images.labels[:4]) for _, y in feed)


def test_boxes_move_with_their_pixels_and_count_no_more_where_they_have_left() -> None:
    found = list(squares())
    boxes = torch.tensor([[[0.0, left, top, left + 8, top + 6], [-1, 0, 0, 0, 0]] for _, top, left in found])
    images = Images(torch.stack([one for one, _, _ in found]), boxes)
    chosen = Augmentation(flip=True, others="random_resized_crop:smallest=0.2,largest=0.5 + color_jitter")
    kinds = []
    for x, y in batches(images, 4, normalization=PLAIN, augmentation=chosen, seed=0):
        kinds += y[:, 0, 0].tolist()
        assert bool((y[:, 1, 0] == -1).all())
        for pixels, (kind, *corners) in zip(x, y[:, 0], strict=True):
            left, top, right, bottom = (round(float(value)) for value in corners)
            assert 0 <= left <= right <= 16
            if kind == 0 and right - left > 4 and bottom - top > 4:
                inside = pixels[0, top + 1 : bottom - 1, left + 1 : right - 1]
                assert inside.min() > pixels.min()
    assert 0 in kinds


def test_erasing_fills_with_the_mean_color_and_leaves_masks_alone() -> None:
    images = Images(torch.full((8, 3, 16, 16), 255, dtype=torch.uint8), torch.ones(8, 16, 16, dtype=torch.uint8))
    normal = Normalization((0.2, 0.4, 0.6), (0.3, 0.3, 0.3))
    chosen = Augmentation(others="random_erasing:probability=1.0")
    x, y = next(iter(batches(images, 8, normalization=normal, augmentation=chosen, seed=0)))
    assert bool((y == 1).all())
    erased = x.abs().amax(1) < 0.01
    assert 0.02 < erased.float().mean() < 0.4


@pytest.mark.parametrize("name", ["randaugment", "trivial_augment"])
def test_policies_that_move_no_masks_are_refused_where_there_are_some(name: str) -> None:
    refuse_for_task(name, "multilabel", moves=False)
    with pytest.raises(RecipeError, match=f"{name} of torchvision moves pixels, but not their masks and boxes"):
        refuse_for_task(f"flip + {name}", "segmentation", moves=True)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("task", ["detection", "segmentation", "multilabel"])
def test_mixing_is_refused_where_labels_are_no_classes_of_images(name: str, task: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} mixes the classes of images, and the data is for {task}"):
        refuse_for_task(name, task, moves=task != "multilabel")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("randaugmnt", "did you mean 'randaugment'"),
        ("flip:often=1", "no option 'often'; it has none"),
        ("random_erasing:probability=1.5", "probability=1.5 is out of range: give a value of 0 to 1"),
        ("randaugment:magnitude=31", "magnitude=31 is out of range: give a value of 0 to 30"),
        ("randaugment:magnitude=2.5", "magnitude=2.5: expected a whole number"),
        ("color_jitter:hue=0.6", "hue=0.6 is out of range: give a value of 0 to 0.5"),
        ("color_jitter:brightness=-1", "brightness=-1 is out of range"),
        ("random_resized_crop:smallest=0", "smallest=0 is out of range"),
        ("random_resized_crop:smallest=0.5,largest=0.4", "largest=0.4 is out of range: give a value of 0.5 to 1"),
        ("mixup:alpha=0", "alpha=0 is out of range"),
        ("cutmix:alpha=nan", "expected an option such as"),
        ("crop:pixels=0", "pixels=0 is out of range"),
        ("crop + flip + crop:pixels=2", "names crop twice: leave one out"),
        ("none + flip", "none stands alone"),
        ("flip +", "unknown augmentation ''"),
    ],
)
def test_what_is_wrong_with_an_augmentation_is_one_line(spec: str, said: str) -> None:
    with pytest.raises(SlimcnnError, match=said) as caught:
        Augmentation.named(spec)
    assert "\n" not in str(caught.value)


def test_names_stand_for_the_fields_of_an_augmentation_and_none_for_nothing() -> None:
    usual = Augmentation(crop=4, flip=True, others="color_jitter")
    assert Augmentation.named("none", usual) == Augmentation()
    assert Augmentation.named("flip", usual) == Augmentation(flip=True)
    assert Augmentation.named("default + crop:pixels=2 + mixup", usual) == Augmentation(
        crop=2, flip=True, others="color_jitter + mixup"
    )
    assert parts_of("default")[0] == ("default", None)
    with pytest.raises(DataError, match="crop is an argument of its own"):
        Augmentation(others="crop")
    with pytest.raises(UnknownName):
        Augmentation(others="no_such")


def test_the_table_of_the_guide_has_every_augmentation_with_its_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" |", 1) for line in page.splitlines() if line.startswith("| `"))
    ours = [entry for entry in augmentations if entry.value.__module__.startswith("slimcnn.")]  # tests register others
    assert len(ours) > 5
    for entry in ours:
        text = rows[f"`{entry.name}`"]
        for name, one in signature(entry.value).parameters.items():
            assert f"`{name}={one.default}`" in text
