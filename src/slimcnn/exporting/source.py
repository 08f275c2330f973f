"""Digests of weights and files; they identify the network that an exported file came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from slimcnn.digests import tensors_digest


def source_digest(model: nn.Module) -> str:
    """Return the SHA-256 (hexadecimal) of names, types, shapes and values of all parameters and buffers.

    A network and its reloaded checkpoint have the same digest.

    >>> net = nn.Linear(2, 1)
    >>> before = source_digest(net)
    >>> _ = net.bias.data.add_(1)
    >>> len(before), source_digest(net) == before
    (64, False)
    """
    return tensors_digest(model.state_dict())


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a file, or of all files of a folder and their names."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    for inner in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        found.update(f"{inner.relative_to(path).as_posix()} {file_digest(inner)}\n".encode())
    return found.hexdigest()
