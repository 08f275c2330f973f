"""Soft filter pruning: filters zeroed before an epoch may recover in it; the last choice is cut out for good."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimcnn.errors import CriterionError
from slimcnn.graph import ChannelGraph
from slimcnn.objectives import Feed, Loss, LossFunction, Objective, as_objective, cross_entropy
from slimcnn.pruning.plan import Plan, check
from slimcnn.pruning.scores import Criterion, Scores, criterion_named, evidence_of, score
from slimcnn.pruning.surgery import fill_with_zeros


class SoftPruning:
    """Choose filters anew before every epoch of a training, and set the others to zero, in place.

    The plan is the first choice, zeroed at once; it fixes how many channels each group loses. Train with
    `soft.objective()`, which chooses again at the start of every further epoch. Only filters are zeroed, not the
    scale and shift of the norm behind them: so gradients reach them, and one that becomes useful is chosen again (not
    where that shift is negative and a ReLU follows: what is constantly zero has no gradient). After the last epoch
    `soft.choose(zero=False)` gives the plan to `prune` with.

    A choice depends on the weights at the beginning, which fix the counts and what the criterion remembers, and on the
    current weights alone, not on the choices between. So an interrupted training that is resumed, by the same calls
    on the same network, ends with the same weights and the same plan, wherever it was interrupted. Train without a
    moving average (`Training(ema=None)`, the default): of one, only the average would be evaluated and kept.

    Args:
        model: the network that will be trained; its filters are changed.
        graph: what `trace` found on it.
        plan: from `allocate`, or edited by hand.
        criterion: what chooses anew, a name or a `Criterion` that looks at weights alone; by default the plan's own.
            FPDF remembers the distribution of the norms at the beginning and matches the filters to it; others choose
            as they would choose first.

    Raises:
        CriterionError: a criterion that looks at data, or none; PlanError: a plan for another network.

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
            raise CriterionError("soft pruning: the plan names no criterion that chooses anew: pass criterion=")
        chosen = criterion_named(asked) if isinstance(asked, str) else asked
        if chosen.needs in ("contributions", "readings"):
            raise CriterionError(
                f"soft pruning: criterion {chosen.name!r} needs data; choose one that looks at weights, like fpdf or l2"
            )
        check(plan, graph)
        self._model, self._graph = model, graph
        self._counts = {group: len(gone) for group, gone in plan.removed.items()}
        self._criterion = chosen if chosen.again is None else chosen.again(evidence_of(model, graph, chosen))
        self.plan = plan
        """What was chosen last."""
        self._zero()

    def objective(self, inner: Objective | LossFunction | None = None) -> Objective:
        """The objective to train with: `inner` (default: cross entropy), choosing filters before every further epoch.

        The choice is made inside of the training, at step 0 of an epoch, so that every state that `fit` saves lies
        clearly before or after it.
        """
        return SoftPruningObjective(self, as_objective(inner or cross_entropy()))

    def choose(self, zero: bool = True) -> Plan:
        """Look at the current filters: keep as many as the first plan did, and set the others to zero.

        With `zero=False`, after the last epoch, the network stays as it was trained, so that `least_squares` can refit
        the pruned one to it.
        """
        scores = score(self._model, self._graph, self._criterion)
        removed = {group: self._lost(scores, group, number) for group, number in self._counts.items()}
        self.plan = Plan(self._graph.fingerprint, removed, self._criterion.name, self.plan.target)
        if zero:
            self._zero()
        return self.plan

    def _lost(self, scores: Scores, group: str, number: int) -> tuple[int, ...]:
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
    """An objective that lets `SoftPruning` choose filters at the start of every epoch but the first."""

    def __init__(self, soft: SoftPruning, inner: Objective) -> None:
        self._soft, self._inner = soft, inner

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Give the inner objective's loss."""
        return self._inner(model, x, y)

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Give the inner objective's loss of images mixed of two."""
        return self._inner.mixed(model, x, labels, share)

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Let the inner objective look at the training images."""
        self._inner.prepare(model, feed)

    def before_step(self, epoch: float) -> None:
        """Choose filters if an epoch begins; the first begins with the plan that was given."""
        if epoch >= 1 and epoch == int(epoch):
            self._soft.choose()
        self._inner.before_step(epoch)

    def seeing(self, indices: Tensor, view: int) -> None:
        """Tell the inner objective which images the next batch holds."""
        self._inner.seeing(indices, view)

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Let the inner objective do what it does after a step."""
        self._inner.after_step(model, optimizer)
