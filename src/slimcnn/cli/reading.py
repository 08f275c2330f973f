"""Parse command-line options into recipes and network settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimcnn.running import Recipe


def network_and_data(
    model: str, weights: Path | None, data: str, arguments: list[str], image_size: str | None, limit: int | None,
    seed: int, rewrite: str = "", option: str = "--model-arg", verify: bool = True, task: str | None = None, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the recipe sections `network` and `data`."""
    return {
        "network": {"model": model, "arguments": arguments_of(arguments, option), "seed": seed, "verify": verify}
        | given(weights=str(weights) if weights else None, rewrite=rewrite or None),
        "data": {"name": data, "seed": seed} | given(image_size=image_size, limit=limit, task=task) | how,
    }


def reading(stream: bool | None, skip_broken: bool, resize: int | None = None) -> dict[str, Any]:
    """Return the settings of how images are read, where they differ from the default.

    >>> reading(True, False)
    {'stream': True}
    """
    return given(stream=stream, skip_broken=skip_broken or None, resize=resize)


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def arguments_of(texts: list[str], option: str = "--model-arg") -> dict[str, Any]:
    """Parse the constructor arguments of a network.

    >>> arguments_of(["shortcut=B", "width=0.5"])
    {'shortcut': 'B', 'width': 0.5}
    """
    return dict(assignment(text, option) for text in texts)


def shape_of(text: str) -> tuple[int, ...] | None:
    """Parse the shape of one input; None if the text is empty.

    >>> shape_of("3x224x224"), shape_of("")
    ((3, 224, 224), None)
    """
    from slimcnn.errors import ModelError

    if not text:
        return None
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ModelError(f"--input {text!r}: expected a shape such as 3x224x224")
    return tuple(int(size) for size in sizes)


def shapes_of(text: str) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Parse the shape of one input, or the shapes of several named inputs as a JSON object.

    >>> shapes_of('{"image": "3x8x8", "mask": "1x8x8"}')
    {'image': (3, 8, 8), 'mask': (1, 8, 8)}
    """
    from slimcnn.errors import ModelError

    if not text.lstrip().startswith("{"):
        return shape_of(text)
    try:
        named = json.loads(text)
    except (ValueError, RecursionError):
        named = None
    shapes = {name: shape_of(one) for name, one in named.items() if isinstance(one, str)} if named else {}
    if not named or len(shapes) < len(named) or None in shapes.values():
        raise ModelError(f'--input {text!r}: expected JSON such as {{"image": "3x224x224", "mask": "1x224x224"}}')
    return {name: shape for name, shape in shapes.items() if shape is not None}


def assignment(text: str, option: str) -> tuple[str, Any]:
    """Parse name=value; the value is parsed as JSON if possible, else it is text.

    >>> assignment("shortcut=B", "--model-arg"), assignment("width=0.5", "--model-arg")
    (('shortcut', 'B'), ('width', 0.5))
    """
    from slimcnn.errors import RecipeError

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RecipeError(f"{option} {text!r}: expected name=value")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def recipe_of(plain: dict[str, Any], settings: list[str]) -> Recipe:
    """Apply --set options to plain data and build the recipe."""
    from slimcnn.running.recipe import put, recipe_from

    for text in settings:
        path, value = assignment(text, "--set")
        first, *rest = path.split(".")
        for place in _places(plain, first, text) if rest else [None]:
            put(plain if place is None else place, rest if place is not None else [first], value, f"--set {text}")
    return recipe_from(plain)


def _places(plain: dict[str, Any], first: str, text: str) -> list[dict[str, Any]]:
    """Return the tables that `first` selects in --set: network or data, a step by number, or steps by name."""
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
    raise RecipeError(f"--set {text!r}: {first!r} is not network, data or one of the steps: {names}")
