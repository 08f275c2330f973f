"""Settings shared by recipes and steps: network and data."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slimcnn.datasets.scaling import ImageSize, Interpolation, by, sides
from slimcnn.errors import did_you_mean
from slimcnn.models.pretrained import PRETRAINED


class Settings(BaseModel):
    """Read-only settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absolute(path: str | None) -> str | None:
    if path == PRETRAINED:
        return path
    # not Path.resolve and Path.expanduser: they raise RuntimeError for a loop of links and an unknown user
    return os.path.realpath(os.path.expanduser(_in_utf8(path))) if path else None


def _in_utf8(text: str) -> str:
    """Refuse a path whose name is not UTF-8: no file of a run could hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the name is not UTF-8: rename the file or folder") from None
    return text


Utf8 = Annotated[str, AfterValidator(_in_utf8)]
"""Text that can be written to a file."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


FilePath = Annotated[str | None, AfterValidator(_absolute)]
"""Stored as an absolute path, so that a recipe works from every folder."""


class Network(Settings):
    """The network and its trained weights."""

    model: str = ""
    """A name, `timm:NAME`, `torchvision:NAME` or `package.module:function`; optional for a checkpoint."""
    weights: FilePath = None
    """.safetensors, a .pt that loads with weights_only=True, a checkpoint, or pretrained: the weights that timm or
    torchvision publishes for the network."""
    verify: bool = True
    """Compare a checkpoint with its digest, which shows damage."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Model constructor arguments."""
    rewrite: str = ""
    """Rewrite applied to the network, such as feature_reuse:variant=chain; the weights are of the rewritten network."""
    seed: Seed = 0
    """Random seed of the initial weights."""

    @property
    def published(self) -> bool:
        """Whether the weights are those that timm or torchvision publishes."""
        return self.weights == PRETRAINED


class Normalizing(Settings):
    """x = (pixels / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Data(Settings):
    """The dataset."""

    name: str = "digits"
    """Name of a dataset, or a folder with one subfolder of images per class."""
    image_size: ImageSize | None = None
    """Size of the images in pixels, such as 224, or height and width, such as 224x320; default: that which they have;
    for a folder, the network's input size."""
    resize: int | None = Field(default=None, ge=1)
    """Scale the shorter side of pictures to this many pixels, then crop the center to image_size; default: what
    published weights of timm and torchvision state (256 for 224), else as few pixels as the crop allows."""
    interpolation: Interpolation | None = None
    """How pictures are scaled; default: as published with the weights, else bicubic."""
    task: str | None = None
    """What the network is for (`slimcnn list tasks`), or package.module:Task; default: what the data says."""
    seed: Seed = 0
    """Random seed of the validation split."""
    limit: int | None = Field(default=None, ge=10)
    """Maximum number of images of each split, for a quick try."""
    stream: bool | None = None
    """Decode images of a folder while they are read, instead of once into memory; default: if they do not fit into the
    free memory."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that decode the images of a stream; default: one per processor, at most 8."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, and count them; otherwise they are errors."""
    normalization: Literal["auto"] | Normalizing = "auto"
    """Normalization for weights that state none. auto: that with the lowest cross entropy on validation images."""

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `load_dataset`: how images are read."""
        return self.model_dump(include={"stream", "workers", "skip_broken", "resize", "interpolation"})

    @field_validator("image_size", mode="before")
    @classmethod
    def _size_of_text(cls, size: Any) -> Any:
        if not isinstance(size, str):
            return tuple(size) if isinstance(size, list) else size
        sides = size.lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() for side in sides):
            raise ValueError("expected a number of pixels such as 224, or height and width such as 224x320")
        return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))

    @field_validator("image_size")
    @classmethod
    def _pixels(cls, size: ImageSize | None) -> ImageSize | None:
        if size is not None and min(sides(size)) < 1:
            raise ValueError("use at least 1 pixel")
        return size

    @model_validator(mode="after")
    def _crop_fits(self) -> Data:
        if self.resize is not None and self.image_size is not None and self.resize < max(sides(self.image_size)):
            size = by(sides(self.image_size))
            raise ValueError(f"resize {self.resize} is smaller than image_size {size}, which is cropped from it")
        return self


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return the invalid values and the reasons in one line; the model tells which setting was probably meant.

    >>> try:
    ...     Data(seed=-1)
    ... except ValidationError as error:
    ...     explain(error)
    'seed = -1: Input should be greater than or equal to 0'
    >>> try:
    ...     Data(sead=1)
    ... except ValidationError as error:
    ...     explain(error, Data)
    "sead = 1: unknown setting: did you mean 'seed'?"
    """
    problems = []
    for found in error.errors()[:3]:
        place = ".".join(str(part) for part in found["loc"])
        value = f" = {_brief(found['input'])}" if not isinstance(found["input"], dict) else ""
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            message = "unknown setting" + did_you_mean(str(found["loc"][-1]), _settings_at(model, found["loc"][:-1]))
        problems.append(f"{place}{value}: {message}" if place else message)
    return "; ".join(problems)


def _settings_at(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> list[str]:
    """Return the names of the settings in a part of a model, such as ("network",)."""
    for part in place:
        field = model.model_fields.get(str(part)) if model is not None else None
        kinds = [field.annotation, *get_args(field.annotation)] if field is not None else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(model.model_fields) if model is not None else []


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."
