"""Soft pruning: filters are zeroed after every epoch, may come back in the next, and go for good at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.errors import CriterionError
from slimcnn.graph import ChannelGraph
from slimcnn.pruning.plan import Plan, check
from slimcnn.pruning.scores import Criterion, Scores, criterion_named, evidence_of, score
from slimcnn.pruning.surgery import fill_with_zeros


class SoftPruning:
    """Choose filters anew between the epochs of a training, and set the others to zero, in place.

    The plan is the first choice, zeroed at once; it says how many channels each group will lose.  Only filters are
    zeroed, not the scale and shift of the norm behind them: so gradients reach them, and one that becomes useful is
    chosen again (not where that shift is negative and a ReLU follows: what is constantly zero has no gradient).
    `prune(model, graph, soft.plan)` cuts the last choice out for good.

    Every choice depends on the weights of the beginning and those of now alone: a training that was interrupted and
    goes on chooses the same.  Train without a moving average (`Training(ema=None)`, the default): of one, only the
    average would be zeroed.

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

    >>> import slimcnn
    >>> net, dataset = slimcnn.build("resnet8", in_channels=1), slimcnn.load_dataset("digits")
    >>> graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    >>> plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(ratio=0.5))
    >>> soft = SoftPruning(net, graph, plan)
    >>> training = slimcnn.Training(epochs=2, layout="nchw", precision="32")
    >>> for epoch in slimcnn.fit(net, dataset, training=training):
    ...     plan = soft.choose()
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
        self.plan = plan
        """What was chosen last."""
        self._criterion = chosen if chosen.again is None else chosen.again(evidence_of(model, graph, chosen))
        self._before: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        """Filters before some of them were zeroed, and after."""
        self._zero()

    def choose(self, zero: bool = True) -> Plan:
        """Look at the filters as they are now: keep as many as before, and zero the others.

        Called again before anything was trained it chooses the same.  With `zero=False`, after the last epoch, the
        network stays as it was trained, so that `least_squares` may bring the cut one near to it.
        """
        self._reinstate()
        scores = score(self._model, self._graph, self._criterion)
        removed = {name: self._lost(scores, name, len(gone)) for name, gone in self.plan.removed.items()}
        self.plan = Plan(self._graph.fingerprint, removed, self._criterion.name, self.plan.target)
        if zero:
            self._zero()
        return self.plan

    def _lost(self, scores: Scores, group: str, number: int) -> tuple[int, ...]:
        channels = self._graph[group].channels
        kept = set(scores.keep(group, channels - number).tolist())
        return tuple(channel for channel in range(channels) if channel not in kept)

    def _zero(self) -> None:
        parameters = dict(self._model.named_parameters())
        changes = [
            (parameters[axis.parameter], axis, axis.positions[channels].reshape(-1))
            for index, channels in self.plan.by_index(self._graph).items()
            for axis in self._graph.groups[index].filters
        ]
        before = {filters: filters.detach().clone() for filters, _, _ in changes}
        with torch.no_grad():
            for filters, axis, positions in changes:
                fill_with_zeros(filters, axis, positions)
        self._before = {filters: (old, filters.detach().clone()) for filters, old in before.items()}

    def _reinstate(self) -> None:
        """Undo the zeros if nothing was trained since: an interrupted training yields its old epochs at once."""
        known, self._before = self._before, {}
        if all(torch.equal(filters, zeroed) for filters, (_, zeroed) in known.items()):
            with torch.no_grad():
                for filters, (old, _) in known.items():
                    filters.copy_(old)
