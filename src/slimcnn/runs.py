"""The folder of a run: what it holds, and how a run goes on after any interruption."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.errors import RunError
from slimcnn.files import write_text
from slimcnn.recipes import Recipe, explain_difference, read_recipe, write_recipe

RECIPE, PLAN, PROGRESS = "recipe.toml", "plan.json", "progress.json"
REWRITTEN = "rewritten.safetensors"
ORIGINAL, SPARSE, COMPRESSED = "original.safetensors", "sparse.safetensors", "compressed.safetensors"
POINTS, ANSWERS = "search.log", "teacher.npy"


@dataclass
class RunFolder:
    """A run's folder, and what it has already found out.

    `facts` are kept in progress.json: what was measured once is not measured again when the run goes on.
    Only the writing process writes; under several processes the others hold the same facts in memory.
    """

    path: Path
    writing: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, recipe: Recipe) -> RunFolder:
        """Begin a run in its folder, or go on with it.

        Raises:
            RunError: the folder belongs to another run, or holds something else, or cannot be written to.
        """
        path = Path(recipe.out)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another output folder")
        known = path / RECIPE
        held = {item.name for item in path.iterdir() if item.name[0] != "."} if path.is_dir() else set()
        # A run that failed before it did anything leaves a recipe behind: the mended command may take its place.
        begun = known.exists() and bool(held - {RECIPE, PLAN})
        if begun:
            differences = explain_difference(read_recipe(known), recipe)
            if differences:
                raise RunError(f"{path} holds another run ({differences}); choose another --out, or delete the folder")
        elif held - {RECIPE, PLAN}:
            raise RunError(f"{path} is not empty and holds no run; choose another --out")
        if not begun:
            write_recipe(recipe, known)
        return cls(path, facts=_read_facts(path / PROGRESS))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def remember(self, **facts: Any) -> None:
        """Keep what was found out, on the disk at once."""
        self.facts |= facts
        if self.writing:
            write_text(self / PROGRESS, json.dumps(self.facts, indent=1) + "\n")


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and what it held is measured again") from error
    return facts
