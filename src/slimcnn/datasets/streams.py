"""Images that are decoded while they are read, by worker processes: for data larger than memory."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimcnn.datasets.augmenting import ImageTransforms
from slimcnn.datasets.examples import Places, ReadBatch
from slimcnn.datasets.images import Images, chosen_by_limit
from slimcnn.datasets.pictures import BrokenFiles, BrokenImage, Survey, check_look, pixels_of, whole
from slimcnn.datasets.progress import progress
from slimcnn.datasets.seeding import seeded
from slimcnn.datasets.sizing import require_memory
from slimcnn.errors import DataError, RunError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from PIL.Image import Image as Picture

FEW = 64
"""Up to so many images are decoded in this process: starting workers would take longer."""
AHEAD = 2
"""Batches that each worker decodes in advance."""
READY = "ready"
"""The mode of a `Survey` of tensors that are ready for a network: float32, normalized, maybe augmented."""
AT_ONCE = 64
"""Images per batch where the caller does not ask for batches."""


class Pictures(Protocol):
    """Pictures that can be opened by number, in any order and in other processes."""

    def __len__(self) -> int:
        """The number of pictures."""

    def name(self, number: int) -> str:
        """What an error message calls a picture: the path of its file."""

    def open(self, number: int) -> AbstractContextManager[Picture | Tensor]:
        """Open a picture, or return a tensor that is ready for a network (see `READY`).

        Raises `BrokenImage` if it cannot be opened, or decoded within the block (see `opened`).
        """


@dataclass(frozen=True, eq=False)
class Stream:
    """Labeled images that are decoded while they are read; fulfills `Examples`.

    Worker processes decode batches in advance. Their number changes the speed, never the pixels. An image that cannot
    be decoded is an error with its name, or is left out and noted in `broken` with `skip_broken`.

    >>> from contextlib import contextmanager
    >>> from PIL import Image
    >>> class Grays:
    ...     def __len__(self): return 256
    ...     def name(self, number): return f"gray {number}"
    ...     @contextmanager
    ...     def open(self, number): yield Image.new("L", (8, 8), number)
    >>> stream = Stream(Grays(), torch.arange(256) % 4, Survey("L", (1, 8, 8), fit=False), workers=0)
    >>> stream.take(torch.tensor([7, 3])).in_memory().pixels[:, 0, 0, 0]
    tensor([7, 3], dtype=torch.uint8)
    """

    pictures: Pictures
    labels: Tensor
    look: Survey
    """The mode and shape of the decoded images."""
    numbers: Tensor | None = None
    """The numbers of the pictures that belong to the stream, `(n,)`; None: all, in order."""
    workers: int | None = None
    """Worker processes; 0 decodes in this process; None: one per processor, at most 8."""
    skip_broken: bool = False
    broken: BrokenFiles = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self),):
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise DataError(f"labels must be torch.int64 of shape ({len(self)},), one per image; found {found}")

    def __repr__(self) -> str:
        return f"Stream({len(self):,} of {' x '.join(map(str, self.shape))} pixels, decoded when they are read)"

    def __len__(self) -> int:
        return len(self.pictures) if self.numbers is None else len(self.numbers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.look.shape

    @property
    def device(self) -> torch.device:
        """Labels are on the CPU."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """No pixels are kept."""
        return 0

    def take(self, positions: Tensor) -> Stream:
        """Return the images at these positions, in this order; none is decoded."""
        positions = positions.cpu()
        numbers = positions if self.numbers is None else self.numbers[positions]
        return replace(self, numbers=numbers, labels=self.labels[positions])

    def limit(self, n: int, *, seed: int = 0, by_class: bool = True) -> Stream:
        """Return at most `n` images, the same as `Images.limit` does; none is decoded."""
        chosen = chosen_by_limit(self.labels, n, seed, by_class)
        return self if chosen is None else self.take(chosen)

    def to(self, device: torch.device | str) -> Stream:
        """Return the stream itself: batches are moved one by one."""
        return self

    def read(
        self, places: Iterable[Places], device: torch.device, key: str = "", transforms: ImageTransforms | None = None
    ) -> Iterator[ReadBatch]:
        """Yield the images of every batch, in order, from pinned memory if they go to a GPU (see `Examples`)."""
        if transforms is not None and self.look.mode == READY:
            raise DataError(
                f"{self.pictures.name(0)} is a tensor that is ready for a network, which cannot be augmented: augment "
                "it in your dataset, or return PIL images"
            )
        asked = (self._positions(place) for place in places)
        found = _decoded(self, asked, key, transforms, pin=device.type == "cuda")
        try:
            for one in found:
                if one.error:
                    raise DataError(one.error)
                self.broken.update(one.broken)
                yield ReadBatch(one.pixels, self.labels[one.positions], one.kept if one.broken else None)
        finally:
            found.close()

    def in_memory(self) -> Images:
        """Decode all images; `DataError` if they do not fit into memory, or are tensors that are ready already."""
        if self.look.mode == READY:
            name = self.pictures.name(0)
            raise DataError(f"{name} is a tensor without its pixels: return a PIL image or a uint8 tensor (c, h, w)")
        require_memory(len(self), self.shape)
        pixels = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        kept, places = [], torch.arange(len(self)).split(AT_ONCE)
        with progress("decoding images", total=len(self)) as advance:
            for place, found in zip(places, self.read(places, self.device), strict=True):
                rows = place if found.kept is None else place[found.kept]
                pixels[rows] = found.pixels
                kept.append(rows)
                advance(len(place))
        chosen = torch.cat(kept) if kept else torch.arange(0)
        if len(chosen) == len(self):
            return Images(pixels, self.labels)
        return Images(pixels[chosen], self.labels[chosen])

    def _positions(self, place: Places) -> Tensor:
        return torch.arange(len(self))[place] if isinstance(place, slice) else place.cpu()


class _Decoded(NamedTuple):
    """What a worker hands over: errors as text, as an exception would arrive with a traceback of many lines."""

    pixels: Tensor
    positions: Tensor
    kept: Tensor
    broken: BrokenFiles
    error: str = ""


class _Decoding(torch.utils.data.Dataset[_Decoded]):
    """The stream as a `DataLoader` sees it: an item is a batch, asked for by its positions."""

    def __init__(self, stream: Stream, key: str, transforms: ImageTransforms | None) -> None:
        # Only what is needed: the workers of some platforms get a pickled copy.
        self._pictures, self._numbers, self._look = stream.pictures, stream.numbers, stream.look
        self._skip, self._key, self._transforms = stream.skip_broken, key, transforms

    def __getitem__(self, positions: Tensor) -> _Decoded:
        ready = self._look.mode == READY
        pixels = np.empty((len(positions), *self._look.shape), np.float32 if ready else np.uint8)
        kept: list[int] = []
        broken: BrokenFiles = {}
        try:
            for place, position in enumerate(positions.tolist()):
                number = position if self._numbers is None else int(self._numbers[position])
                try:
                    with seeded(f"{self._key}/{position}") if ready else nullcontext():
                        self._read(number, position, pixels[len(kept)])
                    kept.append(place)
                except BrokenImage as error:
                    if not self._skip:
                        raise
                    broken[self._pictures.name(number)] = str(error)
        except DataError as error:
            return _Decoded(torch.empty(0), positions[:0], torch.empty(0), {}, str(error))
        whole = torch.tensor(kept, dtype=torch.int64)
        return _Decoded(torch.from_numpy(pixels)[: len(kept)], positions[whole], whole, broken)

    def _read(self, number: int, position: int, pixels: NDArray[Any]) -> None:
        with self._pictures.open(number) as picture:
            if isinstance(picture, Tensor):
                if tuple(picture.shape) != self._look.shape:
                    found = f"{tuple(picture.shape)}, others have {self._look.shape}"
                    raise DataError(f"{self._pictures.name(number)} has shape {found}: return tensors of one shape")
                pixels[:] = picture.numpy()
                return
            check_look(self._pictures.name(number), picture, self._look)
            if self._transforms is None:
                pixels[:] = pixels_of(picture, self._look)
                return
            look = whole(picture, self._look) if self._transforms.from_picture else self._look
            decoded = pixels_of(picture, look)
        array = torch.from_numpy(np.ascontiguousarray(decoded))
        pixels[:] = self._transforms(array, f"{self._key}/{position}")[0].numpy()


def _decoded(
    stream: Stream, asked: Iterable[Tensor], key: str, transforms: ImageTransforms | None, *, pin: bool
) -> Generator[_Decoded]:
    """Decode batches in worker processes; few images in this process."""
    decoding = _Decoding(stream, key, transforms)
    workers = _workers(stream)
    if not workers:
        for positions in asked:
            yield decoding[positions]
        return
    loader: Any = torch.utils.data.DataLoader(
        decoding, batch_size=None, sampler=_Asked(asked), num_workers=workers, prefetch_factor=AHEAD, pin_memory=pin,
        collate_fn=_unchanged, worker_init_fn=_undisturbed, generator=torch.Generator(),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        feed = iter(loader)
    _report_lost_workers_here(feed)
    while True:
        try:
            found = next(feed)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # the last two: it died with a batch half handed over
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise RunError(
                f"a process that decodes images was lost (killed, out of memory, or /dev/shm is full): use fewer than "
                f"{workers} workers (--set data.workers=N) or smaller batches; run the same command to resume"
            ) from error
        yield found


def _report_lost_workers_here(feed: Any) -> None:
    """Let `next(feed)` alone report a lost worker: PyTorch's handler of SIGCHLD raises wherever the program just is."""
    with suppress(AttributeError):  # private: without it, the error is the same, but of many lines
        torch._C._remove_worker_pids(id(feed))
        feed._worker_pids_set = False


class _Asked(torch.utils.data.Sampler[Tensor]):
    """The positions of every batch, in order."""

    def __init__(self, asked: Iterable[Tensor]) -> None:
        self._asked = asked

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._asked)


def _workers(stream: Stream) -> int:
    if len(stream) <= FEW:
        return 0
    if stream.workers is not None:
        return stream.workers
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The processes of torchrun share the processors.
    return max(min(there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 8), 1)


def _unchanged(found: Any) -> Any:
    return found


def _undisturbed(_: int) -> None:
    # Ctrl-C goes to all processes of a terminal; the main process saves after its step, and still needs the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
