"""The training state on disk: written atomically, and read without unpickling code."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.errors import RunError
from slimcnn.files import replacing
from slimcnn.training.settings import Training

NAME = "state.pt"
_FORMAT = 4

_RENAMED = {
    "train_top1": "train_accuracy",
    "validation_top1": "validation_metric",
    "kept_top1": "kept_metric",
    "top1": "metric",
}
"""Names in format 3 → names now."""


def describe(model: nn.Module, dataset: Dataset, training: Training, steps: int) -> dict[str, Any]:
    """Return what must match a stored state to resume from it, as plain JSON data."""
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
    """Replace the folder's state; `RunError` if it cannot be written, then the old one is kept."""
    whole = {"format": _FORMAT, "description": json.dumps(description), **content}
    # Write from memory: torch.save hides the reason when the disk is full, a plain write raises OSError.
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    with replacing(folder / NAME) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(folder: Path, description: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the folder's state, None if there is none; `RunError` if it is damaged or belongs to another run."""
    path = folder / NAME
    try:
        if not path.exists():
            return None
        with ZipFile(path) as file:
            damaged = file.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, stored = content.pop("format"), json.loads(content.pop("description"))
        if version == 3:
            version, content = _FORMAT, content | _renamed(content)
    except Exception as error:  # on a damaged file, torch.load may raise any exception
        reason = str(error).partition("\n")[0][:80]
        raise RunError(f"cannot resume from {path}: it cannot be read ({reason}); delete it to start over") from error
    if version != _FORMAT:
        raise RunError(f"cannot resume from {path}: it has format {version}, this version reads {_FORMAT}")
    differences = list(_differences(stored, description))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        found = "; ".join(differences[:3]) + more
        raise RunError(f"{folder} holds another run: {found}; choose another folder, or the same settings to resume")
    return content


def _renamed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the history and the kept weights of a state of format 3, with the names of format 4."""

    def now(old: Mapping[str, Any]) -> dict[str, Any]:
        return {_RENAMED.get(name, name): value for name, value in old.items()}

    return {"history": [now(epoch) for epoch in content["history"]], "kept": content["kept"] and now(content["kept"])}


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in [*stored, *(key for key in current if key not in stored)]:
        old, new = stored.get(key, "absent"), current.get(key, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old}, now {new}"
