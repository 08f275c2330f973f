"""Cache of teacher logits on disk: computed once per image and view, and read in later epochs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.digests import json_digest, tensors_digest
from slimcnn.errors import RunError
from slimcnn.files import replacing, write_text


class Answers:
    """Logits (views, images, classes) in a memory-mapped file, float32; NaN where not computed yet.

    An incomplete row is computed again, so that a run may be killed at any moment. All disk space is allocated when
    the file is created: with a memory map, a full disk would end the process with SIGBUS.

    Raises:
        RunError: the file belongs to another teacher, has another number of images or views, is damaged, or does not
            fit on the disk.
    """

    def __init__(self, path: Path, images: int, views: int, teacher: str) -> None:
        self.path, self._shape, self._teacher = path, (views, images), teacher
        self._rows: np.ndarray | None = None
        self._refuse_another_teacher()

    def read(self, view: int, indices: Tensor, classes: int | None = None) -> Tensor | None:
        """Return the logits (n, classes) of images, or None if some are not computed yet."""
        if self._rows is None and not self._open(classes):
            return None
        assert self._rows is not None
        found = torch.from_numpy(self._rows[view][indices.cpu().numpy()])
        return None if bool(found.isnan().any()) else found

    def write(self, view: int, indices: Tensor, logits: Tensor) -> None:
        """Store the logits of images."""
        if self._rows is None:
            self._open(logits.shape[1])
        assert self._rows is not None
        self._rows[view][indices.cpu().numpy()] = logits.float().cpu().numpy()

    def _open(self, classes: int | None) -> bool:
        """Map the file; create it first if it is missing and the number of classes is known."""
        if not self.path.exists():
            if classes is None:
                return False
            self._make(classes)
        try:
            self._rows = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"cannot read the teacher logits in {self.path} ({reason}): delete it") from error
        if self._rows.shape[:2] != self._shape:
            found = f"{self._rows.shape[0]} views of {self._rows.shape[1]} images"
            raise RunError(f"{self.path} holds {found}, not {self._shape[0]} of {self._shape[1]}: delete it")
        return True

    def _make(self, classes: int) -> None:
        # Write the label first: logits without one cannot be assigned to a teacher.
        write_text(self._label, json.dumps({"teacher": self._teacher}) + "\n")
        try:
            with replacing(self.path) as temporary:
                _fill(temporary, (*self._shape, classes), self.path)
        except BaseException:
            self._label.unlink(missing_ok=True)
            raise

    @property
    def _label(self) -> Path:
        return self.path.with_suffix(".json")

    def _refuse_another_teacher(self) -> None:
        if not self.path.exists():
            return
        try:
            known = json.loads(self._label.read_text(encoding="utf-8"))["teacher"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self._label} does not identify the teacher of {self.path}: delete both") from error
        if known != self._teacher:
            raise RunError(f"{self.path} holds the logits of another teacher: delete it, or choose another file")


def _fill(temporary: Path, shape: tuple[int, int, int], path: Path) -> None:
    """Write an array of NaN without holes in the file; `RunError` with the size if the disk is full."""
    numbers = shape[0] * shape[1] * shape[2]
    size, block = 4 * numbers, np.full(1 << 18, np.nan, dtype=np.float32)
    try:
        if size > shutil.disk_usage(temporary.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary.open("wb") as file:
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            if size and hasattr(os, "posix_fallocate"):  # fails at once, without filling the disk first
                os.posix_fallocate(file.fileno(), file.tell(), size)
            for start in range(0, numbers, len(block)):
                file.write(block[: numbers - start].tobytes())
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; it needs {size / 1e6:.1f} MB for {shape[0]} views of "
            f"{shape[1]} images: free some space, choose another file or fewer views"
        ) from error


def digest_of(networks: list[nn.Module]) -> str:
    """Return a hash of the networks' weights.

    >>> one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> digest_of([one]) == digest_of([one]), digest_of([one]) == digest_of([other])
    (True, False)
    """
    return json_digest([tensors_digest(network.state_dict()) for network in networks])[:16]
