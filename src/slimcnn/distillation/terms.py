"""Terms of an objective by name: what `--loss kd+scale_factor` and recipes speak of."""

from __future__ import annotations

from collections.abc import Callable

from slimcnn.distillation.teachers import Teacher
from slimcnn.errors import RecipeError
from slimcnn.objectives import Terms, cross_entropy
from slimcnn.registry import Registry

losses: Registry[Callable[..., Terms]] = Registry("loss", home="slimcnn.distillation")
"""Every loss between a teacher and a student: functions (teacher, options) → `Terms`.

An entry's facts hold `weight`: what it is multiplied by where nobody says.
"""


def objective_named(spec: str, teacher: Teacher, label_smoothing: float = 0.0) -> Terms:
    """Build an objective from its terms: `0.1*cross_entropy+0.9*kd:temperature=4+0.5*scale_factor`.

    A term without a weight has its own (0.9 for kd, 0.5 for scale_factor); cross entropy is added where it is not
    named, with 0.1 beside kd and 1 beside others.

    Raises:
        UnknownName: there is no such loss; RecipeError: a weight or an option that is impossible.

    >>> import torch
    >>> teacher = Teacher(torch.nn.Flatten())
    >>> [(term.name, term.weight) for term in objective_named("0.1*cross_entropy+0.9*kd", teacher).terms]
    [('cross_entropy', 0.1), ('kd', 0.9)]
    >>> [(term.name, term.weight) for term in objective_named("kd+scale_factor", teacher).terms]
    [('cross_entropy', 0.1), ('kd', 0.9), ('scale_factor', 0.5)]
    """
    found = Terms()
    for factor, build, options in parts_of(spec):
        found = found + factor * (cross_entropy(label_smoothing) if build is None else build(teacher, **options))
    return found


def parts_of(spec: str) -> list[tuple[float, Callable[..., Terms] | None, dict[str, int | float | str]]]:
    """Read an objective's terms: weight, loss (None for cross entropy) and its options; without a teacher.

    Raises:
        UnknownName: there is no such loss; RecipeError: a weight or an option that is impossible.
    """
    parts = [part.strip().rpartition("*") for part in spec.split("+")]
    names = [name.partition(":")[0] for _, _, name in parts]
    found: list[tuple[float, Callable[..., Terms] | None, dict[str, int | float | str]]] = []
    if "cross_entropy" not in names:
        found.append((0.1 if "kd" in names else 1.0, None, {}))
    for weight, star, name in parts:
        try:
            factor = float(weight) if star else _weight_of(name)
        except ValueError:
            raise RecipeError(f"loss {spec!r}: {weight!r} is no number; write 0.9*kd+0.5*scale_factor") from None
        found.append((factor, None, {}) if name == "cross_entropy" else (factor, *losses.split(name, RecipeError)))
    return found


def _weight_of(name: str) -> float:
    name = name.partition(":")[0]
    return 1.0 if name == "cross_entropy" else float(losses[name].facts["weight"])
