from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimcnn.datasets import Dataset, Normalization
from slimcnn.datasets.downloads import PublishedDataset, load_published
from slimcnn.errors import DataError, RunError, SlimcnnError
from slimcnn.files import cache_folder

Write = Callable[[Path, dict[str, bytes]], Path]


def load(what: PublishedDataset, root: Path, source: Path | None = None, seed: int = 0) -> Dataset:
    return load_published(what, source=source, root=root, seed=seed)


def same(one: Dataset, other: Dataset) -> bool:
    pairs = [(one.train, other.train), (one.validation, other.validation), (one.test, other.test)]
    return all(torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels) for a, b in pairs)


def refused(error: type[SlimcnnError], *words: str) -> Any:
    pattern = "".join(f"(?=.*{word})" for word in words) + r"\A[^\n]*\Z"
    return pytest.raises(error, match=pattern)


@pytest.fixture
def places(tmp_path: Path, tiny: Any, write_folder: Write, write_archive: Write) -> list[Path]:
    """The same images in every layout, every time in another order."""
    return [
        write_folder(tmp_path / "loose", tiny.shuffled(1).binary()),
        write_folder(tmp_path / "unpacked" / "batches-bin", tiny.shuffled(2).binary()).parent,
        write_archive(tmp_path / "packed" / "tiny-binary.tar.gz", tiny.shuffled(3).binary()),
        write_archive(tmp_path / "downloads" / "tiny-binary.tar.gz", tiny.shuffled(4).binary()).parent,
        write_folder(tmp_path / "sheets" / "package", tiny.shuffled(5).sheets()).parent,
        write_archive(tmp_path / "npm" / "tiny-1.0.0.tgz", tiny.shuffled(6).sheets()),
    ]


def test_content_and_splits_do_not_depend_on_the_source(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    what = tiny.published()
    loaded = [load(what, tmp_path / f"cache{number}", place) for number, place in enumerate(places)]
    assert len(loaded) == 6
    assert all(same(loaded[0], each) for each in loaded[1:])
    assert (len(loaded[0].train), len(loaded[0].validation), len(loaded[0].test)) == (9, 3, 6)
    assert torch.bincount(loaded[0].validation.labels).tolist() == [1, 1, 1]


def test_labels_stay_with_their_pixels(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    dataset = load(tiny.published(), tmp_path / "cache", places[0])
    label_of = {image.tobytes(): int(label) for image, label in zip(tiny.train_pixels, tiny.train_labels, strict=True)}
    found = [
        (image.numpy().tobytes(), int(label))
        for images in (dataset.train, dataset.validation)
        for image, label in zip(images.pixels, images.labels, strict=True)
    ]
    assert dict(found) == label_of
    assert len(found) == len(label_of) == 12


def test_the_seed_chooses_validation_images_and_never_test_images(
    tiny: Any, places: list[Path], tmp_path: Path
) -> None:
    several = [load(tiny.published(), tmp_path / "cache", places[0], seed=seed) for seed in range(4)]
    assert all(torch.equal(several[0].test.pixels, each.test.pixels) for each in several)
    assert len({each.validation.pixels.numpy().tobytes() for each in several}) > 1


def test_once_made_the_cache_is_enough(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    what = tiny.published()
    first = load(what, tmp_path / "cache", places[0])
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name == "tiny.safetensors"
    assert same(first, load(what, tmp_path / "cache"))


@pytest.mark.parametrize("sub", ["", "tiny"])
def test_files_put_into_the_cache_folder_are_found(tiny: Any, tmp_path: Path, write_folder: Write, sub: str) -> None:
    write_folder(tmp_path / sub, tiny.sheets())
    assert len(load(tiny.published(), tmp_path).train) == 9


def test_files_that_a_system_package_installed_are_found(tiny: Any, tmp_path: Path, write_folder: Write) -> None:
    place = write_folder(tmp_path / "usr" / "share", tiny.binary())
    assert len(load(tiny.published(places=(str(place),)), tmp_path / "cache").train) == 9


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_text("not a dataset")


@pytest.mark.parametrize("damage", [flip_a_bit, halve, empty, scribble])
def test_a_damaged_cache_is_made_again_and_never_used(
    tiny: Any, places: list[Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    what = tiny.published()
    first = load(what, tmp_path / "cache", places[0])
    kept = tmp_path / "cache" / "tiny.safetensors"
    whole = kept.read_bytes()
    damage(kept)
    with refused(DataError, "cache/tiny.safetensors is damaged", "tiny was not found"):
        load(what, tmp_path / "cache")
    assert same(first, load(what, tmp_path / "cache", places[0]))
    assert kept.read_bytes() == whole


def test_a_cache_of_another_dataset_is_not_taken(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    load(tiny.published(), tmp_path / "cache", places[0])
    (tmp_path / "cache" / "tiny.safetensors").rename(tmp_path / "cache" / "other.safetensors")
    with refused(DataError, "other was not found"):
        load(tiny.published(name="other", fingerprint="0" * 64), tmp_path / "cache")


def lose(files: dict[str, bytes]) -> None:
    del files["batch_2.bin"]


def cut(files: dict[str, bytes]) -> None:
    files["batch_2.bin"] = files["batch_2.bin"][:-1]


def forget_images(files: dict[str, bytes]) -> None:
    files["batch_2.bin"] = files["batch_2.bin"][:3073]


def change_a_label(files: dict[str, bytes]) -> None:
    files["test.bin"] = b"\x02" + files["test.bin"][1:]


def change_a_pixel(files: dict[str, bytes]) -> None:
    files["test.bin"] = files["test.bin"][:-1] + bytes([files["test.bin"][-1] ^ 1])


def darken(files: dict[str, bytes]) -> None:
    files["batch_1.bin"] = b"".join(files["batch_1.bin"][i : i + 1] + bytes(3072) for i in range(0, 6 * 3073, 3073))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose, ["batch_2.bin"]),
        (cut, ["batch_2.bin has 18437 bytes"]),
        (forget_images, ["2 to 3 training images, expected 3 of 4"]),
        (change_a_label, ["1 to 3 test images, expected 3 of 2"]),
        (change_a_pixel, ["SHA-256", "changed"]),
        (darken, ["channel means", "not the originals"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_not_the_published_ones_are_refused_and_not_kept(
    tiny: Any,
    tmp_path: Path,
    write_folder: Write,
    write_archive: Write,
    damage: Callable[[dict[str, bytes]], None],
    words: list[str],
    packed: bool,
) -> None:
    files = tiny.binary()
    damage(files)
    writer, name = (write_archive, "tiny-binary.tar.gz") if packed else (write_folder, "folder")
    place = writer(tmp_path / name, files)
    with refused(DataError, "tiny from", name, *words):
        load(tiny.published(), tmp_path / "cache", place)
    assert list((tmp_path / "cache").iterdir()) == []


def test_images_of_another_shape_are_refused(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    with refused(DataError, r"training images are \(3, 32, 32\), expected \(1, 28, 28\)"):
        load(tiny.published(shape=(1, 28, 28)), tmp_path / "cache", places[0])


def test_labels_for_other_images_are_refused(tiny: Any, tmp_path: Path, write_folder: Write) -> None:
    files = {**tiny.sheets(), "train.json": b"[0, 1]"}
    with refused(DataError, "12 images but 2 labels"):
        load(tiny.published(), tmp_path / "cache", write_folder(tmp_path / "sheets", files))


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_a_truncated_archive_is_refused(tiny: Any, tmp_path: Path, write_archive: Write, share: float) -> None:
    archive = write_archive(tmp_path / "tiny-binary.tar.gz", tiny.binary())
    os.truncate(archive, int(share * archive.stat().st_size))
    with refused(DataError, "tiny-binary.tar.gz", "incomplete|not in the archive"):
        load(tiny.published(), tmp_path / "cache", archive)


def test_an_archive_that_is_none_is_refused(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny-binary.tar.gz").write_text("<html>404</html>")
    with refused(DataError, "tiny-binary.tar.gz", "damaged or incomplete"):
        load(tiny.published(), tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "empty", "other.zip"])
def test_a_source_without_the_files_is_refused_even_if_the_cache_is_there(
    tiny: Any, places: list[Path], tmp_path: Path, name: str
) -> None:
    load(tiny.published(), tmp_path / "cache", places[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.zip").write_bytes(b"PK")
    with refused(DataError, f"no tiny in .*{name}", "tiny-binary.tar.gz", "batch_1.png ... test.json"):
        load(tiny.published(), tmp_path / "cache", tmp_path / name)


@dataclass(frozen=True)
class Shop:
    """An origin that delivers these files, or says why not."""

    files: tuple[tuple[str, bytes], ...] = ()
    error: Exception | None = None

    def __str__(self) -> str:
        return "shop"

    def fetch(self, folder: Path) -> None:
        assert folder.is_dir()
        for name, content in self.files:
            (folder / name).write_bytes(content)
        if self.error:
            raise self.error


def test_the_first_origin_that_works_is_taken(tiny: Any, tmp_path: Path) -> None:
    whole = Shop(tuple(tiny.binary().items()))
    broken = (
        Shop(error=DataError("shop: closed")),
        Shop(whole.files, error=OSError(errno.ENOSPC, "No space left on device")),
        Shop((("index.html", b"sorry"),)),
        replace(whole, files=tuple({**tiny.binary(), "test.bin": b"1"}.items())),
    )
    assert len(load(tiny.published(origins=(*broken, whole)), tmp_path / "a").train) == 9
    words = ["shop: closed", "shop: No space left", "does not contain tiny", "test.bin has 1 bytes"]
    with refused(DataError, "tiny was not found", *words, f"put tiny-binary.tar.gz .* into {tmp_path}"):
        load(tiny.published(origins=broken), tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_nothing_fetched_is_left_behind(tiny: Any, tmp_path: Path) -> None:
    whole = Shop(tuple(tiny.binary().items()))
    load(tiny.published(origins=(whole,)), tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tiny.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        load(tiny.published(origins=(replace(whole, error=KeyboardInterrupt()),)), tmp_path / "b")  # type: ignore[arg-type]
    assert list((tmp_path / "b").iterdir()) == []


KILLED_WHILE_FETCHING = """
import os, signal, sys
from pathlib import Path
from slimcnn.datasets.cache import workplace
with workplace(Path(sys.argv[1])) as folder:
    (folder / "batch_1.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_swept_and_what_living_ones_need_is_not(tiny: Any, tmp_path: Path) -> None:
    target = tmp_path / "tiny.safetensors"
    child = subprocess.run([sys.executable, "-c", KILLED_WHILE_FETCHING, str(target)], check=False)
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["batch_1.bin"]
    old = tmp_path / ".tiny.safetensors.1-1@elsewhere.part"
    living = {f".tiny.safetensors.{os.getppid()}-0@{platform.node()}.part", ".tiny.safetensors.2-2@elsewhere.part"}
    for name in (old.name, *living):
        (tmp_path / name).mkdir()
    os.utime(old, (0, 0))
    load(tiny.published(origins=(Shop(tuple(tiny.binary().items())),)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", *living}


def test_a_cache_folder_that_cannot_be_written_to_is_said_before_anything_is_fetched(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    never = Shop(error=AssertionError("fetched"))
    with refused(RunError, f"cannot write to the cache folder {tmp_path}/file/cache", "root=", "SLIMCNN_CACHE"):
        load(tiny.published(origins=(never,)), tmp_path / "file" / "cache")


def test_a_cache_folder_that_cannot_be_written_to_is_said(
    tiny: Any, places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write to every folder: the refusal is the system's word; test_rights.py drops root's rights for real."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused(RunError, "cannot write to the cache folder", "SLIMCNN_CACHE"):
        load(tiny.published(), tmp_path / "cache", places[0])


def test_a_cache_in_a_read_only_folder_can_be_read(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    first = load(tiny.published(), tmp_path / "cache", places[0])
    (tmp_path / "cache" / "tiny.safetensors").chmod(0o444)
    (tmp_path / "cache").chmod(0o555)
    try:
        assert same(first, load(tiny.published(), tmp_path / "cache"))
    finally:
        (tmp_path / "cache").chmod(0o755)


def test_a_full_disk_leaves_nothing_and_is_said(
    tiny: Any, places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with refused(RunError, "tiny.safetensors: No space left on device", "SLIMCNN_CACHE"):
        load(tiny.published(), tmp_path / "cache", places[0])
    assert list((tmp_path / "cache").iterdir()) == []


def test_equal_images_with_other_labels_have_one_order(tmp_path: Path, tiny: Any, write_folder: Write) -> None:
    pixels = tiny.train_pixels.copy()
    pixels[3:6] = pixels[0]  # labels 0, 1, 2 on the same picture, as happens in CIFAR-100
    twins = replace(tiny, train_pixels=pixels)
    what = twins.published()
    for seed in range(3):
        place = write_folder(tmp_path / f"{seed}", twins.shuffled(seed).binary())
        assert len(load(what, tmp_path / f"cache{seed}", place).train) == 9


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMCNN_CACHE", str(tmp_path / "variable"))
    assert cache_folder() == tmp_path / "variable"
    assert cache_folder(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.delenv("SLIMCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().name == "slimcnn"
    assert tmp_path in cache_folder().parents


def test_the_normalization_is_not_touched_by_loading(tiny: Any, places: list[Path], tmp_path: Path) -> None:
    dataset = load(tiny.published(), tmp_path / "cache", places[0])
    everything = np.concatenate([dataset.train.pixels, dataset.validation.pixels]) / 255
    assert dataset.normalization == Normalization(
        tuple(np.round(everything.mean((0, 2, 3)), 4).tolist()), tuple(np.round(everything.std((0, 2, 3)), 4).tolist())
    )


@pytest.mark.parametrize("name", ["batch_1.bin", "readme.txt"])
def test_an_archive_that_unpacks_to_far_more_than_the_dataset_is_refused_before_it_is_unpacked(
    name: str, tiny: Any, write_archive: Write, tmp_path: Path
) -> None:
    packed = write_archive(tmp_path / "tiny-binary.tar.gz", tiny.binary() | {name: bytes(1 << 26)})
    tracemalloc.start()
    with refused(DataError, "tiny", name, "more than"):
        load(tiny.published(), tmp_path / "cache", packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_file_far_larger_than_the_dataset_is_refused_before_it_is_read(
    tiny: Any, write_folder: Write, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "loose", tiny.binary())
    os.truncate(folder / "batch_2.bin", 1 << 40)
    with refused(DataError, "tiny", "batch_2.bin", "more than"):
        load(tiny.published(), tmp_path / "cache", folder)
