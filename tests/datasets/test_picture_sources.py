"""Sources of images: every one gives the same images as a folder, and says in one line what is wrong."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slimcnn.datasets import Dataset, batches, load_dataset
from slimcnn.errors import DataError, UnknownName

CLASSES = 3


def picture(label: int, number: int) -> Image.Image:
    """Noise; its first pixel holds the label and the number."""
    pixels = np.random.default_rng((label, number)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels[0, 0] = (label, number, 0)
    return Image.fromarray(pixels)


def png(label: int, number: int) -> bytes:
    buffer = io.BytesIO()
    picture(label, number).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, numbers: range, *, label: str = "cls") -> Path:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for kind in range(CLASSES):
                key = f"photos/{kind}_{number:03}"
                text = str(kind) if label == "cls" else json.dumps({"label": kind, "caption": "x"})
                for suffix, content in (("png", png(kind, number)), (label, text.encode())):
                    if not content:
                        continue
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return path


def seen(data: Dataset) -> dict[str, set[tuple[int, int]]]:
    """The label and number of every image of every part, as the pixels say them and as the labels do."""
    found = {}
    for part in ("train", "validation", "test"):
        images = getattr(data, part).in_memory()
        assert torch.equal(images.pixels[:, 0, 0, 0].long(), images.labels)
        found[part] = {(int(p[0, 0, 0]), int(p[1, 0, 0])) for p in images.pixels}
        assert len(found[part]) == len(images)
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_shards_of_a_folder_give_every_image_of_every_part(tmp_path: Path, stream: bool) -> None:
    shard(tmp_path / "train-0.tar", range(10))
    shard(tmp_path / "train-1.tar", range(10, 20), label="json")
    shard(tmp_path / "val-0.tar", range(20, 23))
    shard(tmp_path / "test-0.tar", range(30, 34))
    data = load_dataset(f"webdataset:{tmp_path}", stream=stream, workers=0)
    assert data.streamed == stream
    assert data.classes == ("0", "1", "2")
    wanted = {"train": range(20), "validation": range(20, 23), "test": range(30, 34)}
    for part, found in seen(data).items():
        assert found == {(kind, number) for kind in range(CLASSES) for number in wanted[part]}


def test_a_pattern_of_shards_is_split_and_every_image_is_used_once(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"part-{number:02}.tar", range(10 * number, 10 * number + 10))
    for pattern in ("part-{00..02}.tar", "part-*.tar"):
        found = seen(load_dataset(f"webdataset:{tmp_path}/{pattern}", stream=True, workers=0))
        assert set.union(*found.values()) == {(kind, number) for kind in range(CLASSES) for number in range(30)}
        assert sum(map(len, found.values())) == 90


@pytest.mark.parametrize("cut", [100, 3000, 10_000])
def test_a_shard_that_is_cut_off_is_named_before_anything_is_decoded(tmp_path: Path, cut: int) -> None:
    path = shard(tmp_path / "train-0.tar", range(10))
    path.write_bytes(path.read_bytes()[:-10240][:-cut])
    with pytest.raises(DataError, match=r"train-0.tar is not a complete tar file: .*; copy it again") as caught:
        load_dataset(f"webdataset:{path}")
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_shards_is_said_with_their_name(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", range(3), label="txt")
    with pytest.raises(DataError, match=r"train-0.tar: photos/0_000.png has no label: add photos/0_000.cls"):
        load_dataset(f"webdataset:{tmp_path}")
    shard(tmp_path / "eval.tar", range(3))
    with pytest.raises(DataError, match=r"eval.tar belongs to no part"):
        load_dataset(f"webdataset:{tmp_path}")
    with pytest.raises(DataError, match=r"no shard .*train-1.tar"):
        load_dataset(f"webdataset:{tmp_path}/train-{{0..1}}.tar")
    with pytest.raises(DataError, match=r"https://x/1.tar is not local: download"):
        load_dataset("webdataset:https://x/1.tar")


# --- functions of the user ------------------------------------------------------------------------------------------

MODULE = """
import numpy as np
import torch
from PIL import Image

class Photos:
    classes = ["a", "b", "c"]
    def __init__(self, numbers, kind="pil"):
        self.samples = [(kind, number) for kind in range(3) for number in numbers]
        self.targets = [kind for kind, _ in self.samples]
        self.kind = kind
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, i):
        label, number = self.samples[i]
        pixels = np.random.default_rng((label, number)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pixels[0, 0] = (label, number, 0)
        if self.kind == "pil":
            return Image.fromarray(pixels), label
        x = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.kind == "uint8":
            return x, label
        if self.kind == "broken" and number == 5:
            raise OSError("disk on fire")
        return (x.float() / 100 - 1 if self.kind != "noisy" else torch.rand(3, 4, 4)), label

def pil(): return {"train": Photos(range(20)), "val": Photos(range(20, 24)), "test": Photos(range(30, 33))}
def uint8(): return Photos(range(20), "uint8"), Photos(range(20, 24), "uint8"), Photos(range(30, 33), "uint8")
def ready(): return {"train": Photos(range(20), "ready")}
def noisy(): return {"train": Photos(range(20), "noisy")}
def broken(): return {"train": Photos(range(20), "broken")}
def subset(): return {"train": torch.utils.data.Subset(Photos(range(20)), [0, 5, 25, 26, 45, 46, 1, 27, 47, 2, 28, 48])}
def number(): return 7
def test_only(): return {"test": Photos(range(3))}
def no_length(): return {"train": iter([1])}
def failing(): return 1 / 0
def strange():
    photos = Photos(range(20)); photos.targets = ["a"] * 60; return {"train": photos}
def unlabeled():
    photos = Photos(range(20)); del photos.targets; return {"train": photos}
def far():
    photos = Photos(range(20)); photos.targets[3] = 7; return {"train": photos}
def negative():
    photos = Photos(range(20)); photos.targets[3] = -1; return {"train": photos}
def empty(): return {"train": Photos(range(20)), "validation": Photos([])}
def sized(image_size=0): return Photos(range(image_size)), Photos(range(3))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_photos.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_photos", raising=False)
    return "my_photos"


@pytest.mark.parametrize("name", ["pil", "uint8"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_function_gives_its_parts(module: str, name: str, stream: bool) -> None:
    data = load_dataset(f"{module}:{name}", stream=stream, workers=0)
    assert data.classes == ("a", "b", "c")
    wanted = {"train": range(20), "validation": range(20, 24), "test": range(30, 33)}
    for part, found in seen(data).items():
        assert found == {(kind, number) for kind in range(CLASSES) for number in wanted[part]}


def test_parts_that_a_function_leaves_out_are_split_off(module: str) -> None:
    data = load_dataset(f"{module}:subset", stream=True, workers=0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [9, 1, 2]
    assert len(set.union(*seen(data).values())) == 12


def test_tensors_that_are_ready_reach_the_network_as_they_are(module: str) -> None:
    data = load_dataset(f"{module}:ready", workers=0)
    assert data.streamed
    plain = {"normalization": data.normalization, "augmentation": data.augmentation}
    for x, y in batches(data.train, 8, **plain, seed=0):
        assert torch.equal(((x[:, 0, 0, 0] + 1) * 100).round().long(), y)
    with pytest.raises(DataError, match="is a tensor without its pixels"):
        data.test.in_memory()


def test_random_transforms_of_the_user_depend_on_seed_epoch_and_image_only(module: str) -> None:
    data = load_dataset(f"{module}:noisy", workers=0)

    def epoch(seed: int, number: int, **asked: int) -> list[torch.Tensor]:
        torch.manual_seed(torch.randint(1000, ()).item())
        return [
            x for x, _ in batches(data.train, 8, normalization=data.normalization, seed=seed, epoch=number, **asked)
        ]

    first = epoch(1, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, epoch(1, 1), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[2:], epoch(1, 1, start=2), strict=True))
    assert not torch.equal(first[0], epoch(1, 2)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", r"my_photos:number returned a int: return a dict of train"),
        ("test_only", r"my_photos:test_only returned a dict of test: return a dict of train"),
        ("no_length", r"train is a list_iterator without __getitem__ and __len__"),
        ("failing", r"my_photos:failing failed: ZeroDivisionError: division by zero \(my_photos.py, line \d+\)"),
        ("strange", r"my_photos:strange, train has targets that are not class numbers"),
        ("unlabeled", r"my_photos:unlabeled, train does not say its labels: give the dataset an attribute targets"),
        ("far", r"train images have labels 0 to 7, but there are 3 classes"),
        ("negative", r"train images have labels -1 to 2, but there are 3 classes"),
        ("empty", r"no validation images"),
        ("missing", r"module 'my_photos' has no 'missing'"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_one_line(module: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"{module}:{name}")
    assert "\n" not in str(caught.value)


def test_an_item_that_fails_is_named_or_left_out(module: str) -> None:
    data = load_dataset(f"{module}:broken", workers=0)
    with pytest.raises(DataError, match=r"train: image \d+ is broken: OSError: disk on fire"):
        list(batches(data.train, 60, normalization=data.normalization))
    data = load_dataset(f"{module}:broken", workers=0, skip_broken=True)
    for part in (data.train, data.validation, data.test):
        list(batches(part, 16, normalization=data.normalization))
    assert len(data.broken) == 3


def test_a_function_gets_the_image_size_if_it_takes_it(module: str) -> None:
    assert len(load_dataset(f"{module}:sized", image_size=5, stream=True).train) > 3


# --- torchvision and Hugging Face -----------------------------------------------------------------------------------


def test_a_class_of_torchvision_is_read_from_its_files(tmp_path: Path) -> None:
    for part, numbers in (("train", range(10)), ("val", range(20, 23)), ("test", range(30, 34))):
        for kind, name in enumerate(("ants", "bees", "crabs")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in numbers:
                picture(kind, number).save(tmp_path / part / name / f"{number:02}.png")
    data = load_dataset(f"torchvision:ImageFolder:{tmp_path / 'train'}", workers=0)
    assert data.classes == ("ants", "bees", "crabs")
    assert set.union(*seen(data).values()) == {(kind, number) for kind in range(CLASSES) for number in range(10)}


def test_files_of_torchvision_that_are_not_there_are_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"torchvision:CIFAR10 cannot be read from {tmp_path}: Dataset not found") as e:
        load_dataset(f"torchvision:CIFAR10:{tmp_path}")
    assert "\n" not in str(e.value)
    with pytest.raises(UnknownName, match="unknown torchvision dataset 'CIFAR11': did you mean 'CIFAR10'"):
        load_dataset(f"torchvision:CIFAR11:{tmp_path}")


def test_without_the_package_hf_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"hf:beans needs the package datasets: pip install 'slimcnn\[hf\]'"):
        load_dataset("hf:beans")


@pytest.mark.slow
def test_a_folder_of_hugging_face_gives_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = pytest.importorskip("datasets.config", reason="needs the package datasets")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part, numbers in (("train", range(10)), ("validation", range(20, 23)), ("test", range(30, 34))):
        for kind, name in enumerate(("ants", "bees", "crabs")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in numbers:
                picture(kind, number).save(tmp_path / "photos" / part / name / f"{number:02}.png")
    data = load_dataset(f"hf:{tmp_path / 'photos'}", stream=True, workers=0)
    assert data.classes == ("ants", "bees", "crabs")
    wanted = {"train": range(10), "validation": range(20, 23), "test": range(30, 34)}
    for part, found in seen(data).items():
        assert found == {(kind, number) for kind in range(CLASSES) for number in wanted[part]}


@pytest.mark.slow
def test_a_name_that_hugging_face_cannot_load_is_one_line_without_a_network_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets.config", reason="needs the package datasets")
    with pytest.raises(DataError, match=r"hf:.*nowhere cannot be loaded: .*; is the name right") as caught:
        load_dataset(f"hf:{tmp_path}/nowhere")
    assert "\n" not in str(caught.value)


def test_a_source_without_its_place_is_listed() -> None:
    with pytest.raises(UnknownName, match="webdataset:PLACE"):
        load_dataset("digts")
