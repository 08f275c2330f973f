from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimcnn.datasets import Augmentation, Dataset, Images, Normalization
from slimcnn.errors import DataError


def some(n: int = 6, shape: tuple[int, int, int] = (3, 5, 4), classes: int = 3) -> Images:
    return Images(torch.randint(256, (n, *shape), dtype=torch.uint8), torch.arange(n) % classes)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "found torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"shape \(2, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"shape \(2,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), "found torch.int32"),
    ],
)
def test_images_of_another_kind_are_refused(pixels: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Images(pixels, labels)


def test_take_gives_images_with_their_labels_in_the_order_asked() -> None:
    images = some()
    taken = images.take(torch.tensor([4, 1]))
    assert torch.equal(taken.pixels, images.pixels[[4, 1]])
    assert taken.labels.tolist() == [1, 1]


def test_limit_keeps_the_classes_shares_and_more_than_all_is_all() -> None:
    images = some(60)
    assert torch.bincount(images.limit(30).labels).tolist() == [10, 10, 10]
    assert torch.equal(images.limit(30).pixels, images.limit(30).pixels)
    assert not torch.equal(images.limit(30, seed=1).pixels, images.limit(30).pixels)
    assert len(images.limit(59)) == 59
    assert images.limit(60) is images
    with pytest.raises(DataError, match="limit 60 images to 0"):
        images.limit(0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4)])
def test_measured_normalization_is_numpys_mean_and_deviation(shape: tuple[int, int, int]) -> None:
    images = some(20, shape)
    scaled = images.pixels.numpy() / 255
    measured = Normalization.measured(images.pixels)
    np.testing.assert_allclose(measured.mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured.std, scaled.std((0, 2, 3)), rtol=1e-10)


def test_normalized_pixels_have_mean_zero_and_deviation_one() -> None:
    pixels = some(50).pixels
    x = Normalization.measured(pixels)(pixels)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_normalization_is_the_usual_formula() -> None:
    pixels, normal = some().pixels, Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (normal.mean, normal.std))
    torch.testing.assert_close(normal(pixels), (pixels.float() / 255 - mean) / std, atol=1e-6, rtol=1e-6)


def test_images_of_a_single_gray_can_be_normalized() -> None:
    pixels = torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)
    assert Normalization.measured(pixels)(pixels).abs().max() < 1e-5


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))])
def test_a_normalization_that_makes_no_sense_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="found"):
        Normalization(mean, std)


def test_a_normalization_for_other_channels_is_refused() -> None:
    with pytest.raises(DataError, match="has 1 channels, the images have 3"):
        Normalization((0.5,), (0.5,))(some().pixels)


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"cutout": -2}])
def test_a_negative_augmentation_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="cannot be negative"):
        Augmentation(**wrong)  # type: ignore[arg-type]


def dataset(**changes: object) -> Dataset:
    parts: dict[str, object] = {"train": some(), "validation": some(), "test": some()}
    normal = Normalization((0.5,) * 3, (0.5,) * 3)
    return Dataset("mine", ("a", "b", "c"), **{**parts, **changes}, normalization=normal, augmentation=Augmentation())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": some(classes=4)}, "mine: test images have labels 0 to 3, but there are 3 classes"),
        ({"validation": some(0)}, "mine: no validation images"),
        ({"test": some(shape=(3, 4, 4))}, r"test images are \(3, 4, 4\), train images \(3, 5, 4\)"),
    ],
)
def test_a_dataset_whose_parts_do_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)


def test_a_limited_dataset_is_smaller_in_every_part() -> None:
    quick = dataset(train=some(30)).limit(5)
    assert (len(quick.train), len(quick.validation), len(quick.test), quick.shape) == (5, 5, 5, (3, 5, 4))


def test_images_move_with_their_labels() -> None:
    moved = some().to("meta")
    assert moved.pixels.device.type == moved.labels.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_dataset_moves_with_all_its_images() -> None:
    moved = dataset().to("cuda")
    assert all(
        images.pixels.is_cuda and images.labels.is_cuda for images in (moved.train, moved.validation, moved.test)
    )
