"""Terms of an objective by name: what `--loss kd+scale_factor` and recipes speak of."""

from __future__ import annotations

from collections.abc import Callable

from slimcnn.distillation.teachers import Teacher
from slimcnn.errors import RecipeError
from slimcnn.objectives import Terms, cross_entropy
from slimcnn.registry import Registry

losses: Registry[Callable[..., Terms]] = Registry("loss", home="slimcnn.distillation")
"""Every loss between a teacher and a student: functions (teacher, options) → `Terms`."""


def objective_named(spec: str, teacher: Teacher, label_smoothing: float = 0.0) -> Terms:
    """Build an objective from its terms: `0.1*cross_entropy+0.9*kd:temperature=4+0.5*scale_factor`.

    Raises:
        UnknownName: there is no such loss; RecipeError: a weight or an option that is impossible.

    >>> import torch
    >>> teacher = Teacher(torch.nn.Flatten())
    >>> [(term.name, term.weight) for term in objective_named("0.1*cross_entropy+0.9*kd", teacher).terms]
    [('cross_entropy', 0.1), ('kd', 0.9)]
    """
    found = Terms()
    for part in spec.split("+"):
        weight, star, name = part.strip().rpartition("*")
        try:
            factor = float(weight) if star else 1.0
        except ValueError:
            raise RecipeError(f"loss {spec!r}: {weight!r} is no number; write 0.9*kd+0.5*scale_factor") from None
        if name == "cross_entropy":
            term = cross_entropy(label_smoothing)
        else:
            build, options = losses.split(name, RecipeError)
            term = build(teacher, **options)
        found = found + factor * term
    return found
