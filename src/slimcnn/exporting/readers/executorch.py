"""Run an ExecuTorch program (.pte). Standalone: needs numpy and executorch, which requires torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` with this many threads (None: the runtime's default); return a function of arrays."""
    import torch
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    if threads and _threadpool_get_thread_count() != threads:
        _unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None

    def predict(*arrays: Any) -> Any:
        found = method.execute([torch.from_numpy(one) for one in arrays])
        outputs = [one.clone().numpy() for one in found]  # the runtime reuses its own memory
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict
