"""A fresh process that opens an exported file and answers images, where slimcnn (and PyTorch) cannot be imported.

This file is a script, not a part of the package: `python -P fresh.py job.json`. It needs numpy and the runtime.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(job: dict[str, Any]) -> None:
    """Answer the arrays in `job["inputs"]` (.npz), `job["batch"]` samples at once, into `job["outputs"]`."""
    for name in job["blocked"]:
        sys.modules[name] = None  # type: ignore[assignment] # importing it now raises ImportError
    spec = importlib.util.spec_from_file_location("reader", job["reader"])
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    predict = reader.open_model(job["model"], job["threads"])
    with np.load(job["inputs"]) as held:
        inputs = [held[f"input{i}"] for i in range(len(held.files))]
    parts = []
    for start in range(0, len(inputs[0]), job["batch"]):
        found = predict(*[one[start : start + job["batch"]] for one in inputs])
        parts.append(found if isinstance(found, tuple) else (found,))
    outputs: dict[str, Any] = {f"output{i}": np.concatenate(each) for i, each in enumerate(zip(*parts, strict=True))}
    for name in job["blocked"]:
        if sys.modules.get(name) is not None or any(known.startswith(f"{name}.") for known in sys.modules):
            raise SystemExit(f"{name} was imported, although the file must run without it")
    np.savez(job["outputs"], **outputs)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
