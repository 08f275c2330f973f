"""A teacher's answers on disk: computed once for every image and view of it, and read again in later epochs."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.errors import RunError
from slimcnn.files import replacing, write_text


class Answers:
    """Logits (views, images, classes) in a memory-mapped file, float32; NaN where none has been computed yet.

    A row is there as a whole or is computed again, so that a run may be killed at any moment.
    """

    def __init__(self, path: Path, images: int, views: int, teacher: str) -> None:
        self.path, self._shape, self._teacher = path, (views, images), teacher
        self._rows: np.ndarray | None = None
        self._refuse_another_teacher()

    def read(self, view: int, indices: Tensor, classes: int | None = None) -> Tensor | None:
        """Give the logits (n, classes) of images, if all of them are there."""
        if self._rows is None and not self._open(classes):
            return None
        assert self._rows is not None
        found = torch.from_numpy(self._rows[view][indices.cpu().numpy()])
        return None if bool(found.isnan().any()) else found

    def write(self, view: int, indices: Tensor, logits: Tensor) -> None:
        """Keep the logits of images."""
        if self._rows is None:
            self._open(logits.shape[1])
        assert self._rows is not None
        self._rows[view][indices.cpu().numpy()] = logits.float().cpu().numpy()

    def _open(self, classes: int | None) -> bool:
        """Map the file, which is made as soon as the number of classes is known."""
        if not self.path.exists():
            if classes is None:
                return False
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                shape = (*self._shape, classes)
                made = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
                made[:] = np.nan
                made.flush()
            write_text(self._label, json.dumps({"teacher": self._teacher}) + "\n")
        self._rows = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        if self._rows.shape[:2] != self._shape:
            found = f"{self._rows.shape[0]} views of {self._rows.shape[1]} images"
            raise RunError(f"{self.path} holds {found}, not {self._shape[0]} of {self._shape[1]}: delete it")
        return True

    @property
    def _label(self) -> Path:
        return self.path.with_suffix(".json")

    def _refuse_another_teacher(self) -> None:
        if self.path.exists() and self._label.exists():
            known = json.loads(self._label.read_text(encoding="utf-8")).get("teacher")
            if known != self._teacher:
                raise RunError(f"{self.path} holds the answers of another teacher: delete it, or choose another file")


def digest_of(networks: list[nn.Module]) -> str:
    """Identify networks by their weights.

    >>> one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> digest_of([one]) == digest_of([one]), digest_of([one]) == digest_of([other])
    (True, False)
    """
    found = sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
