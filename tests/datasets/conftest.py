"""A tiny published dataset, written in every layout that the real ones have."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimcnn.datasets import Augmentation, Normalization
from slimcnn.datasets.decoding import records, sheets
from slimcnn.datasets.downloads import FileLayout, PublishedDataset

CLASSES, TRAIN_EACH, TEST_EACH = 3, 4, 2

BINARY = FileLayout(("batch_1.bin", "batch_2.bin"), ("test.bin",), records, "tiny-binary.tar.gz", ("", "batches-bin"))
SHEETS = FileLayout(
    ("batch_1.png", "batch_2.png", "train.json"),
    ("test.png", "test.json"),
    sheets,
    archive="tiny-1.0.0.tgz",
    folders=("", "package"),
)


@dataclass(frozen=True)
class Tiny:
    train_labels: np.ndarray
    train_pixels: np.ndarray
    test_labels: np.ndarray
    test_pixels: np.ndarray

    def shuffled(self, seed: int) -> Tiny:
        generator = np.random.default_rng(seed)
        train = generator.permutation(len(self.train_labels))
        test = generator.permutation(len(self.test_labels))
        return Tiny(self.train_labels[train], self.train_pixels[train], self.test_labels[test], self.test_pixels[test])

    def binary(self) -> dict[str, bytes]:
        def file(labels: np.ndarray, pixels: np.ndarray) -> bytes:
            return b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True))

        half = len(self.train_labels) // 2
        return {
            "batch_1.bin": file(self.train_labels[:half], self.train_pixels[:half]),
            "batch_2.bin": file(self.train_labels[half:], self.train_pixels[half:]),
            "test.bin": file(self.test_labels, self.test_pixels),
        }

    def sheets(self) -> dict[str, bytes]:
        half = len(self.train_labels) // 2
        return {
            "batch_1.png": png(self.train_pixels[:half].transpose(0, 2, 3, 1).reshape(half, -1, 3)),
            "batch_2.png": png(self.train_pixels[half:].transpose(0, 2, 3, 1).reshape(half, -1, 3)),
            "train.json": json.dumps(self.train_labels.tolist()).encode(),
            "test.png": png(self.test_pixels.transpose(0, 2, 3, 1).reshape(len(self.test_pixels), -1, 3)),
            "test.json": json.dumps(self.test_labels.tolist()).encode(),
        }

    def published(self, **changes: object) -> PublishedDataset:
        digest = sha256()
        for labels, pixels in ((self.train_labels, self.train_pixels), (self.test_labels, self.test_pixels)):
            images = [image.tobytes() for image in pixels]
            rows = sorted((sha256(image).digest(), label, image) for label, image in zip(labels, images, strict=True))
            digest.update(bytes(label for _, label, _ in rows))
            digest.update(b"".join(image for _, _, image in rows))
        scaled = self.train_pixels / 255
        facts: dict[str, object] = {
            "name": "tiny",
            "classes": tuple("abc"),
            "shape": (3, 32, 32),
            "train_each": TRAIN_EACH,
            "test_each": TEST_EACH,
            "validation": 3,
            "fingerprint": digest.hexdigest(),
            "normalization": Normalization(
                tuple(np.round(scaled.mean((0, 2, 3)), 4).tolist()), tuple(np.round(scaled.std((0, 2, 3)), 4).tolist())
            ),
            "augmentation": Augmentation(crop=4, flip=True),
            "layouts": (BINARY, SHEETS),
        }
        return PublishedDataset(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.fixture
def tiny() -> Tiny:
    generator = np.random.default_rng(0)
    train, test = CLASSES * TRAIN_EACH, CLASSES * TEST_EACH
    return Tiny(
        np.arange(train, dtype=np.uint8) % CLASSES,
        generator.integers(0, 256, (train, 3, 32, 32), dtype=np.uint8),
        np.arange(test, dtype=np.uint8) % CLASSES,
        generator.integers(0, 256, (test, 3, 32, 32), dtype=np.uint8),
    )


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def write_folder() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(folder: Path, files: dict[str, bytes]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture
def write_archive() -> Callable[[Path, dict[str, bytes]], Path]:
    def write(path: Path, files: dict[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"inside/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write
