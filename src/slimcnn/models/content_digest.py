"""A digest of all tensors in a checkpoint, which shows whether the file changed since it was written."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor

DIGEST = "slimcnn_sha256"
"""Metadata key of the digest."""


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names.

    >>> one, other = {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}
    >>> content_digest(one) == content_digest({"a": torch.zeros(2, 3)}), content_digest(one) == content_digest(other)
    (True, False)
    """
    found = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode(errors="surrogatepass"))
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def difference(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Describe how the tensors of a file differ from the digest in its metadata; empty if they agree or it has none."""
    if DIGEST not in metadata or content_digest(tensors) == metadata[DIGEST]:
        return ""
    return "its tensors do not match its digest: the file was damaged or changed after it was written"
