"""SHA-256 of tensors and of JSON data, by which files and results are recognized."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names.

    Values that are not tensors (the extra state of a user's module) are left out.

    >>> import torch
    >>> one, other = {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}
    >>> tensors_digest(one) == tensors_digest({"a": torch.zeros(2, 3)}), tensors_digest(one) == tensors_digest(other)
    (True, False)
    """
    import torch  # json_digest serves code that must not wait for it

    found = sha256()
    for name in sorted(tensors):
        if not torch.is_tensor(tensors[name]):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode(errors="surrogatepass"))
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def json_digest(content: Any) -> str:
    """Return the SHA-256 of JSON data; the order of keys does not matter.

    >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    True
    """
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
