"""Sparse training: a penalty drives the scales of batch norms to zero, so that their channels can go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from slimcnn.errors import ModelError, RecipeError
from slimcnn.layers.relating import Relating, relations_in
from slimcnn.objectives.cross_entropy import cross_entropy
from slimcnn.objectives.objective import Feed, Loss, LossFunction, Objective, as_objective


@dataclass
class SparseScales(Objective):
    """An objective plus lambda times the sum of |gamma| ("l1") or of |gamma| sr ("product") over all batch norms.

    With relations in the network (`insert_relations`) only norms that have one count; without, all do, which is network
    slimming, and only "l1" is possible.  "l1" lets sr rise to make up for a small gamma; "product" lets it fall to
    escape the penalty, and what is small then says less about who is needed (benchmarks/gfr.md).

    The penalty is differentiated ("subgradient"), or every step of the optimizer is followed by the proximal one
    ("proximal"), gamma ← sign(gamma) max(|gamma| - t, 0) with t = lambda · rate / (1 - momentum), times sr for
    "product": it has the same minimum and reaches exact zeros. Scales never decay by `weight_decay` here.

    Args:
        objective: what else is minimized, an `Objective` or a function (network, images, labels) → `Loss`; cross
            entropy by default.
        strength: lambda, above 0; 1e-4 for VGG, 1e-5 for ResNets with 56 layers and more (Liu et al. 2017).
        penalty: "l1" or "product".
        step: "proximal" or "subgradient".

    Raises:
        RecipeError: a value that is impossible; ModelError: a network without such norms.

    Source: Liu et al. 2017, Network slimming (arXiv 1708.06519); CN112308213A for sr.

    >>> import slimcnn
    >>> net = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    >>> loss = SparseScales(strength=1e-4)(net, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    >>> list(loss.terms)
    ['cross_entropy', 'sparsity']
    """

    objective: Objective | LossFunction = field(default_factory=cross_entropy)
    strength: float = 1e-4
    penalty: Literal["l1", "product"] = "l1"
    step: Literal["proximal", "subgradient"] = "proximal"

    def __post_init__(self) -> None:
        self._inner = as_objective(self.objective)
        if not self.strength > 0:
            raise RecipeError(f"strength={self.strength}: the penalty's weight must be above 0")
        for name, value, known in (
            ("penalty", self.penalty, ("l1", "product")), ("step", self.step, ("proximal", "subgradient")),
        ):  # fmt: skip
            if value not in known:
                raise RecipeError(f"{name}={value!r}: choose {known[0]} or {known[1]}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Give the objective's loss with one more term."""
        return self._penalized(model, lambda: self._inner(model, x, y))

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """The same for images mixed of two; see `Terms.mixed`."""
        return self._penalized(model, lambda: self._inner.mixed(model, x, labels, share))

    def _penalized(self, model: nn.Module, run: Callable[[], Loss]) -> Loss:
        norms = self._norms(model)
        with _watched(norms) as means:
            loss = run()
        penalty = self.strength * torch.stack([self._size(norm, means).sum() for norm in norms]).sum()
        return Loss(dict(loss.terms) | {"sparsity": penalty}, loss.logits, loss.gradients)

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Let the objective look at the training images before the first step."""
        self._inner.prepare(model, feed)

    def before_step(self, epoch: float) -> None:
        """Tell the objective how far the training is."""
        self._inner.before_step(epoch)

    def seeing(self, indices: Tensor, view: int) -> None:
        """Tell the objective which images the next batch holds."""
        self._inner.seeing(indices, view)

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Let the objective do what it does after a step, then take the proximal step."""
        self._inner.after_step(model, optimizer)
        if self.step == "proximal":
            self._shrink(model, optimizer)

    @torch.no_grad()
    def _shrink(self, model: nn.Module, optimizer: Optimizer) -> None:
        group = optimizer.param_groups[0]
        threshold = self.strength * group["lr"] / (1 - group.get("momentum", 0.0))
        for norm in self._norms(model):
            scale, weight = norm.weight, norm.sr if self.penalty == "product" else 1.0
            scale.copy_(scale.sign() * (scale.abs() - threshold * weight).clamp_min(0))  # type: ignore[operator]

    def _size(self, norm: nn.Module, means: Mapping[nn.Module, Tensor]) -> Tensor:
        """|gamma|, times the gate's mean over this batch for "product": a gate that opens is penalized too."""
        scale: Tensor = norm.weight.abs()  # type: ignore[operator]
        if self.step == "proximal":
            scale = scale.detach()  # its own step comes afterwards
        if self.penalty == "l1":
            return scale
        relation = means.get(norm, norm.sr)
        return scale * relation.float()  # type: ignore[operator]

    def _norms(self, model: nn.Module) -> list[nn.Module]:
        found = norms_with_scales(model)
        if not found:
            raise ModelError("the network has no batch norm with scales that could become sparse")
        if self.penalty == "product" and not isinstance(found[0], Relating):
            raise ModelError("penalty='product' needs relations of channels: insert_relations first, or take 'l1'")
        return found


@contextmanager
def _watched(norms: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Note what gates make while a batch goes through the network: the mean over its images, with its gradient."""
    means: dict[nn.Module, Tensor] = {}

    def note(norm: nn.Module) -> Callable[[nn.Module, Any, Tensor], None]:
        def noting(_: nn.Module, __: Any, made: Tensor) -> None:
            means[norm] = made.mean(dim=0)

        return noting

    handles = [norm.gate.register_forward_hook(note(norm)) for norm in norms if isinstance(norm, Relating)]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


def norms_with_scales(model: nn.Module) -> list[nn.Module]:
    """List the batch norms with relations; in a network without, all that have scales."""
    related: list[nn.Module] = [norm for _, norm in relations_in(model)]
    plain = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.weight is not None]
    return related or list(plain)


@dataclass(frozen=True)
class Spread:
    """How far the scales and relations of a network are from each other."""

    small: float
    """Share of the scales |gamma| (times sr where there is one) below 1 % of the largest."""
    mean: float
    std: float
    """Of all sr; NaN without relations."""

    def __str__(self) -> str:
        small = f"{self.small:.1%} of the scales are below 1 % of the largest"
        return small if self.mean != self.mean else f"{small}, sr {self.mean:.2f} ± {self.std:.2f}"

    @property
    def saturated(self) -> bool:
        """Whether sr says nothing: all channels have about the same (METHODS: std below 0.02)."""
        return self.std < SATURATED


SATURATED = 0.02


@torch.no_grad()
def spread(model: nn.Module) -> Spread:
    """Look at the scales and relations of a network.

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
