"""Pictures are scaled and cropped as published weights expect: the pixels of torchvision, in memory and streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from slimcnn.datasets import load_dataset
from slimcnn.datasets.scaling import Scaling
from slimcnn.errors import DataError


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for k in range(20):
            photo(31 + k, 40 - number, k).save(tmp_path / name / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(40, 31), (31, 47), (32, 32), (20, 21), (333, 50)])
@pytest.mark.parametrize("crop", [(28, 28), (21, 28), (32, 31)])
def test_pixels_are_those_of_torchvisions_resize_and_center_crop(
    width: int, height: int, crop: tuple[int, int], interpolation: str
) -> None:
    picture = photo(width, height)
    theirs = v2.Compose([v2.Resize(32, v2.InterpolationMode(interpolation)), v2.CenterCrop(crop)])(picture)
    ours = Scaling(32, interpolation).apply(picture, crop)  # type: ignore[arg-type]
    assert ours.size == crop[::-1]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("size", [12, (12, 16)])
def test_memory_and_stream_are_scaled_alike(photos: Path, size: int | tuple[int, int]) -> None:
    memory, stream = (
        load_dataset(photos, image_size=size, resize=18, interpolation="bilinear", stream=each)
        for each in (False, True)
    )
    plain = load_dataset(photos, image_size=size)
    assert memory.shape == plain.shape == (3, 12, 12 if size == 12 else 16)
    assert memory.scaling == stream.scaling == Scaling(18, "bilinear")
    assert torch.equal(memory.test.in_memory().pixels, stream.test.in_memory().pixels)
    assert not torch.equal(memory.test.in_memory().pixels, plain.test.in_memory().pixels)


def test_a_crop_larger_than_the_scaled_picture_is_refused(photos: Path) -> None:
    for size in (20, (12, 20)):
        with pytest.raises(DataError, match=r"resize is 18, smaller than the image_size (12x)?20"):
            load_dataset(photos, image_size=size, resize=18)
    with pytest.raises(DataError, match="no image_size, which is cropped from the center, is given"):
        load_dataset(photos, resize=18)
    with pytest.raises(DataError, match="digits has images of one size"):
        load_dataset("digits", image_size=16, resize=18)


def test_masks_and_boxes_of_a_rectangular_size_fit_their_images() -> None:
    data = load_dataset("digits").limit(20)
    assert load_dataset("digits", image_size=(8, 8)).shape == data.shape
    assert load_dataset("digits", image_size=(16, 12), limit=20).shape == (1, 16, 12)
