"""Published datasets: find or download their files, decode them, and verify the content."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path

import torch

from slimcnn.datasets.cache import Parts, cached, fingerprint, workplace
from slimcnn.datasets.decoding import Bytes, Files
from slimcnn.datasets.fetching import DownloadSource
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.progress import progress
from slimcnn.datasets.splitting import split
from slimcnn.errors import DataError
from slimcnn.files import kind_of


@dataclass(frozen=True)
class FileLayout:
    """One layout of a dataset's files: separate files in one of several `folders`, or a tar archive."""

    train: tuple[str, ...]
    """The files of the training part, in the order that `decode` expects."""
    test: tuple[str, ...]
    decode: Callable[[Files], tuple[Bytes, Bytes]]
    """Decodes the bytes of one part's files to labels `(n,)` and pixels `(n, c, h, w)`."""
    archive: str = ""
    """The archive's file name, if there is one."""
    folders: tuple[str, ...] = ("",)
    """Folders that may hold the separate files, relative to the searched folder."""

    def find(self, place: Path) -> Path | None:
        """Return the folder or archive in `place` (itself a folder or an archive) that holds such files, or None."""
        if kind_of(place, DataError) == "file":
            return place if place.name == self.archive else None

        def holds(path: Path) -> bool:
            return kind_of(path, DataError) == "file"

        loose = [place / folder for folder in self.folders if holds(place / folder / self.train[0])]
        packed = [place / self.archive] if self.archive and holds(place / self.archive) else []
        return next(iter(loose + packed), None)

    def __str__(self) -> str:
        loose = f"{self.train[0]} ... {self.test[-1]}"
        return f"{self.archive} (or its files {loose})" if self.archive else loose


@dataclass(frozen=True)
class PublishedDataset:
    """The expected content of a published dataset, and the places to get it from.

    Images are sorted by the SHA-256 of their pixels (then by label), so that neither the content nor any split
    depends on the order of images in the source.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train_each: int
    """Training images per class."""
    test_each: int
    validation: int
    """Number of training images held out for validation: stratified, by seed."""
    fingerprint: str
    """The SHA-256 of all labels and pixels in sorted order (see `cache.fingerprint`)."""
    normalization: Normalization
    """The published mean and standard deviation of the training images, to four digits."""
    augmentation: Augmentation
    layouts: tuple[FileLayout, ...]
    origins: tuple[DownloadSource, ...] = ()
    places: tuple[str, ...] = ()
    """System folders outside the cache that may already hold the dataset."""

    @property
    def bytes(self) -> int:
        """Bytes of all pixels and labels."""
        return (self.train_each + self.test_each) * len(self.classes) * (prod(self.shape) + 1)


def load_published(what: PublishedDataset, *, source: Path | None, root: Path, seed: int) -> Dataset:
    """Load a published dataset from the cache in `root`, and build the cache first if needed.

    It is built from `source` (a folder or an archive) if given, else from files in `root`, in `root/name` or in one of
    its usual places, else from a download, from the first origin that works. In every case `DataError` is raised
    if the content differs from the published one.
    """
    found = None
    if source is not None:
        found = _find(what, [source])
        if found is None:
            raise DataError(f"no {what.name} in {source}: expected {_choices(what)}")

    def make() -> Parts:
        usual = [Path(place) for place in what.places if os.access(place, os.R_OK | os.X_OK)]
        spot = found or _find(what, [root, root / what.name, *usual])
        return _read(what, *spot) if spot else _fetch(what, kept)

    kept = root / f"{what.name}.safetensors"
    train, test = cached(kept, what.fingerprint, make)
    learned, held_out = split(train.labels, what.validation, f"validation/{seed}")
    return Dataset(
        name=what.name,
        classes=what.classes,
        train=train.take(learned),
        validation=train.take(held_out),
        test=test,
        normalization=what.normalization,
        augmentation=what.augmentation,
    )


def _choices(what: PublishedDataset) -> str:
    return ", or ".join(str(layout) for layout in what.layouts)


def _find(what: PublishedDataset, places: Sequence[Path]) -> tuple[FileLayout, Path] | None:
    for place in places:
        for layout in what.layouts:
            spot = layout.find(place)
            if spot is not None:
                return layout, spot
    return None


def _fetch(what: PublishedDataset, kept: Path) -> Parts:
    tried = []
    for origin in what.origins:
        try:
            with workplace(kept) as folder:
                origin.fetch(folder)
                spot = _find(what, [folder])
                if spot is None:
                    raise DataError(f"{origin}: does not contain {what.name}")
                return _read(what, *spot)
        except DataError as error:
            tried.append(str(error))
        except OSError as error:
            tried.append(f"{origin}: {error.strerror or error}")
    reasons = "; ".join(tried) or "it cannot be downloaded"
    raise DataError(f"{what.name} was not found ({reasons}): put {_choices(what)} into {kept.parent} and try again")


def _read(what: PublishedDataset, layout: FileLayout, spot: Path) -> Parts:
    names = [*layout.train, *layout.test]
    try:
        with progress(f"reading {what.name}", total=2 * len(names)) as advance:
            content = _contents(spot, names, 2 * what.bytes + SLACK, advance)
            parts = []
            for wanted in (layout.train, layout.test):
                labels, pixels = layout.decode({name: content[name] for name in wanted})
                parts.append(_sorted(labels, pixels))
                advance(len(wanted))
        _verify(what, (parts[0], parts[1]))
    except DataError as error:
        raise DataError(f"{what.name} from {spot}: {error}") from error
    return parts[0], parts[1]


SLACK = 1 << 20
"""Bytes that the files of a dataset may hold beyond its labels and pixels: headers, other label lists, a read-me."""


def _contents(spot: Path, names: Sequence[str], limit: int, advance: Callable[[float], None]) -> dict[str, bytes]:
    """Read files by name from a folder, or from anywhere in a tar archive; nothing above `limit` bytes is read."""

    def check(name: str, size: int) -> None:
        if size > limit:
            raise DataError(f"{name} is {size} bytes, more than the whole dataset ({limit}): it is another file")

    content: dict[str, bytes] = {}
    try:
        if spot.is_dir():
            for name in names:
                check(name, (spot / name).stat().st_size)
                content[name] = (spot / name).read_bytes()
                advance(1)
            return content
        with tarfile.open(spot, "r:gz") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                check(name, member.offset_data + member.size)
                file = archive.extractfile(member) if name in names and member.isfile() else None
                if file is not None:
                    content[name] = file.read()
                    advance(1)
    except FileNotFoundError as error:
        raise DataError(f"{Path(str(error.filename)).name} is missing") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"it is damaged or incomplete ({error}): download it again") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise DataError(f"{', '.join(missing)} not in the archive")
    return content


def _sorted(labels: Bytes, pixels: Bytes) -> Images:
    if len(labels) != len(pixels):
        raise DataError(f"{len(pixels)} images but {len(labels)} labels")
    keys = [(sha256(image).digest(), label) for image, label in zip(pixels, labels.tolist(), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Images(torch.from_numpy(pixels[order]), torch.from_numpy(labels[order]).long())


def _verify(what: PublishedDataset, parts: Parts) -> None:
    """Compare shape, class counts, channel means and fingerprint with the published values."""
    for part, images, each in zip(("training", "test"), parts, (what.train_each, what.test_each), strict=True):
        if images.shape != what.shape:
            raise DataError(f"the {part} images are {images.shape}, expected {what.shape}")
        counts = torch.bincount(images.labels, minlength=len(what.classes)).tolist()
        if counts != [each] * len(what.classes):
            found = f"{len(counts)} classes of {min(counts)} to {max(counts)} {part} images"
            raise DataError(f"{found}, expected {len(what.classes)} of {each}: it is incomplete or another dataset")
    mean, published = Normalization.measured(parts[0].pixels).mean, what.normalization.mean
    if any(abs(found - known) > 6e-5 for found, known in zip(mean, published, strict=True)):
        found_mean = ", ".join(f"{value:.4f}" for value in mean)
        raise DataError(
            f"the training images have channel means ({found_mean}), expected {published}: not the originals"
        )
    found_print = fingerprint(parts)
    if found_print != what.fingerprint:
        found = f"SHA-256 {found_print}, expected {what.fingerprint}"
        raise DataError(f"labels and pixels have {found}: the content was changed")
