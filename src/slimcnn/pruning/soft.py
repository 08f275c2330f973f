"""Soft filter pruning: filters zeroed before an epoch may recover during it; the last selection is pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimcnn.errors import CriterionError
from slimcnn.graph import ChannelGraph
from slimcnn.objectives import Feed, Loss, LossFunction, Objective, ReadScores, as_objective, cross_entropy
from slimcnn.pruning.plan import Plan, check
from slimcnn.pruning.scores import Criterion, Scores, criterion_named, evidence_of, score
from slimcnn.pruning.surgery import fill_with_zeros


class SoftPruning:
    """Select the filters to keep before every epoch of a training, and zero the others in place.

    The plan is the first selection and is zeroed at once; it fixes how many channels each group loses. Train with
    `soft.objective()`, which selects again at the start of every later epoch. Only filters are zeroed, not the scale
    and shift of the norm behind them, so gradients still reach them and a useful filter is selected again (except
    where that shift is negative and a ReLU follows: a constant zero has no gradient). After the last epoch,
    `soft.choose(zero=False)` returns the plan for `prune`.

    A selection depends only on the initial weights, which fix the counts and the criterion's reference, and on the
    current weights; earlier selections do not matter. So a training that is interrupted anywhere and resumed by the
    same calls on the same network ends with the same weights and the same plan. Train without a moving average
    (`Training(ema=None)`, the default): with one, only the average would be evaluated and kept.

    Args:
        model: the network to train; its filters are changed.
        graph: the channel graph of `model`, from `trace`.
        plan: from `allocate`, or edited by hand.
        criterion: selects the filters; a name or a `Criterion` that uses only weights; default: the plan's criterion.
            FPDF matches the filters to the initial distribution of their norms; other criteria select as they do for
            a single cut.

    Raises:
        CriterionError: the criterion needs data, or there is none; PlanError: a plan for another network.

    Source: He et al. 2018, Soft filter pruning (arXiv 1808.06866).

    >>> import slimcnn, torch
    >>> net, dataset = slimcnn.build("resnet8", in_channels=1), slimcnn.load_dataset("digits")
    >>> graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    >>> plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(pruning_ratio=0.5))
    >>> soft = SoftPruning(net, graph, plan)
    >>> training = slimcnn.Training(epochs=2, layout="nchw", precision="32")
    >>> for epoch in slimcnn.fit(net, dataset, objective=soft.objective(), training=training):
    ...     pass
    >>> plan = soft.choose(zero=False)
    >>> small = slimcnn.prune(net, graph, plan)
    >>> small.layer1[0].conv1.out_channels
    8
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, plan: Plan, criterion: str | Criterion | None = None
    ) -> None:
        asked = criterion or plan.criterion
        if not asked:
            raise CriterionError("soft pruning: the plan names no criterion to select filters by: pass criterion=")
        chosen = criterion_named(asked) if isinstance(asked, str) else asked
        if chosen.needs == "contributions" or "readings" in chosen.needs:
            raise CriterionError(
                f"soft pruning: criterion {chosen.name!r} needs data; choose one that uses only weights: fpdf or l2"
            )
        check(plan, graph)
        self._model, self._graph = model, graph
        self._counts = {group: len(gone) for group, gone in plan.removed.items()}
        self._criterion = chosen if chosen.again is None else chosen.again(evidence_of(model, graph, chosen))
        self.plan = plan
        """The last selection."""
        self._zero()

    def objective(self, inner: Objective | LossFunction | None = None) -> Objective:
        """Return the training objective: `inner` (default: cross entropy) plus a selection before every later epoch.

        The selection is made inside the training, at step 0 of an epoch, so that every state that `fit` saves lies
        clearly before or after it.
        """
        return SoftPruningObjective(self, as_objective(inner or cross_entropy()))

    def choose(self, zero: bool = True) -> Plan:
        """Select as many of the current filters as the first plan keeps, zero the others, and return the plan.

        With `zero=False`, after the last epoch, the weights do not change, so that `least_squares` can refit the
        pruned network to the trained one.
        """
        scores = score(self._model, self._graph, self._criterion)
        removed = {group: self._removed(scores, group, number) for group, number in self._counts.items()}
        self.plan = Plan(self._graph.fingerprint, removed, self._criterion.name, self.plan.target)
        if zero:
            self._zero()
        return self.plan

    def _removed(self, scores: Scores, group: str, number: int) -> tuple[int, ...]:
        channels = self._graph[group].channels
        kept = set(scores.keep(group, channels - number).tolist())
        return tuple(channel for channel in range(channels) if channel not in kept)

    @torch.no_grad()
    def _zero(self) -> None:
        parameters = dict(self._model.named_parameters())
        for index, channels in self.plan.by_index(self._graph).items():
            for axis in self._graph.groups[index].filters:
                fill_with_zeros(parameters[axis.parameter], axis, axis.positions[channels].reshape(-1))


class SoftPruningObjective(Objective):
    """An objective that calls `SoftPruning.choose` at the start of every epoch except the first."""

    judged_by_metric: ClassVar[bool] = False  # the metric is measured with the filters that will be removed

    def __init__(self, soft: SoftPruning, inner: Objective) -> None:
        self._soft, self._inner = soft, inner

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Return the inner objective's loss."""
        return self._inner(model, x, y)

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Return the inner objective's loss of mixed images."""
        return self._inner.mixed(model, x, labels, share)

    def reading(self, scores: ReadScores) -> None:
        """Pass the function to the inner objective."""
        self._inner.reading(scores)

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Call the inner objective's hook."""
        self._inner.prepare(model, feed)

    def before_step(self, epoch: float) -> None:
        """Select filters if an epoch begins; the first epoch uses the given plan."""
        if epoch >= 1 and epoch == int(epoch):
            self._soft.choose()
        self._inner.before_step(epoch)

    def seeing(self, indices: Tensor, view: int) -> None:
        """Call the inner objective's hook."""
        self._inner.seeing(indices, view)

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Call the inner objective's hook."""
        self._inner.after_step(model, optimizer)
