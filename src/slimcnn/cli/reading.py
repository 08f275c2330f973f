"""From options to recipes and networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimcnn.running import Recipe


def network_and_data(
    model: str, weights: Path | None, data: str, arguments: list[str], image_size: int | None, limit: int | None,
    seed: int, rewrite: str = "", option: str = "--model-arg",
) -> dict[str, Any]:  # fmt: skip
    """Write the two sections of a recipe that say what a command is about."""
    return {
        "network": {"model": model, "arguments": arguments_of(arguments, option), "seed": seed}
        | given(weights=str(weights) if weights else None, rewrite=rewrite or None),
        "data": {"name": data, "seed": seed} | given(image_size=image_size, limit=limit),
    }


def given(**values: Any) -> dict[str, Any]:
    """Leave out what the user did not say."""
    return {name: value for name, value in values.items() if value is not None}


def arguments_of(texts: list[str], option: str = "--model-arg") -> dict[str, Any]:
    """Read the arguments of a network.

    >>> arguments_of(["shortcut=B", "width=0.5"])
    {'shortcut': 'B', 'width': 0.5}
    """
    return dict(assignment(text, option) for text in texts)


def shape_of(text: str) -> tuple[int, ...] | None:
    """Read the shape of one image; None where the user gave none.

    >>> shape_of("3x224x224"), shape_of("")
    ((3, 224, 224), None)
    """
    from slimcnn.errors import ModelError

    if not text:
        return None
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ModelError(f"--input {text!r}: expected a shape like 3x224x224")
    return tuple(int(size) for size in sizes)


def assignment(text: str, option: str) -> tuple[str, Any]:
    """Read name=value; a value that is JSON counts as such, anything else as text.

    >>> assignment("shortcut=B", "--model-arg"), assignment("width=0.5", "--model-arg")
    (('shortcut', 'B'), ('width', 0.5))
    """
    from slimcnn.errors import RecipeError

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RecipeError(f"{option} {text!r}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def recipe_of(plain: dict[str, Any], settings: list[str]) -> Recipe:
    """Apply --set to plain data and check it."""
    from slimcnn.running.recipe import put, recipe_from

    for text in settings:
        path, value = assignment(text, "--set")
        first, *rest = path.split(".")
        for place in _places(plain, first, text) if rest else [None]:
            put(plain if place is None else place, rest if place is not None else [first], value, f"--set {text}")
    return recipe_from(plain)


def _places(plain: dict[str, Any], first: str, text: str) -> list[dict[str, Any]]:
    """What `first` means in --set: a table of the recipe, the number of a step, or the name of steps."""
    from slimcnn.errors import RecipeError

    rows = plain.get("steps", [])
    if first.isdecimal() and 1 <= int(first) <= len(rows):
        return [rows[int(first) - 1]]
    named = [row for row in rows if row["step"] == first]
    if named:
        return named
    if first in ("network", "data"):
        return [plain.setdefault(first, {})]
    names = ", ".join(dict.fromkeys(row["step"] for row in rows))
    raise RecipeError(f"--set {text!r}: {first!r} is neither network, data nor one of the steps here: {names}")
