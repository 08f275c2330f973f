"""Where a run stands, on disk: whole or not there at all, and readable without unpickling code."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.errors import RunError
from slimcnn.files import replacing
from slimcnn.training.settings import Training

NAME = "state.pt"
_FORMAT = 2


def describe(model: nn.Module, dataset: Dataset, training: Training, steps: int) -> dict[str, Any]:
    """What a run must have in common with a stored state to go on from it, as plain JSON data."""
    tensors = {name: f"{tuple(t.shape)} {t.dtype}" for name, t in model.state_dict().items()}
    data = {
        "name": dataset.name,
        "classes": len(dataset.classes),
        "shape": dataset.shape,
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "labels": sha256(dataset.train.labels.cpu().numpy().tobytes()).hexdigest()[:12],
        "normalization": asdict(dataset.normalization),
        "augmentation": asdict(dataset.augmentation),
        "steps": steps,
    }
    settings = training.model_dump(exclude={"save_every_seconds"})
    plain: dict[str, Any] = json.loads(json.dumps({"training": settings, "dataset": data, "model": tensors}))
    return plain


def save_state(folder: Path, description: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Replace the folder's state; `RunError` if it cannot be written, and the old one stays."""
    whole = {"format": _FORMAT, "description": json.dumps(description), **content}
    # Through memory: torch.save to a full disk raises RuntimeErrors of its own, a plain write the system's reason.
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    with replacing(folder / NAME) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(folder: Path, description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The folder's state, None if there is none; `RunError` if it is damaged or belongs to another run."""
    path = folder / NAME
    try:
        if not path.exists():
            return None
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, stored = content.pop("format"), json.loads(content.pop("description"))
    except Exception as error:  # torch.load raises whatever the damaged byte leads to
        reason = str(error).partition("\n")[0][:80]
        raise RunError(f"cannot go on from {path}: it cannot be read ({reason}); delete it to begin again") from error
    if version != _FORMAT:
        raise RunError(f"cannot go on from {path}: it has format {version}, this version reads {_FORMAT}")
    differences = list(_differences(stored, description))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        found = "; ".join(differences[:3]) + more
        raise RunError(f"{folder} holds another run: {found}; choose another folder, or the same settings to go on")
    return content


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in [*there, *(key for key in here if key not in there)]:
        old, new = there.get(key, "absent"), here.get(key, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} is {old} there and {new} here"
