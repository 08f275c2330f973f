from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slimcnn.datasets import Dataset, load_dataset, sizing
from slimcnn.datasets import folder as folder_module
from slimcnn.errors import DataError

COLORS = {"blue": (10, 20, 200), "green": (10, 200, 20), "red": (200, 10, 20)}
Paint = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Write `count` images of one color, each with its number in the corner, into `photos/part/class`."""

    def paint(
        part: str, count: int, *, suffix: str = ".png", size: tuple[int, int] = (6, 4), gray: bool = False
    ) -> Path:
        for name, color in COLORS.items():
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = Image.new("RGB", size, color)
                image.putpixel((0, 0), (number, number, number))
                (image.convert("L") if gray else image).save(folder / f"{number}{suffix}")
        return tmp_path / "photos"

    return paint


def numbers(dataset: Dataset, part: str) -> set[tuple[int, int]]:
    images = getattr(dataset, part)
    return {(int(label), int(pixels[0, 0, 0])) for pixels, label in zip(images.pixels, images.labels, strict=True)}


def test_a_folder_per_class_is_split_in_three_and_every_image_is_used_once(paint: Paint) -> None:
    dataset = load_dataset(paint("", 10))
    assert dataset.name == "photos"
    assert dataset.classes == ("blue", "green", "red")
    assert dataset.shape == (3, 4, 6)
    parts = [numbers(dataset, part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [21, 3, 6]
    assert set.union(*parts) == {(label, number) for label in range(3) for number in range(10)}
    for label, color in enumerate(COLORS.values()):
        pixels = dataset.train.pixels[dataset.train.labels == label]
        assert len(pixels) == 7
        assert pixels[:, :, 1:, 1:].eq(torch.tensor(color).view(3, 1, 1)).all()


def test_the_seed_chooses_validation_images_and_never_test_images(paint: Paint) -> None:
    folder = paint("", 20)
    several = [load_dataset(folder, seed=seed) for seed in range(3)]
    assert {frozenset(numbers(each, "test")) for each in several} == {frozenset(numbers(several[0], "test"))}
    assert len({frozenset(numbers(each, "validation")) for each in several}) == 3


def test_which_images_are_held_out_depends_on_their_names_alone(paint: Paint) -> None:
    dataset = load_dataset(paint("", 20), seed=7)

    def first(key: str, name: str, candidates: set[int], count: int) -> set[int]:
        return set(
            sorted(candidates, key=lambda number: sha256(f"{key}/{name}/{number}.png".encode()).digest())[:count]
        )

    for label, name in enumerate(COLORS):
        held_out = [
            {number for each, number in numbers(dataset, part) if each == label} for part in ("test", "validation")
        ]
        assert held_out[0] == first("test", name, set(range(20)), 4)
        assert held_out[1] == first("validation/7", name, set(range(20)) - held_out[0], 2)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_parts_that_are_there_are_taken_as_they_are(paint: Paint, name: str) -> None:
    paint("train", 5)
    paint(name, 2)
    dataset = load_dataset(paint("test", 3))
    assert [len(images) for images in (dataset.train, dataset.validation, dataset.test)] == [15, 6, 9]


def test_only_the_missing_part_is_split_off_the_training_images(paint: Paint) -> None:
    paint("train", 10)
    dataset = load_dataset(paint("test", 3))
    assert [len(images) for images in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 9]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".jpg", ".jpeg", ".webp"])
def test_the_usual_formats_are_read(paint: Paint, suffix: str) -> None:
    dataset = load_dataset(paint("", 10, suffix=suffix))
    assert dataset.shape == (3, 4, 6)
    blue = dataset.train.pixels[dataset.train.labels == 0][:, :, 2:, 2:].float().mean((0, 2, 3))
    assert (blue - torch.tensor([10.0, 20, 200])).abs().max() < 30  # JPEG and WebP lose some
    if suffix.lower() in (".png", ".bmp"):
        assert blue.tolist() == [10, 20, 200]


def test_gray_images_give_one_channel_and_three_beside_a_colored_one(paint: Paint) -> None:
    folder = paint("", 10, gray=True)
    assert load_dataset(folder).shape == (1, 4, 6)
    Image.new("RGB", (6, 4), (1, 2, 3)).save(folder / "red" / "0.png")
    assert load_dataset(folder).shape == (3, 4, 6)


def test_palettes_transparency_and_black_and_white_are_read(paint: Paint) -> None:
    folder = paint("", 10)
    Image.new("RGBA", (6, 4), (200, 10, 20, 7)).save(folder / "red" / "0.png")
    transparent = Image.new("RGB", (6, 4), (200, 10, 20)).quantize(4)
    transparent.save(folder / "red" / "1.png", transparency=bytes([3] * 256))
    Image.new("1", (6, 4), 1).save(folder / "red" / "2.png")
    dataset = load_dataset(folder)
    last = [images.pixels[images.labels == 2, :, 2, 2] for images in (dataset.train, dataset.validation, dataset.test)]
    assert sorted(map(tuple, torch.cat(last).tolist())) == [(200, 10, 20)] * 9 + [(255, 255, 255)]


def test_a_picture_is_turned_the_way_the_camera_was_held(paint: Paint) -> None:
    folder = paint("", 10)
    image = Image.new("RGB", (4, 6), (200, 10, 20))
    image.putpixel((0, 5), (99, 99, 99))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise: the lower left corner comes to the upper left
    image.save(folder / "red" / "0.png", exif=exif)
    found = set.union(*(numbers(load_dataset(folder), part) for part in ("train", "validation", "test")))
    assert (2, 99) in found


def test_normalization_is_measured_on_the_training_images(paint: Paint) -> None:
    dataset = load_dataset(paint("", 10))
    x = dataset.normalization(dataset.train.pixels)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    assert dataset.augmentation.flip


def test_with_an_image_size_the_shorter_side_is_scaled_and_the_centre_cut_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number, size in enumerate([(40, 20), (20, 40), (20, 20), (100, 60)] * 2):
            wide = np.zeros((size[1], size[0], 3), np.uint8)
            side = min(size)
            top, left = (size[1] - side) // 2, (size[0] - side) // 2
            wide[top : top + side, left : left + side] = 255
            Image.fromarray(wide).save(tmp_path / name / f"{number}.png")
    dataset = load_dataset(tmp_path, image_size=10)
    assert dataset.shape == (3, 10, 10)
    assert dataset.train.pixels[:, :, 1:-1, 1:-1].min() > 250
    assert dataset.train.pixels.min() > 200  # the outermost pixels see a little of what was cut off
    with pytest.raises(DataError, match=r"mixed sizes: .*/a/0.png is 40 x 20, .*/a/1.png is 20 x 40; give image_size"):
        load_dataset(tmp_path)


def spoil(kind: str, folder: Path) -> str:
    """Do one thing wrong in a good folder and say what the message must have."""
    target = folder / "red" / "3.png"
    if kind == "empty class":
        (folder / "purple").mkdir()
        return "purple is empty"
    if kind == "only hidden files in a class":
        (folder / "purple").mkdir()
        (folder / "purple" / ".DS_Store").write_text("")
        return "purple is empty"
    if kind == "no image":
        (folder / "red" / "notes.txt").write_text("nice")
        return "red/notes.txt is not an image"
    if kind == "a folder in a class":
        (folder / "red" / "more.png").mkdir()
        return "red/more.png is not an image"
    if kind == "text called png":
        target.write_text("nice")
        return "red/3.png is broken: not a readable image"
    if kind == "truncated":
        target.write_bytes(target.read_bytes()[:-30])
        return "red/3.png is broken"
    if kind == "empty file":
        target.write_bytes(b"")
        return "red/3.png is broken"
    if kind == "a GIF called png":
        Image.new("RGB", (6, 4)).save(target, "GIF")
        return "red/3.png is broken"
    if kind == "mixed sizes":
        Image.new("RGB", (6, 5)).save(target)
        return "blue/0.png is 6 x 4, .*red/3.png is 6 x 5; give image_size"
    if kind == "16 bits":
        Image.fromarray(np.zeros((4, 6), np.uint16)).save(target)
        return "red/3.png has the pixel format I;16: expected 8 bits"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("empty class", "only hidden files in a class", "no image", "a folder in a class", "text called png"),
        *("truncated", "empty file", "a GIF called png", "mixed sizes", "16 bits"),
    ],
)
def test_what_is_wrong_in_a_folder_is_said_with_the_files_name(paint: Paint, kind: str) -> None:
    folder = paint("", 10)
    load_dataset(folder)
    message = spoil(kind, folder)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(folder)
    assert "\n" not in str(caught.value)


def test_hidden_and_loose_files_do_not_disturb(paint: Paint) -> None:
    folder = paint("", 10)
    (folder / "README.md").write_text("Photos")
    (folder / ".git").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "red" / name).write_text("")
    assert load_dataset(folder).classes == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train", "tset"], "has the folders train, tset: expected train, and optionally"),
        (["train", "val", "validation"], "has the folders train, val, validation"),
        (["val", "test"], "has test, val but no train folder"),
    ],
)
def test_parts_with_other_names_are_refused(paint: Paint, parts: list[str], message: str) -> None:
    for part in parts:
        folder = paint(part, 4)
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


def test_a_class_that_training_lacks_is_refused(paint: Paint) -> None:
    paint("train", 4)
    folder = paint("test", 4)
    (folder / "test" / "red").rename(folder / "test" / "pink")
    with pytest.raises(DataError, match="test has the class 'pink', train does not"):
        load_dataset(folder)


def test_a_class_that_test_lacks_is_fine(paint: Paint) -> None:
    folder = paint("train", 10)
    (folder / "test").mkdir()
    for name in ("blue", "red"):
        (folder / "test" / name).mkdir()
        Image.new("RGB", (6, 4)).save(folder / "test" / name / "0.png")
    assert load_dataset(folder).test.labels.tolist() == [0, 2]


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    for number in range(classes):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (6, 4)).save(tmp_path / str(number) / "0.png")
    with pytest.raises(DataError, match=rf"at least two classes, found {classes} folder"):
        load_dataset(tmp_path)


def test_too_few_images_to_split_are_refused(paint: Paint) -> None:
    with pytest.raises(DataError, match="cannot hold out 1 of 3 images in 3 classes"):
        load_dataset(paint("", 1))


def test_more_images_than_memory_are_refused_before_they_are_read(
    paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paint("", 10)
    monkeypatch.setattr(sizing.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 2, "SC_PHYS_PAGES": 1000}[name])
    with pytest.raises(DataError, match=r"30 images of \(3, 4, 6\) need .* GB but this machine has"):
        load_dataset(folder)


def test_a_relative_folder_has_its_own_name(paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paint("", 10))
    dataset: Any = load_dataset(".")
    assert dataset.name == "photos"


def test_a_limit_decodes_only_the_images_it_leaves_and_they_are_those_of_a_later_limit(
    paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paint("", 30)
    later = load_dataset(folder, seed=1).limit(6)
    decoded: list[Path] = []
    whole = folder_module.decode
    monkeypatch.setattr(folder_module, "decode", lambda paths, look: decoded.extend(paths) or whole(paths, look))
    first = load_dataset(folder, seed=1, limit=6)
    assert len(decoded) == 18
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).pixels, getattr(later, part).pixels)
        assert torch.equal(getattr(first, part).labels, getattr(later, part).labels)


def test_a_limit_holds_for_datasets_by_name() -> None:
    assert [len(getattr(load_dataset("digits", limit=20), part)) for part in ("train", "validation", "test")] == [
        20
    ] * 3
