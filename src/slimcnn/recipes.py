"""A run as data: what to take, how small to make it, how to win the accuracy back.  TOML on disk."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimcnn.errors import RecipeError
from slimcnn.files import write_text
from slimcnn.pruning.targets import Target
from slimcnn.searching.settings import Search
from slimcnn.training import Training


class Section(BaseModel):
    """A section of a recipe: read-only, nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _is_whole(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path else None


FilePath = Annotated[str | None, AfterValidator(_is_whole)]
"""Kept absolute, so that a recipe means the same from every folder."""


class Network(Section):
    """Which network, and where its trained weights are."""

    model: str = ""
    """A name, `timm:NAME`, `torchvision:NAME` or `package.module:function`; may be left out for a checkpoint."""
    weights: FilePath = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    rewrite: str = ""
    """A rewrite that is part of the network, as feature_reuse:variant=chain; weights are then those of the result."""


class Normalising(Section):
    """x = (pixels / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Data(Section):
    """Which images."""

    name: str = "digits"
    """A dataset's name or a folder of images per class."""
    image_size: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    """Chooses the validation images."""
    limit: int | None = Field(default=None, ge=10)
    """At most so many training images, for a quick try."""
    normalisation: Literal["auto"] | Normalising = "auto"
    """auto: the weights' own, found by measuring on validation images where nobody says."""


def _without_average(soft: Training | None) -> Training | None:
    if soft is not None and soft.ema is not None:
        raise ValueError("soft training zeroes the weights, not their moving average: leave ema out")
    return soft


class Sparsifying(Section):
    """Sparse training before the cut: a penalty on the scales of batch norms, with relations of channels or without."""

    relations: Literal["mean", "sample", "none"] = "mean"
    """mean: folded into the batch norms after the cut; sample: gates that stay; none: network slimming."""
    penalty: Literal["l1", "product"] = "l1"
    """l1: |gamma|; product: |gamma| sr."""
    strength: float | None = Field(default=None, gt=0)
    """lambda; by default so much that over the whole training a scale that nothing needs would lose 2 (see
    `strength_for`).  Liu et al. took 1e-4 for VGG over 160 epochs and 1e-5 for deep ResNets."""
    step: Literal["proximal", "subgradient"] = "proximal"
    training: Training = Field(default_factory=lambda: Training(epochs=40))


class Pruning(Section):
    """What goes."""

    criterion: str = "fpdf"
    target: Target = Field(default_factory=lambda: Target(macs=0.5))
    plan: FilePath = None
    """A plan to follow instead (see --dry-run)."""
    soft: Annotated[Training | None, AfterValidator(_without_average)] = None
    """Train softly before the cut: filters are zeroed after every epoch and may come back in the next."""
    inexact: bool = False
    """Let channels go that a layer or group norm normalises together; the cut cannot be proven equal then."""
    search: Search | None = None
    """Look for the smallest network within a drop of accuracy, instead of the target's ratio or MACs."""
    batches: int = Field(default=8, ge=1)
    """Batches of 128 training images for criteria that look at data, and for the scope "sensitivity"."""


class Rewriting(Section):
    """A rewrite of the trained network, and where the weights of what is new come from."""

    rule: str = "feature_reuse"
    """A rewrite (`slimcnn list rewrites`), with options as feature_reuse:variant=chain."""
    init: Literal["reuse", "random"] = "reuse"
    """reuse: from the original's features, by least squares on training images; random: to be trained anew."""


class Distilling(Section):
    """A student that learns from the recipe's network, its teacher."""

    student: Network
    teachers: tuple[Network, ...] = ()
    """More teachers: all answer together, with the mean of their logits."""
    loss: str = "kd+scale_factor"
    """Terms (`slimcnn list losses`), as 0.1*cross_entropy+0.9*kd:temperature=4+0.5*scale_factor."""
    teacher_cache: int | None = Field(default=None, ge=1)
    """So many augmented views of every image take turns; the teacher answers each once, and its answers are kept."""
    training: Training = Field(default_factory=lambda: Training(epochs=240, learning_rate=0.05, batch_size=64))


STEPS = ("constants", "bn", "least_squares", "data_free", "finetune", "distill")
"""Ways to win accuracy back; the last two train."""


def trains(how: str) -> bool:
    """Ask whether the last step of a recovery is training.

    >>> trains("least_squares+distill"), trains("bn")
    (True, False)
    """
    return how.endswith(("finetune", "distill"))


def _steps(how: str) -> str:
    steps = how.split("+")
    unknown = [step for step in steps if step not in STEPS and how != "none"]
    if unknown:
        raise ValueError(f"choose none, or one or several of {', '.join(STEPS)}, as least_squares+distill")
    if len(set(steps)) < len(steps):
        raise ValueError("every step can be taken once")
    if {"finetune", "distill"} & set(steps[:-1]):
        raise ValueError("training comes last, and once")
    return how


class Recovery(Section):
    """How the accuracy is won back."""

    how: Annotated[str, AfterValidator(_steps)] = "least_squares"
    """none, or steps in their order, joined by +: constants (fold what removed channels still send),
    bn (recalibrate batch norm), least_squares (re-solve layers on
    images, without training), data_free (the same on images made from batch-norm statistics), finetune, distill (from
    the original).  Training alone begins with bn."""
    images: int = Field(default=1024, ge=1)
    """Training images for what needs no training: bn and least_squares."""
    temperature: float = Field(default=4.0, gt=0)
    alpha: float = Field(default=0.9, ge=0, le=1)
    training: Training = Field(default_factory=lambda: Training(epochs=10, learning_rate=0.01))

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, in order.

        >>> Recovery(how="distill").steps, Recovery(how="least_squares+finetune").steps
        (('bn', 'distill'), ('least_squares', 'finetune'))
        """
        steps = tuple(step for step in self.how.split("+") if step != "none")
        return ("bn", *steps) if steps in (("finetune",), ("distill",)) else steps

    @property
    def trains(self) -> bool:
        """Whether the last step is training."""
        return trains(self.how)


class Recipe(Section):
    """Everything about a run; written to the run's folder, from where it repeats the run.

    >>> recipe = Recipe(network=Network(model="resnet8"), out="runs/digits")
    >>> recipe.prune.target.macs, recipe.recover.how
    (0.5, 'least_squares')
    """

    network: Network
    data: Data = Field(default_factory=Data)
    pretrain: Training | None = None
    """Train the network first; without weights this is needed."""
    sparsify: Sparsifying | None = None
    """Train the network sparsely before the cut; alone, without weights and pretraining, from scratch."""
    prune: Pruning | None = Field(default_factory=Pruning)
    """None: only train, or rewrite."""
    rewrite: Rewriting | None = None
    """Rewrite the network instead of pruning it."""
    distill: Distilling | None = None
    """Teach another network instead of pruning this one."""
    recover: Recovery = Field(default_factory=Recovery)
    latency_seconds: float = Field(default=4.0, gt=0)
    out: str = "runs/run"

    @model_validator(mode="before")
    @classmethod
    def _rewrites_or_prunes(cls, plain: Any) -> Any:
        asked = [name for name in ("rewrite", "distill") if isinstance(plain, dict) and plain.get(name) is not None]
        if not asked:
            return plain
        if len(asked) > 1 or plain.get("prune") not in (None, False):
            raise ValueError("a run rewrites, distils or prunes: take the compressed.safetensors of one to the next")
        return plain | {"prune": None, "recover": {"how": "none"} | dict(plain.get("recover") or {})}

    @model_validator(mode="after")
    def _needs_no_plan(self) -> Recipe:
        steps = [step for step in self.recover.steps if step in ("constants", "least_squares", "data_free")]
        if self.rewrite is not None and steps:
            raise ValueError(
                f"recover.how = {steps[0]} is about removed channels: choose none, bn, finetune or distill"
            )
        return self

    def to_toml(self) -> str:
        """Write the recipe as TOML, every value spelled out."""
        import tomli_w

        plain: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        if self.prune is None:
            plain["prune"] = False
        return tomli_w.dumps(plain)


def parse_recipe(text: str, place: str = "the recipe") -> Recipe:
    """Read a recipe from TOML.

    Raises:
        RecipeError: no TOML, unknown or impossible values; says where and what.

    >>> parse_recipe('[network]\\nmodel = "resnet8"\\nlayers = 3')
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: the recipe: network.layers = 3: Extra inputs are not permitted
    """
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{place} is not TOML: {error}") from error
    if plain.get("prune") is False:
        plain["prune"] = None
    return recipe_from(plain, place)


def recipe_from(plain: dict[str, Any], place: str = "the settings") -> Recipe:
    """Build a recipe from plain data, with errors of one line."""
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise RecipeError(f"{place}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong with which value.

    >>> try:
    ...     Training(epochs=0)
    ... except ValidationError as error:
    ...     explain(error)
    'epochs = 0: Input should be greater than or equal to 1'
    """
    problems = []
    for found in error.errors()[:3]:
        place = ".".join(str(part) for part in found["loc"])
        value = f" = {found['input']!r}" if not isinstance(found["input"], dict) else ""
        problems.append(f"{place}{value}: {found['msg']}" if place else found["msg"])
    return "; ".join(problems)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
    return parse_recipe(text, str(path))


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe to a file."""
    write_text(path, recipe.to_toml())


def explain_difference(old: Recipe, new: Recipe) -> str:
    """Name the first settings in which two recipes differ; empty if they are the same run.

    Where the output lies does not matter.

    >>> first = Recipe(network=Network(model="resnet8"))
    >>> explain_difference(first, first.model_copy(update={"data": Data(seed=1)}))
    'data.seed was 0, now 1'
    """
    was, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    names = [n for n in dict.fromkeys([*was, *now]) if n != "out" and was.get(n) != now.get(n)]
    return "; ".join(f"{name} was {was.get(name)}, now {now.get(name)}" for name in names[:2])


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
