"""Settings that recipes and steps share: which network, which images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class Settings(BaseModel):
    """Read-only settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path else None


FilePath = Annotated[str | None, AfterValidator(_absolute)]
"""Kept absolute, so that a recipe means the same in every folder."""


class Network(Settings):
    """Which network, and where its trained weights are."""

    model: str = ""
    """A name, `timm:NAME`, `torchvision:NAME` or `package.module:function`; may be empty for a checkpoint."""
    weights: FilePath = None
    """.safetensors, a .pt that weights-only reading accepts, or a checkpoint."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Of the function that builds the network."""
    rewrite: str = ""
    """A rewrite that is part of the network, such as feature_reuse:variant=chain; weights are those of the result."""
    seed: int = Field(default=0, ge=0)
    """Draws the weights of a network that has none yet."""


class Normalizing(Settings):
    """x = (pixels / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Data(Settings):
    """Which images."""

    name: str = "digits"
    """A dataset's name or a folder of images per class."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels; default: as they are, and for a folder what the network was made for."""
    seed: int = Field(default=0, ge=0)
    """Chooses the validation images."""
    limit: int | None = Field(default=None, ge=10)
    """At most this many images of each part, for a quick try."""
    normalization: Literal["auto"] | Normalizing = "auto"
    """auto: the weights' own; where no file says which, the one with the least cross entropy on validation images."""


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong with which value.

    >>> try:
    ...     Data(seed=-1)
    ... except ValidationError as error:
    ...     explain(error)
    'seed = -1: Input should be greater than or equal to 0'
    """
    problems = []
    for found in error.errors()[:3]:
        place = ".".join(str(part) for part in found["loc"])
        value = f" = {found['input']!r}" if not isinstance(found["input"], dict) else ""
        message = found["msg"].removeprefix("Value error, ")
        problems.append(f"{place}{value}: {message}" if place else message)
    return "; ".join(problems)
