"""Which network an exported file came from, by a digest of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn


def source_digest(model: nn.Module) -> str:
    """Digest names, types, shapes and values of all parameters and buffers (SHA-256, hexadecimal).

    A network and its checkpoint, loaded again, have the same digest.

    >>> net = nn.Linear(2, 1)
    >>> before = source_digest(net)
    >>> _ = net.bias.data.add_(1)
    >>> len(before), source_digest(net) == before
    (64, False)
    """
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):  # what a module of the user's keeps besides weights
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """Digest a file, or all files of a folder with their names (SHA-256, hexadecimal)."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    for inner in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        found.update(f"{inner.relative_to(path).as_posix()} {file_digest(inner)}\n".encode())
    return found.hexdigest()
