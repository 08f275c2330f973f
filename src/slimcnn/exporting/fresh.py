"""Run an exported file in a fresh process that cannot import slimcnn (and PyTorch).

This file is a script, not a module of the package: `python -P fresh.py job.json`. Needs numpy and the runtime.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(job: dict[str, Any]) -> None:
    """Run the arrays in `job["inputs"]` (.npz), `job["batch"]` samples per call; write them to `job["outputs"]`."""
    for name in job["blocked"]:
        sys.modules[name] = None  # type: ignore[assignment] # importing it raises ImportError
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
    outputs |= {f"rows{i}": np.array([len(one) for one in each]) for i, each in enumerate(zip(*parts, strict=True))}
    for name in job["blocked"]:
        if sys.modules.get(name) is not None or any(known.startswith(f"{name}.") for known in sys.modules):
            raise SystemExit(f"{name} was imported, but the file must run without it")
    np.savez(job["outputs"], **outputs)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
