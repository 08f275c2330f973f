"""Run a torch.export program (.pt2) or TorchScript (.torchscript) in PyTorch. Standalone: needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` on the CPU with this many threads (None: PyTorch's default); return a function of arrays."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if path.endswith(".torchscript"):
        model = torch.jit.load(path, map_location="cpu").eval()
    else:
        model = torch.export.load(path).module()

    def predict(*arrays: Any) -> Any:
        with torch.no_grad():
            found = model(*map(torch.from_numpy, arrays))
        return tuple(one.numpy() for one in found) if isinstance(found, tuple | list) else found.numpy()

    return predict
