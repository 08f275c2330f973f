"""Run an ncnn model (.ncnn.param with .ncnn.bin). Standalone: needs numpy and ncnn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` (.ncnn.param) with this many threads (None: the runtime's default); return a function of arrays."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    if threads:
        net.opt.num_threads = threads
    for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, narrow, False)  # float32 throughout
    if net.load_param(path) or net.load_model(path.removesuffix(".param") + ".bin"):
        raise ValueError("ncnn does not support a layer of the file, or the file is damaged")
    inputs, outputs = net.input_names(), net.output_names()

    def one_image(*arrays: Any) -> list[Any]:
        extractor = net.create_extractor()
        for name, array in zip(inputs, arrays, strict=True):
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(array)).clone())
        return [np.array(extractor.extract(name)[1]) for name in outputs]

    def predict(*arrays: Any) -> Any:
        answers = [one_image(*each) for each in zip(*arrays, strict=True)]  # ncnn has no batch axis
        found = tuple(np.stack(each) for each in zip(*answers, strict=True))
        return found[0] if len(found) == 1 else found

    return predict
