from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimcnn.datasets import Augmentation, Images, Normalization, batches, steps
from slimcnn.errors import DataError

NORMAL = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PLAIN = Normalization((0.0,), (1 / 255,))
"""Leaves pixels as they are: x = pixel."""
ALL = Augmentation(crop=2, flip=True, cutout=3)


def some(n: int, shape: tuple[int, int, int] = (3, 8, 6)) -> Images:
    return Images(torch.randint(256, (n, *shape), dtype=torch.uint8), torch.arange(n))


def join(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_without_a_seed_all_images_come_in_order_and_not_augmented() -> None:
    images = some(11)
    pairs = list(batches(images, 4, normalization=NORMAL, augmentation=ALL))
    assert [len(y) for _, y in pairs] == [4, 4, 3]
    x, y = join(pairs)
    torch.testing.assert_close(x, NORMAL(images.pixels), atol=0, rtol=0)
    assert y.tolist() == list(range(11))


def test_with_a_seed_every_image_comes_once_in_an_order_of_its_epoch() -> None:
    images = some(50)
    orders = [
        join(list(batches(images, 8, normalization=NORMAL, seed=seed, epoch=epoch)))[1].tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert list(range(50)) not in orders


def test_not_augmented_means_the_very_pixels() -> None:
    images = some(20)
    x, y = join(list(batches(images, 8, normalization=NORMAL, seed=3)))
    assert torch.equal(x, NORMAL(images.pixels)[y])


@pytest.mark.parametrize("start", [0, 1, 3, 6, 7, 9])
def test_starting_in_mid_epoch_gives_the_rest_of_the_epoch(start: int) -> None:
    images = some(26)
    arguments = {"normalization": NORMAL, "augmentation": ALL, "seed": 5, "epoch": 2}
    whole = list(batches(images, 4, **arguments))
    assert len(whole) == 7
    torch.rand(17)  # somebody else's use of random numbers
    rest = list(batches(images, 4, **arguments, start=start))
    assert len(rest) == max(7 - start, 0)
    for (x, y), (x_whole, y_whole) in zip(rest, whole[start:], strict=True):
        assert torch.equal(x, x_whole)
        assert torch.equal(y, y_whole)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "size"), [(48, 12), (49, 12), (50, 12), (53, 12), (59, 12), (7, 12)])
def test_ranks_together_see_exactly_the_batches_of_one_process(n: int, size: int, world: int) -> None:
    images = some(n)
    arguments = {"normalization": NORMAL, "augmentation": ALL, "seed": 1, "epoch": 4}
    alone = list(batches(images, size, **arguments))[: steps(images, size, world=world)]
    ranks = [list(batches(images, size, **arguments, rank=rank, world=world)) for rank in range(world)]
    assert [len(pairs) for pairs in ranks] == [steps(images, size, world=world)] * world
    assert len(alone) > 0
    for step, (x, y) in enumerate(alone):
        shards = [pairs[step] for pairs in ranks]
        assert all(len(labels) for _, labels in shards)
        assert torch.equal(join(shards)[0], x)
        assert torch.equal(join(shards)[1], y)
        if len(y) == size:
            assert {len(labels) for _, labels in shards} == {size // world}


def test_the_last_batch_is_dropped_only_if_a_rank_would_get_nothing() -> None:
    images = some(9)
    assert [steps(images, 4, world=world) for world in (1, 2, 4)] == [3, 2, 2]
    assert [len(y) for _, y in batches(images, 4, normalization=NORMAL, seed=0)] == [4, 4, 1]
    assert [len(y) for _, y in batches(images, 4, normalization=NORMAL, seed=0, rank=1, world=2)] == [2, 2]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_together_evaluate_every_image_once(world: int) -> None:
    images = some(10)
    seen = [
        y.tolist() for rank in range(world) for _, y in batches(images, 4, normalization=NORMAL, rank=rank, world=world)
    ]
    assert sorted(label for labels in seen for label in labels) == list(range(10))
    assert all(seen)


def windows(image: np.ndarray, crop: int, flip: bool) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every crop and mirror of one image, as a person would write it: pad, cut, turn."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)))
    found = {}
    for down in range(2 * crop + 1):
        for right in range(2 * crop + 1):
            window = padded[:, down : down + height, right : right + width]
            found[down, right, False] = window
            if flip:
                found[down, right, True] = window[:, :, ::-1]
    return found


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(crop=1), Augmentation(flip=True), Augmentation(crop=2, flip=True)],
    ids=["crop", "flip", "both"],
)
def test_every_image_is_one_of_its_windows_and_all_windows_are_equally_likely(augmentation: Augmentation) -> None:
    images = Images(torch.randint(1, 256, (900, 1, 5, 4), dtype=torch.uint8), torch.arange(900))
    drawn: dict[tuple[int, int, bool], int] = {}
    for x, y in batches(images, 100, normalization=PLAIN, augmentation=augmentation, seed=0):
        for pixels, label in zip(x.round().to(torch.uint8).numpy(), y.tolist(), strict=True):
            choices = windows(images.pixels[label].numpy(), augmentation.crop, augmentation.flip)
            match = [how for how, window in choices.items() if np.array_equal(window, pixels)]
            assert len(match) == 1
            drawn[match[0]] = drawn.get(match[0], 0) + 1
    ways = (2 * augmentation.crop + 1) ** 2 * (2 if augmentation.flip else 1)
    assert len(drawn) == ways
    expected = 900 / ways
    chi_squared = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi_squared < ways - 1 + 4 * (2 * ways) ** 0.5


def test_all_channels_are_moved_together() -> None:
    gray = torch.randint(256, (30, 1, 6, 6), dtype=torch.uint8)
    images = Images(gray.expand(-1, 3, -1, -1), torch.arange(30))
    normal = Normalization((0.0,) * 3, (1.0,) * 3)
    for x, _ in batches(images, 10, normalization=normal, augmentation=Augmentation(crop=3, flip=True), seed=0):
        assert torch.equal(x[:, 0], x[:, 1])
        assert torch.equal(x[:, 0], x[:, 2])


def test_a_crop_sees_black_around_the_image() -> None:
    white = Images(torch.full((200, 3, 4, 4), 255, dtype=torch.uint8), torch.zeros(200, dtype=torch.int64))
    x, _ = next(batches(white, 200, normalization=NORMAL, augmentation=Augmentation(crop=1), seed=0))
    for channel, (mean, std) in enumerate(zip(NORMAL.mean, NORMAL.std, strict=True)):
        values = sorted(x[:, channel].unique().tolist())
        assert values == pytest.approx([-mean / std, (1 - mean) / std], abs=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_a_hole_is_a_square_of_the_mean_color_around_any_pixel(side: int) -> None:
    images = Images(torch.full((600, 1, 7, 5), 255, dtype=torch.uint8), torch.zeros(600, dtype=torch.int64))
    normal = Normalization((0.5,), (0.5,))
    x, _ = next(batches(images, 600, normalization=normal, augmentation=Augmentation(cutout=side), seed=0))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    expected = set()
    for y in range(7):
        for column in range(5):
            image = np.ones((7, 5))
            top, left = y - side // 2, column - side // 2
            image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
            expected.add(image.astype(np.float32).tobytes())
    assert {image.numpy().tobytes() for image in x} == expected


def test_one_augmentation_does_not_disturb_another() -> None:
    images = some(40)
    arguments = {"normalization": NORMAL, "seed": 0}
    cropped = join(list(batches(images, 8, **arguments, augmentation=Augmentation(crop=2))))
    both = join(list(batches(images, 8, **arguments, augmentation=Augmentation(crop=2, cutout=2))))
    assert torch.equal(cropped[1], both[1])
    holes = both[0] == 0
    assert holes.any()
    assert torch.equal(cropped[0][~holes], both[0][~holes])


def test_augmentation_changes_from_epoch_to_epoch() -> None:
    one = some(1)
    images = Images(one.pixels.expand(40, -1, -1, -1), torch.arange(40))  # only the augmentation can differ
    first, second = (
        join(list(batches(images, 8, normalization=NORMAL, augmentation=ALL, seed=0, epoch=epoch)))[0]
        for epoch in (0, 1)
    )
    assert sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True)) > 35


@pytest.mark.parametrize("seed", [None, 0])
def test_channels_last_has_the_same_values_in_another_order_of_memory(seed: int | None) -> None:
    images = some(12)
    arguments = {"normalization": NORMAL, "augmentation": ALL, "seed": seed}
    for (x, _), (plain, _) in zip(
        batches(images, 4, **arguments, memory_format=torch.channels_last),
        batches(images, 4, **arguments),
        strict=True,
    ):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert plain.is_contiguous()
        assert torch.equal(x, plain)


def test_the_images_stay_as_they_are() -> None:
    images = some(12)
    before = images.pixels.clone()
    for seed in (None, 0):
        for x, _ in batches(images, 4, normalization=NORMAL, augmentation=ALL, seed=seed):
            x.zero_()
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size 0"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"start": -1}, "start -1"),
        ({"world": 3, "seed": 0}, "a batch of 4 cannot be split into 3 equal parts"),
        ({"size": 20, "world": 20, "seed": 0}, "10 images are too few for 20"),
        ({"normalization": PLAIN}, "has 1 channels, the images have 3"),
    ],
)
def test_batches_that_cannot_be_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        batches(some(10), **{"size": 4, "normalization": NORMAL, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="0 images are too few"):
        batches(some(0), 4, normalization=NORMAL)


@pytest.mark.parametrize("home", ["cpu", "meta"])
def test_everything_moves_to_the_device_asked_for(home: str) -> None:
    # The meta device has no values, but refuses to be mixed with another one, as a GPU does.
    arguments = {"normalization": NORMAL, "augmentation": ALL, "seed": 0}
    pairs = list(batches(some(10).to(home), 4, **arguments, device="meta"))
    assert [tuple(x.shape) for x, _ in pairs] == [(4, 3, 8, 6), (4, 3, 8, 6), (2, 3, 8, 6)]
    assert all(x.device.type == y.device.type == "meta" for x, y in pairs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_a_gpu_sees_the_batches_of_the_cpu(home: str) -> None:
    images = some(50)
    arguments = {"normalization": NORMAL, "augmentation": ALL, "seed": 0}
    on_gpu = list(batches(images.to(home), 8, **arguments, device="cuda"))
    on_cpu = list(batches(images, 8, **arguments))
    for (x, y), (x_cpu, y_cpu) in zip(on_gpu, on_cpu, strict=True):
        assert x.is_cuda
        assert y.is_cuda
        assert torch.equal(y.cpu(), y_cpu)
        torch.testing.assert_close(x.cpu(), x_cpu, atol=1e-6, rtol=1e-6)
