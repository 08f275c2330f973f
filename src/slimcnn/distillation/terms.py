"""Build objectives from the names of their terms, as in `--loss kd+scale_factor` and recipes."""

from __future__ import annotations

from collections.abc import Callable

from slimcnn.distillation.teachers import Teacher
from slimcnn.errors import RecipeError
from slimcnn.objectives import Terms, cross_entropy
from slimcnn.registry import Registry

losses: Registry[Callable[..., Terms]] = Registry("loss", home="slimcnn.distillation")
"""All distillation losses: functions (teacher, options) → `Terms`.

An entry's facts hold `weight`, the term's default weight, and `compares_features` if it compares more than answers.
"""


def objective_named(
    spec: str, teacher: Teacher, label_smoothing: float = 0.0, labeled: Callable[[float], Terms] = cross_entropy
) -> Terms:
    """Build an objective from its terms: `0.1*cross_entropy+0.9*kd:temperature=4+0.5*scale_factor`.

    A term without a weight uses its default (0.9 for kd, 0.5 for scale_factor). Cross entropy is added if it is not
    named, with weight 0.1 if there is a kd term, otherwise 1; `0*cross_entropy+kd` uses no labels.

    `labeled` makes the term against the labels, which the spec calls cross_entropy, for tasks with another one.

    Raises:
        UnknownName: there is no such loss; RecipeError: an invalid weight or option.

    >>> import torch
    >>> teacher = Teacher(torch.nn.Flatten())
    >>> [(term.name, term.weight) for term in objective_named("0.1*cross_entropy+0.9*kd", teacher).terms]
    [('cross_entropy', 0.1), ('kd', 0.9)]
    >>> [(term.name, term.weight) for term in objective_named("kd+scale_factor", teacher).terms]
    [('cross_entropy', 0.1), ('kd', 0.9), ('scale_factor', 0.5)]
    >>> [(term.name, term.weight) for term in objective_named("0*cross_entropy+kd", teacher).terms]
    [('kd', 0.9)]
    """
    found = Terms()
    for factor, build, options in parts_of(spec):
        found = found + factor * (labeled(label_smoothing) if build is None else build(teacher, **options))
    return found


def parts_of(spec: str) -> list[tuple[float, Callable[..., Terms] | None, dict[str, int | float | str]]]:
    """Parse an objective's terms into (weight, loss, options), where None stands for cross entropy; needs no teacher.

    Raises:
        UnknownName: there is no such loss; RecipeError: an invalid weight or option.
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
            raise RecipeError(f"loss {spec!r}: {weight!r} is not a number; write 0.9*kd+0.5*scale_factor") from None
        if name != "cross_entropy":
            found.append((factor, *losses.split(name, RecipeError)))
        elif factor:
            found.append((factor, None, {}))
    if not found:
        raise RecipeError(f"loss {spec!r} has no term: add one, such as kd")
    return found


def names_in(spec: str) -> tuple[str, ...]:
    """Return the names of the terms.

    >>> names_in("0.1*cross_entropy+0.9*kd:temperature=4")
    ('cross_entropy', 'kd')
    """
    return tuple(_name_of(part) for part in spec.split("+"))


def features_compared(spec: str) -> tuple[str, ...]:
    """Return the names of the terms that compare features, for which a teacher's answers are not enough.

    >>> features_compared("0.1*cross_entropy+kd+0.3*features")
    ('features',)
    """
    return tuple(name for name in names_in(spec) if name in losses and losses[name].facts.get("compares_features"))


def without_term(spec: str, name: str) -> str:
    """Leave out the terms of a name.

    >>> without_term("0.1*cross_entropy+kd:temperature=4+0.3*features", "features")
    '0.1*cross_entropy+kd:temperature=4'
    """
    return "+".join(part for part in spec.split("+") if _name_of(part) != name)


def _name_of(part: str) -> str:
    return part.rpartition("*")[2].partition(":")[0].strip()


def _weight_of(name: str) -> float:
    name = name.partition(":")[0]
    return 1.0 if name == "cross_entropy" else float(losses[name].facts["weight"])
