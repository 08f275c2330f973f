"""List everything that can be selected by name: networks, criteria, losses and so on."""

from __future__ import annotations

import importlib
from typing import Any

from slimcnn.errors import UnknownName
from slimcnn.registry import Registry
from slimcnn.reporting.sections import Section
from slimcnn.views.view import View, table

REGISTRIES = {
    "steps": "slimcnn.running",
    "networks": "slimcnn.models",
    "criteria": "slimcnn.pruning",
    "rewrites": "slimcnn.rewriting",
    "losses": "slimcnn.distillation",
    "tasks": "slimcnn.tasks",
    "datasets": "slimcnn.datasets",
    "image_sources": "slimcnn.datasets",
    "augmentations": "slimcnn.datasets",
    "formats": "slimcnn.exporting",
    "engines": "slimcnn.exporting.quantizing",
    "measures": "slimcnn.studying",
}
"""Kind → the package with a registry of that name."""


def names(kind: str = "all") -> View:
    """List registered names with their summaries and sources, or the settings of one step.

    Data: kind → list of `name`, `summary` and `source`.

    Raises:
        UnknownName: there is no such kind.

    >>> [entry["name"] for entry in names("rewrites").data["rewrites"]]
    ['feature_reuse', 'materialize', 'relations', 'scatter']
    """
    if kind != "all" and kind not in REGISTRIES:
        steps = _entries("steps", REGISTRIES["steps"])
        if kind in [entry["name"] for entry in steps]:
            return _settings_of(kind)
        raise UnknownName("kind", kind, [*REGISTRIES, *(entry["name"] for entry in steps)])
    chosen = REGISTRIES if kind == "all" else {kind: REGISTRIES[kind]}
    found = {name: _entries(name, room) for name, room in chosen.items()}
    return View(
        title="Names",
        headline=", ".join(f"{len(entries)} {name}" for name, entries in found.items()),
        sections=tuple(_section(name, entries) for name, entries in found.items()),
        data=found,
    )


def _settings_of(step: str) -> View:
    """List the settings of a step."""
    from slimcnn.running import steps

    entry = steps[step]
    data = [
        {"name": name, "default": field.get_default(call_default_factory=True), "what": field.description or ""}
        for name, field in entry.value.model_fields.items()
    ]
    rows = [(one["name"], _written(one["default"]), " ".join(one["what"].split())) for one in data]
    settings = table({"setting": "name", "default": "name", "description": "text"}, rows)
    return View(
        title=f"Step {step}",
        headline=entry.summary,
        sections=(Section(title=f"Settings of {step}", blocks=(settings,)),),
        data={
            "step": step,
            "summary": entry.summary,
            "settings": [one | {"default": _plain(one["default"])} for one in data],
        },
    )


def _written(default: Any) -> str:
    return "" if default is None else str(_plain(default))


def _plain(default: Any) -> Any:
    return default.model_dump(mode="json") if hasattr(default, "model_dump") else default


def _entries(name: str, room: str) -> list[dict[str, str]]:
    registry: Registry[Any] = getattr(importlib.import_module(room), name)
    return [{"name": entry.name, "summary": entry.summary, "source": entry.source} for entry in registry]


def _section(name: str, entries: list[dict[str, str]]) -> Section:
    rows = [(entry["name"], entry["summary"], entry["source"]) for entry in entries]
    return Section(title=name, blocks=(table({"name": "name", "what it does": "text", "source": "text"}, rows),))
