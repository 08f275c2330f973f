"""Streams: the same bits as from memory, whoever decodes; and what is said when something goes wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimcnn.datasets import Augmentation, Dataset, Stream, batches, load_dataset, pictures, reading, sizing
from slimcnn.datasets.cache import fingerprint
from slimcnn.datasets.pictures import Survey
from slimcnn.errors import DataError, RunError

CLASSES = ("ants", "bees", "crabs")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise of two sizes, 30 images a class, with the layout of ImageNet: train/ and val/."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 4)):
        for name in CLASSES:
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (12, 9, 3) if number % 2 else (9, 15, 3)
                Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def same(one: Iterator, other: Iterator) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def everything(data: Dataset, part: str = "train", workers: int | None = None, **asked: int) -> Iterator:
    images = getattr(data, part)
    if workers is not None:
        images = Stream(**{**vars(images), "workers": workers})
    plain = {"normalization": load_normal, "augmentation": Augmentation(crop=1, flip=True, cutout=3)}
    return batches(images, 16, **plain, **asked)


load_normal = load_dataset("digits").normalization.__class__((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("asked", [{}, {"seed": 3}, {"seed": 3, "epoch": 2, "start": 2}, {"seed": 3, "view": 1}])
def test_a_stream_gives_the_bits_that_memory_gives_whoever_decodes(photos: Path, workers: int, asked: dict) -> None:
    memory = load_dataset(photos, image_size=8, stream=False)
    stream = load_dataset(photos, image_size=8, stream=True)
    assert (memory.streamed, stream.streamed) == (False, True)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(memory, part).labels, getattr(stream, part).labels)
        assert same(everything(memory, part, **asked), everything(stream, part, workers, **asked))
    assert len(list(everything(stream, workers=0, **asked))) in (3, 5)


MANY = "color_jitter:hue=0.1 + randaugment:operations=3 + trivial_augment + random_erasing:probability=0.5"


def augmented(data: Dataset, others: str, workers: int | None = None, **asked: int) -> Iterator:
    images = data.train if workers is None else Stream(**{**vars(data.train), "workers": workers})
    chosen = Augmentation(crop=1, flip=True, cutout=3, others=others)
    return batches(images, 16, normalization=load_normal, augmentation=chosen, **asked)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("asked", [{"seed": 3, "epoch": 2, "start": 2}, {"seed": 3, "view": 1}])
def test_transforms_give_the_bits_of_memory_whoever_decodes(photos: Path, workers: int, asked: dict) -> None:
    memory, stream = (load_dataset(photos, image_size=8, stream=each) for each in (False, True))
    assert same(augmented(memory, MANY, **asked), augmented(stream, MANY, workers, **asked))
    for rank in (0, 1):
        share = {**asked, "rank": rank, "world": 2}
        assert same(augmented(memory, MANY, **share), augmented(stream, MANY, workers, **share))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resized_crop_of_pictures_that_need_no_scaling_has_the_bits_of_memory(tmp_path: Path, workers: int) -> None:
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(35):
            pixels = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    memory, stream = (load_dataset(tmp_path, stream=each) for each in (False, True))
    crops = f"{MANY} + random_resized_crop"
    assert same(augmented(memory, crops, seed=1), augmented(stream, crops, workers, seed=1))


def test_a_stream_crops_from_the_picture_as_it_was_decoded(tmp_path: Path) -> None:
    """The ends of a wide picture are outside of the square in the center that evaluation reads."""
    for name, color in (("a", 0), ("b", 0)):
        (tmp_path / name).mkdir()
        for number in range(20):
            picture = Image.new("RGB", (40, 10), (color,) * 3)
            picture.paste((255, 255, 255), (15, 0, 25, 10))
            picture.save(tmp_path / name / f"{number}.png")
    data = load_dataset(tmp_path, image_size=10, stream=True)
    plain = {"normalization": data.normalization.none(3), "seed": 0}
    assert min(float(x.min()) for x, _ in batches(data.train, 8, **plain)) == 255
    crops = Augmentation(others="random_resized_crop")
    assert min(float(x.min()) for x, _ in batches(data.train, 8, augmentation=crops, **plain)) == 0


def test_tensors_that_are_ready_for_a_network_cannot_be_transformed() -> None:
    class Ready:
        def __len__(self) -> int:
            return 4

        def name(self, number: int) -> str:
            return f"item {number}"

        @contextmanager
        def open(self, number: int) -> Iterator[torch.Tensor]:
            yield torch.zeros(3, 4, 4)

    stream = Stream(Ready(), torch.arange(4), Survey("ready", (3, 4, 4), fit=False), workers=0)
    crops = Augmentation(others="random_erasing")
    with pytest.raises(DataError, match="item 0 is a tensor that is ready for a network, which cannot be augmented"):
        list(batches(stream, 2, normalization=load_normal, augmentation=crops, seed=0))


def test_the_shares_of_two_processes_are_those_of_memory(photos: Path) -> None:
    memory, stream = (load_dataset(photos, image_size=8, stream=each) for each in (False, True))
    for rank in (0, 1):
        asked = {"seed": 1, "rank": rank, "world": 2}
        assert same(everything(memory, **asked), everything(stream, workers=0, **asked))


def test_chosen_images_are_those_of_memory_and_nothing_is_decoded_to_choose(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = load_dataset(photos, image_size=8, stream=False, limit=9)
    stream = load_dataset(photos, image_size=8, stream=True, limit=9)
    monkeypatch.setattr("slimcnn.datasets.streams.pixels_of", lambda *_: pytest.fail("decoded"))
    chosen = stream.train.limit(6, seed=4).take(torch.tensor([5, 0, 2]))
    monkeypatch.undo()
    wanted = memory.train.limit(6, seed=4).take(torch.tensor([5, 0, 2]))
    assert torch.equal(chosen.in_memory().pixels, wanted.in_memory().pixels)
    assert torch.equal(chosen.labels, wanted.labels)


def test_a_test_part_has_one_fingerprint_in_memory_and_streamed(photos: Path) -> None:
    memory, stream = (load_dataset(photos, image_size=8, stream=each) for each in (False, True))
    assert fingerprint((memory.test,)) == fingerprint((stream.test,))


def test_images_stream_if_two_copies_exceed_the_free_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (90 + 12) * 3 * 8 * 8
    for free, streamed in ((2 * pixels, False), (2 * pixels - 1, True)):
        monkeypatch.setattr(reading, "free_memory", lambda free=free: free)
        assert load_dataset(photos, image_size=8).streamed == streamed
    assert not load_dataset(photos, image_size=8, stream=False).streamed


def test_a_container_leaves_less_memory_than_the_machine(tmp_path: Path) -> None:
    for name, text in (("max", "1000"), ("current", "900"), ("stat", "anon 1\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert sizing._left_in_container(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert sizing._left_in_container(tmp_path) is None
    assert sizing._left_in_container(tmp_path / "none") is None


def spoil(photos: Path) -> Path:
    target = photos / "train" / "bees" / "7.png"
    target.write_bytes(target.read_bytes()[:-300])
    return target


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_in_the_middle_of_an_epoch_is_named_in_one_line(photos: Path, workers: int) -> None:
    data = load_dataset(photos, image_size=8, stream=True)
    spoil(photos)
    with pytest.raises(DataError, match=r"train/bees/7.png is broken: .*; replace or remove it") as caught:
        list(everything(data, workers=workers, seed=0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_counted_if_asked(photos: Path, workers: int) -> None:
    data = load_dataset(photos, image_size=8, stream=True, skip_broken=True)
    whole = [len(y) for _, y in everything(data, workers=workers, seed=0)]
    assert not data.broken
    target = spoil(photos)
    found = list(everything(data, workers=workers, seed=0))
    assert sum(whole) - sum(len(y) for _, y in found) == (str(target) in data.broken) == 1
    assert "is broken" in data.broken[str(target)]


def test_an_image_that_is_left_out_does_not_change_the_others(photos: Path) -> None:
    data = load_dataset(photos, image_size=8, stream=True, skip_broken=True)
    before = list(everything(data, workers=0, seed=0))
    spoil(photos)
    after = list(everything(data, workers=0, seed=0))
    for (x, y), (rest, labels) in zip(before, after, strict=True):
        kept = [i for i in range(len(x)) if any(torch.equal(x[i], one) for one in rest)]
        assert torch.equal(x[kept], rest)
        assert torch.equal(y[kept], labels)
        assert len(kept) in (len(x), len(x) - 1)


def test_in_memory_too_broken_images_are_left_out_if_asked(photos: Path) -> None:
    target = spoil(photos)
    (photos / "train" / "ants" / "0.png").write_bytes(b"no image")
    data = load_dataset(photos, image_size=8, stream=False, skip_broken=True)
    assert set(data.broken) == {str(target), str(photos / "train" / "ants" / "0.png")}
    assert len(data.train) + len(data.test) == 88


def test_a_batch_of_broken_images_only_is_refused(photos: Path) -> None:
    data = load_dataset(photos, image_size=8, stream=True, skip_broken=True)
    for path in (photos / "train").glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="all 16 images of a batch are broken"):
        list(everything(data, workers=0, seed=0))


class Dying:
    """Pictures of which one kills the process that opens it."""

    def __len__(self) -> int:
        return 100

    def name(self, number: int) -> str:
        return f"picture {number}"

    @contextmanager
    def open(self, number: int) -> Iterator[Image.Image]:
        if number == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Image.new("L", (4, 4))


def test_a_worker_that_dies_is_said_in_one_line_with_what_to_do() -> None:
    stream = Stream(Dying(), torch.zeros(100, dtype=torch.int64), Survey("L", (1, 4, 4), fit=False), workers=1)
    with pytest.raises(RunError, match=r"decodes images was lost .*data.workers=N.*resume") as caught:
        list(stream.read(torch.arange(100).split(10), torch.device("cpu")))
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_by_its_pixels_before_it_is_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 134)  # 9 x 15 is one more
    monkeypatch.setattr(pictures, "pixels_of", lambda *_: pytest.fail("decoded"))
    for stream in (False, True):
        with pytest.raises(DataError, match=r"ants/0.png is broken: it has 15 x 9 pixels, more than 134"):
            load_dataset(photos, image_size=8, stream=stream)


def test_a_header_that_promises_gigapixels_is_refused_without_a_warning(photos: Path) -> None:
    bomb = Image.new("1", (30000, 30000))
    bomb.save(photos / "train" / "ants" / "0.png")
    with pytest.raises(DataError, match=r"ants/0.png is broken"):
        load_dataset(photos, image_size=8, stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_cmyk_palettes_animations_and_cameras_held_sideways_are_read(photos: Path, stream: bool) -> None:
    ants = photos / "train" / "ants"
    for path in ants.iterdir():
        path.unlink()
    red = Image.new("RGB", (12, 9), (200, 10, 20))
    red.convert("CMYK").save(ants / "0.jpg")
    red.quantize(4).save(ants / "1.png")
    red.save(ants / "2.png", save_all=True, append_images=[Image.new("RGB", (12, 9), (0, 0, 255))])
    exif = red.getexif()
    exif[0x0112] = 6
    red.save(ants / "3.jpg", exif=exif, quality=95)
    data = load_dataset(photos, image_size=8, stream=stream)
    pixels = torch.cat([getattr(data, part).in_memory().pixels for part in ("train", "test")])
    labels = torch.cat([getattr(data, part).labels for part in ("train", "test")])
    wanted = torch.tensor([200.0, 10, 20]).view(3, 1, 1)
    assert (labels == 0).sum() == 4
    assert (pixels[labels == 0].float() - wanted).abs().max() < 12


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (Image.fromarray(np.zeros((9, 12), np.uint16)), "has the pixel format I;16: expected 8 bits"),
        (Image.new("RGB", (12, 9)), "has colors, but the images looked at before are gray"),
        (Image.new("L", (5, 9)), "images of mixed sizes: .* is 5 x 9, others are 12 x 9; give image_size"),
    ],
)
def test_an_image_unlike_those_surveyed_is_named_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: Image.Image, message: str
) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (12, 9), number).save(tmp_path / name / f"{number}.png")
    monkeypatch.setattr("slimcnn.datasets.folder.SURVEYED", 3)
    data = load_dataset(tmp_path, stream=True)
    assert data.shape == (1, 9, 12)
    for part in (data.train, data.validation, data.test):
        late.save(part.pictures.name(0))
        with pytest.raises(DataError, match=message):
            part.in_memory()


def test_what_is_one_file_cannot_be_streamed() -> None:
    with pytest.raises(DataError, match="digits is read into memory as one file"):
        load_dataset("digits", stream=True)


def test_labels_must_fit_the_pictures() -> None:
    with pytest.raises(DataError, match=r"labels must be torch.int64 of shape \(100,\)"):
        Stream(Dying(), torch.zeros(3, dtype=torch.int64), Survey("L", (1, 4, 4), fit=False))
