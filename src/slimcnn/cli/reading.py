"""From options to recipes and networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimcnn.recipes import Recipe


def how_to_recover(recover: str | None, training: dict[str, Any]) -> str:
    """Refuse settings of a training that would not take place; choose one where they are given alone."""
    from slimcnn.errors import RecipeError
    from slimcnn.recipes import trains

    asked = [name for name in ("epochs", "learning_rate", "batch_size") if name in training]
    if recover is None:
        return "least_squares+distill" if asked else "least_squares"
    if asked and not trains(recover):
        option = asked[0].replace("_", "-")
        raise RecipeError(f"--{option} is for training, and --recover {recover} does not train: add +distill")
    return recover


def sparsify_and_search(
    plain: dict[str, Any], method: str | None, sparse: int | None, drop: float | None, storage: str | None, seed: int
) -> None:
    """Add sparse training and a search to a recipe's plain data, where the user asks for them."""
    from slimcnn.errors import RecipeError

    if method not in (None, "gfr"):
        raise RecipeError(f"--method {method!r}: the method with a name is gfr; others are criteria (--criterion)")
    if method == "gfr":
        target = plain["prune"]["target"] | {"scope": "global", "residual": "inner"}
        plain["prune"] |= {"criterion": "gfr", "target": target | {"min_channels": 2, "min_share": 0.05}}
        drop = 0.5 if drop is None and "macs" in target and target["macs"] == 0.5 else drop
        if plain["recover"]["how"] == "least_squares":
            plain["recover"]["how"] = "constants"
    if method == "gfr" or sparse is not None:
        relations = "mean" if method == "gfr" else "none"
        plain["sparsify"] = {
            "relations": relations, "training": {"epochs": 40 if sparse is None else sparse, "seed": seed},
        }  # fmt: skip
    if drop is not None:
        searched = {"a": [0.25, 0.5, 0.75, 1]} if method == "gfr" else {}
        plain["prune"]["search"] = {"drop": drop, "options": searched, "seed": seed} | given(storage=storage)
    elif storage is not None:
        raise RecipeError("--storage is for a search: add --drop")


def given(**values: Any) -> dict[str, Any]:
    """Leave out what the user did not say."""
    return {name: value for name, value in values.items() if value is not None}


def network_and_data(
    model: str, weights: Path | None, data: str, arguments: list[str], image_size: int | None, limit: int | None,
    seed: int, rewrite: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Write the two sections of a recipe that say what a command is about."""
    return {
        "network": {"model": model, "arguments": dict(assignment(text, "--model-arg") for text in arguments)}
        | given(weights=str(weights) if weights else None, rewrite=rewrite or None),
        "data": {"name": data, "seed": seed} | given(image_size=image_size, limit=limit),
    }


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
    from slimcnn.errors import RecipeError
    from slimcnn.recipes import recipe_from

    for text in settings:
        path, value = assignment(text, "--set")
        *sections, name = path.split(".")
        place = plain
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {text!r}: {section} is no section of the recipe")
        place[name] = value
    return recipe_from(plain)


def network_of(
    model: str, weights: Path | None, arguments: list[str], shape: str, rewrite: str = ""
) -> tuple[Any, Any]:
    """Build a network and one input for it, without a dataset."""
    import torch

    from slimcnn.checkpoints import is_checkpoint, load, read_information
    from slimcnn.errors import ModelError
    from slimcnn.models import load_weights, preprocessing, resolve
    from slimcnn.rewriting import replace

    options = dict(assignment(text, "--model-arg") for text in arguments)
    size: tuple[int, ...] | None = None
    if weights is not None and is_checkpoint(weights):
        network = load(weights, resolve(model, **options) if ":" in model else None)
        size = tuple(read_information(weights).get("input", ())) or None
    elif not model:
        raise ModelError("which network? give --model NAME (see slimcnn list networks), or --weights CHECKPOINT")
    else:
        network = resolve(model, **options).eval()
        if weights is not None:
            load_weights(network, weights)
    if shape:
        try:
            size = tuple(int(n) for n in shape.lower().split("x"))
        except ValueError:
            raise ModelError(f"--input {shape!r}: expected a shape like 3x224x224") from None
    size = size or preprocessing(network).input
    if size is None:
        raise ModelError("what does the network expect? give --input, for example --input 3x224x224")
    example = torch.zeros(1, *size)
    return (replace(network, rewrite, example) if rewrite else network), example
