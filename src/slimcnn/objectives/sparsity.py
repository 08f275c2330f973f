"""Sparsity training: a penalty drives batch-norm scales to zero, so that their channels can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from slimcnn.errors import ModelError, RecipeError
from slimcnn.layers.relating import Relating, anneal, relations_in
from slimcnn.objectives.cross_entropy import cross_entropy
from slimcnn.objectives.objective import Feed, Loss, LossFunction, Objective, ReadScores, as_objective

PENALTIES = ("l1", "product", "relative")

ANNEALED_FROM, ANNEALED_TO = 0.25, 0.75
"""Parts of the training between which relations of mode "annealed" go from a scale per image to the mean."""


@dataclass
class SparseScales(Objective):
    """An objective plus lambda times the sum of a penalty over the channels of all batch norms.

    "l1" is |gamma|; sr can rise to compensate a small gamma. "product" is |gamma| sr; all sr of a layer can fall to
    escape the penalty, so a small value is weaker evidence that a channel is not needed (benchmarks/gfr.md).
    "relative" is |gamma| sr / mean of sr in the layer; only the differences within a layer count.

    If the network has relations (`insert_relations`), only norms with relations count. Otherwise all norms count,
    which is network slimming, and only "l1" is possible. `polarization` adds its value times the mean of 4 e (1 - e)
    over all gates e, which drives them toward 0 or 1.

    The penalty is differentiated ("subgradient"), or every step of the optimizer is followed by a proximal step
    ("proximal"), gamma ← sign(gamma) max(|gamma| - t, 0) with t = lambda · rate / (1 - momentum), times the factor of
    |gamma| in the penalty. The proximal step has the same minimum and reaches exact zeros. `weight_decay` does not
    apply to scales.

    Args:
        objective: the objective to add the penalty to, an `Objective` or a function (network, images, labels) →
            `Loss`; default: cross entropy.
        strength: lambda, above 0; 1e-4 for VGG, 1e-5 for ResNets with 56 layers and more (Liu et al. 2017).
        penalty: "l1", "product" or "relative".
        step: "proximal" or "subgradient".
        polarization: weight of 4 e (1 - e), 0 or above.
        epochs: of the whole training; needed for relations of mode "annealed", whose t rises from 0 to 1 between a
            quarter and three quarters of it.

    Raises:
        RecipeError: a value is out of range or unknown; ModelError: the network has no such norms.

    Source: Liu et al. 2017, Network slimming (arXiv 1708.06519); CN112308213A for sr. "relative", `polarization` and
    annealing are ours.

    >>> import slimcnn
    >>> net = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    >>> loss = SparseScales(strength=1e-4)(net, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    >>> list(loss.terms)
    ['cross_entropy', 'sparsity']
    """

    judged_by_metric: ClassVar[bool] = False  # the scales are smallest at the end, and accuracy falls on the way

    objective: Objective | LossFunction = field(default_factory=cross_entropy)
    strength: float = 1e-4
    penalty: Literal["l1", "product", "relative"] = "l1"
    step: Literal["proximal", "subgradient"] = "proximal"
    polarization: float = 0.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        self._inner = as_objective(self.objective)
        self._epoch = 0.0
        if not self.strength > 0:
            raise RecipeError(f"strength={self.strength}: the penalty's weight must be above 0")
        if not self.polarization >= 0:
            raise RecipeError(f"polarization={self.polarization}: the weight must be 0 or above")
        for name, value, known in (
            ("penalty", self.penalty, PENALTIES),
            ("step", self.step, ("proximal", "subgradient")),
        ):
            if value not in known:
                raise RecipeError(f"{name}={value!r}: choose {', '.join(known[:-1])} or {known[-1]}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Compute the inner objective's loss plus the penalty."""
        return self._penalized(model, lambda: self._inner(model, x, y))

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Compute the same for mixed images; see `Terms.mixed`."""
        return self._penalized(model, lambda: self._inner.mixed(model, x, labels, share))

    def _penalized(self, model: nn.Module, run: Callable[[], Loss]) -> Loss:
        norms = self._norms(model)
        self._anneal(model, norms)
        with _gate_means(norms) as means:
            loss = run()
        penalty = self.strength * torch.stack([self._size(norm, means).sum() for norm in norms]).sum()
        terms = dict(loss.terms) | {"sparsity": penalty}
        if self.polarization:
            gates = torch.cat([mean.float() for mean in means.values()])
            terms["polarization"] = self.polarization * (4 * gates * (1 - gates)).mean()
        return Loss(terms, loss.logits, loss.gradients)

    def _anneal(self, model: nn.Module, norms: Sequence[nn.Module]) -> None:
        if not any(isinstance(norm, Relating) and norm.relation == "annealed" for norm in norms):
            return
        if self.epochs is None:
            raise RecipeError("relations of mode 'annealed' need the epochs of the training: pass epochs")
        done = (self._epoch / self.epochs - ANNEALED_FROM) / (ANNEALED_TO - ANNEALED_FROM)
        anneal(model, min(1.0, max(0.0, done)))

    def reading(self, scores: ReadScores) -> None:
        """Pass the function to the inner objective."""
        self._inner.reading(scores)

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Call the inner objective's hook."""
        self._inner.prepare(model, feed)

    def before_step(self, epoch: float) -> None:
        """Note how far the training is, and call the inner objective's hook."""
        self._epoch = epoch
        self._inner.before_step(epoch)

    def seeing(self, indices: Tensor, view: int) -> None:
        """Call the inner objective's hook."""
        self._inner.seeing(indices, view)

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Call the inner objective's hook, then take the proximal step."""
        self._inner.after_step(model, optimizer)
        if self.step == "proximal":
            self._shrink(model, optimizer)

    @torch.no_grad()
    def _shrink(self, model: nn.Module, optimizer: Optimizer) -> None:
        group = optimizer.param_groups[0]
        threshold = self.strength * group["lr"] / (1 - group.get("momentum", 0.0))
        for norm in self._norms(model):
            scale, weight = norm.weight, self._factor(norm.sr) if isinstance(norm, Relating) else 1.0
            scale.copy_(scale.sign() * (scale.abs() - threshold * weight).clamp_min(0))  # type: ignore[operator]

    def _size(self, norm: nn.Module, means: Mapping[nn.Module, Tensor]) -> Tensor:
        """Compute the penalty of every channel (c,); sr is the gate's mean over this batch: open gates count too."""
        scale: Tensor = norm.weight.abs()  # type: ignore[operator]
        if self.step == "proximal":
            scale = scale.detach()  # the proximal step shrinks it instead
        return scale * self._factor(means.get(norm, norm.sr).float()) if isinstance(norm, Relating) else scale

    def _factor(self, relation: Tensor) -> Tensor | float:
        """Return the factors (c,) of |gamma| in the penalty."""
        if self.penalty == "l1":
            return 1.0
        return relation / relation.mean() if self.penalty == "relative" else relation

    def _norms(self, model: nn.Module) -> list[nn.Module]:
        found = norms_with_scales(model)
        if not found:
            raise ModelError("sparsity training needs batch norms with scales, and the network has no batch norm")
        if (self.penalty != "l1" or self.polarization) and not isinstance(found[0], Relating):
            asked = f"penalty={self.penalty!r}" if self.penalty != "l1" else f"polarization={self.polarization:g}"
            raise ModelError(f"{asked} needs channel relations: call insert_relations first, or leave it out")
        return found


@contextmanager
def _gate_means(norms: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the gates' outputs while a batch runs through the network: the mean over its images, with gradient."""
    means: dict[nn.Module, Tensor] = {}

    def recorder(norm: nn.Module) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            means[norm] = output.mean(dim=0)

        return record

    handles = [norm.gate.register_forward_hook(recorder(norm)) for norm in norms if isinstance(norm, Relating)]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


def norms_with_scales(model: nn.Module) -> list[nn.Module]:
    """List the batch norms with relations, or, if there are none, all batch norms with scales."""
    related: list[nn.Module] = [norm for _, norm in relations_in(model)]
    plain = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.weight is not None]
    return related or list(plain)


@dataclass(frozen=True)
class Spread:
    """Summary statistics of a network's scales and relations."""

    small: float
    """Share of the scales |gamma| (times sr, if the norm has one) below 1 % of the largest."""
    mean: float
    """Mean of all sr; NaN without relations."""
    std: float
    """Standard deviation of all sr; NaN without relations."""

    def __str__(self) -> str:
        small = f"{self.small:.1%} of the scales are below 1 % of the largest"
        return small if self.mean != self.mean else f"{small}, sr {self.mean:.2f} ± {self.std:.2f}"

    @property
    def saturated(self) -> bool:
        """Whether sr is uninformative: nearly equal for all channels (METHODS: std below 0.02)."""
        return self.std < SATURATED


SATURATED = 0.02


@torch.no_grad()
def spread(model: nn.Module) -> Spread:
    """Compute summary statistics of a network's scales and relations.

    >>> import slimcnn
    >>> net = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    >>> found = spread(net)
    >>> round(found.mean, 2), found.std, found.saturated, found.small
    (0.88, 0.0, True, 0.0)
    """
    norms = norms_with_scales(model)
    sr = [norm.sr for norm in norms if isinstance(norm, Relating)]
    sizes = torch.cat([n.weight.abs() * (n.sr if isinstance(n, Relating) else 1) for n in norms]).double()  # type: ignore[operator]
    relations = torch.cat(sr).double() if sr else torch.full((1,), torch.nan, dtype=torch.float64)
    return Spread(
        small=float((sizes <= 0.01 * sizes.max()).double().mean()),
        mean=float(relations.mean()),
        std=float(relations.std(correction=0)),
    )
