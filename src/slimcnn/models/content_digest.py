"""A digest of all tensors in a checkpoint, which shows whether the file changed since it was written."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from slimcnn.digests import tensors_digest

DIGEST = "slimcnn_sha256"
"""Metadata key of the digest."""


def difference(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Describe how the tensors of a file differ from the digest in its metadata; empty if they agree or it has none."""
    if DIGEST not in metadata or tensors_digest(tensors) == metadata[DIGEST]:
        return ""
    return "its tensors do not match its digest: the file was damaged or changed after it was written"
