"""Recipes: network, data and steps of a run, stored as TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from slimcnn.errors import RecipeError
from slimcnn.files import read_text, write_text
from slimcnn.running.settings import Data, Network, Settings, Utf8, explain
from slimcnn.running.step import Step, steps

Size = Annotated[float, Field(gt=0, le=1)]


class Recipe(Settings):
    """All settings of a run; the copy in the run folder reproduces the run.

    >>> recipe = parse_recipe('''
    ... [network]
    ... model = "resnet8"
    ... [[steps]]
    ... step = "train"
    ... epochs = 3
    ... ''')
    >>> [step.name for step in recipe.steps], recipe.steps[0].epochs
    (['train'], 3)
    """

    network: Network
    data: Data = Field(default_factory=Data)
    steps: tuple[SerializeAsAny[Step], ...]
    """Steps, in order (`slimcnn list steps`)."""
    curve: tuple[Size, ...] = ()
    """Fractions of the MACs. Steps from the first `prune` on run once per size; tracing and scoring run only once."""
    deterministic: bool = False
    """Train in layout nchw and precision 32 instead of the fastest here: bit-identical across run folders."""
    latency_seconds: float = Field(default=4.0, gt=0)
    """Time budget for measuring the latency of both networks at the end."""
    out: Utf8 = "runs/run"
    """The run folder."""

    @model_validator(mode="after")
    def _has_steps(self) -> Recipe:
        if not self.steps:
            raise ValueError("the recipe has no steps: add [[steps]] (see slimcnn list steps)")
        if self.curve and "prune" not in [step.name for step in self.steps]:
            raise ValueError("curve: there is no prune step to vary; add one")
        return self

    def plain(self) -> dict[str, Any]:
        """Return all settings as plain data, including default values."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True, exclude={"steps"})
        out = {"out": found.pop("out")}
        rows = [
            {"step": step.name} | step.model_dump(mode="json", exclude_none=True, serialize_as_any=True)
            for step in self.steps
        ]
        return out | found | {"steps": rows}

    def to_toml(self) -> str:
        """Return the recipe as TOML, including default values."""
        import tomli_w

        return tomli_w.dumps(self.plain())


def recipe_from(plain: Mapping[str, Any], place: str = "the settings") -> Recipe:
    """Build a recipe from plain data.

    Raises:
        RecipeError: a step or key is unknown, or a value is invalid; the message names it.

    >>> recipe_from({"network": {"model": "resnet8"}, "steps": [{"step": "train", "epochs": 0}]})
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: the settings: step 1, train: epochs = 0: Input should be greater than or equal to 1
    """
    rows = plain.get("steps", [])
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(isinstance(row, Mapping) for row in rows):
        raise RecipeError(f"{place}: steps is not a list of tables: write [[steps]] above each")
    chain = tuple(_step_from(row, f"{place}: step {number}") for number, row in enumerate(rows, 1))
    try:
        return Recipe.model_validate(dict(plain) | {"steps": chain})
    except ValidationError as error:
        raise RecipeError(f"{place}: {explain(error, Recipe)}") from error


def _step_from(row: Mapping[str, Any], place: str) -> Step:
    name = row.get("step")
    if not isinstance(name, str):
        raise RecipeError(f'{place} has no name: write step = "prune" (see slimcnn list steps)')
    settings = {key: value for key, value in row.items() if key != "step"}
    kind = steps[name].value
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(f"{place}, {name}: {explain(error, kind)}") from error


def with_seed(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return steps as plain data, with this seed wherever a step has one and none is given.

    >>> with_seed([{"step": "train"}, {"step": "fold_constants"}], 3)
    [{'seed': 3, 'step': 'train'}, {'step': 'fold_constants'}]
    """
    return [
        {"seed": seed} | dict(row) if "seed" in steps[row["step"]].value.model_fields else dict(row) for row in rows
    ]


def parse_recipe(text: str, place: str = "the recipe") -> Recipe:
    """Parse a recipe from TOML text; raises `RecipeError` for invalid TOML, and where `recipe_from` does."""
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise RecipeError(f"{place} is not TOML: {error}") from error
    return recipe_from(plain, place)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a file."""
    return parse_recipe(read_text(Path(path), RecipeError, "recipe"), str(path))


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe to a file."""
    write_text(path, recipe.to_toml())


# --- steps on one line ------------------------------------------------------------------------------------------------


def steps_from_line(line: str) -> list[dict[str, Any]]:
    """Parse steps from one line: names joined by " + ", each with comma-separated options after a colon.

    Values are parsed as JSON if possible, else they are text. `a.b=1` sets b in the table a. A value without a name is
    appended to the previous option, which becomes a list. Quotes protect commas.

    >>> steps_from_line("prune:macs=0.5,protect=conv1,fc + least_squares")
    [{'step': 'prune', 'macs': 0.5, 'protect': ['conv1', 'fc']}, {'step': 'least_squares'}]
    >>> steps_from_line("distill:loss='kd:temperature=2,x=1',epochs=5")
    [{'step': 'distill', 'loss': 'kd:temperature=2,x=1', 'epochs': 5}]
    """
    found = []
    for text in re.split(r"\s+\+\s+", line.strip()):
        name, _, options = text.partition(":")
        row: dict[str, Any] = {"step": name.strip()}
        for key, value in _options(options, text):
            put(row, key.split("."), value, text)
        found.append(row)
    return found


def _options(text: str, whole: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    pieces = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\{[^}]*\}|[^,'\"\[{])+", text)
    for piece in pieces:
        match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*=\s*(.*?)\s*", piece)
        if match:
            found.append((match[1], value_of(match[2])))
        elif found:
            key, value = found[-1]
            found[-1] = (key, [*(value if isinstance(value, list) else [value]), value_of(piece.strip())])
        else:
            raise RecipeError(
                f"--steps {whole!r}: {piece.strip()!r} is not an option: write name=value, such as prune:macs=0.5"
            )
    return found


def value_of(text: str) -> Any:
    """Parse a value as JSON if possible, else return it as text without enclosing quotes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text


def put(place: dict[str, Any], path: Sequence[str], value: Any, asked: str) -> None:
    """Set a value in nested plain data; missing tables are created."""
    *sections, name = path
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise RecipeError(f"{asked!r}: {section} is not a table")
    place[name] = value
