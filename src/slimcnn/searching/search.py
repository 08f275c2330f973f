"""Search for the smallest network that keeps its accuracy without training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimcnn.datasets import AnyLoader, Dataset, Examples, Normalization
from slimcnn.errors import SearchError, TargetUnreachable
from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan, Scores, Target, allocate, mask, prune, score, sensitivity
from slimcnn.pruning.targets import SIZES
from slimcnn.searching.settings import MACS, RATIO, Point, Search, describe, spec_of
from slimcnn.searching.study_storage import Outcome, StudyStorage
from slimcnn.searching.trial_storage import storage_errors
from slimcnn.tasks import Metric, task_named, task_of
from slimcnn.training import best_device, evaluate, judge
from slimcnn.training.evaluation import PartialEvaluation, evaluate_unless_below, evaluating
from slimcnn.training.keeping import TOP1


@dataclass
class Evaluator:
    """Evaluate points of a search: score, allocate, prune, optionally recover accuracy without training, measure top-1.

    Args:
        model: the traced network.
        graph: its channel graph, from `trace`.
        images: validation images, or a loader of batches (x, y); never test images.
        normalization: the normalization that the network's weights expect; a loader needs none.
        criterion: name of a criterion, whose options the search may vary.
        target: the target, except for its size, which the search varies. With `scope="sensitivity"`, the output error
            is measured on `data`.
        data: returns batches (x, y) for criteria that use data.
        recover: recovers accuracy in place, without training: (pruned network, plan) → None.
        way: "cut" evaluates the pruned network, "mask" the masked one; they are equal up to rounding. "mask" needs no
            surgery; "cut" evaluates faster.
        batch: batch size; after each batch the evaluation may stop early.
        data_of: the dataset whose task the network has; default: classification.
        metric: measures a network instead of top-1 on `images`, in the unit of `max_drop`; higher is better.
        scores: scores that are known already, by criterion with its options.
        choose: chooses the channels of a target.

    A dataset with another task than classification is judged by the metric of its task.
    """

    model: nn.Module
    graph: ChannelGraph
    images: Examples | AnyLoader | None = None
    normalization: Normalization | None = None
    criterion: str = "gfr"
    target: Target = field(default_factory=lambda: Target(pruning_ratio=0.5, scope="global", residual="inner"))
    data: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None
    recover: Callable[[nn.Module, Plan], None] | None = None
    way: Literal["cut", "mask"] = "cut"
    batch: int = 128
    data_of: Dataset | None = None
    metric: Callable[[nn.Module], float] | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    choose: Callable[[ChannelGraph, Scores, Target], Plan] = allocate

    @property
    def judged_by(self) -> Metric:
        """The metric of the search, with its unit and direction."""
        if self.metric is not None:
            return Metric("metric", unit="")
        return TOP1 if self.data_of is None else task_of(self.data_of).metric

    def base(self) -> float:
        """Measure the top-1 of the unpruned network, or its metric."""
        return self._measured(self.model, -math.inf).metric

    def _measured(self, network: nn.Module, least: float) -> PartialEvaluation:
        if self.metric is not None:
            with evaluating(network, best_device()), torch.no_grad():
                return PartialEvaluation(float(self.metric(network)), 0, whole=True)
        if self.data_of is not None and self.data_of.task != "classification":
            judged = judge(network, self.data_of.validation, self.data_of)
            return PartialEvaluation(judged.score, judged.n, whole=True)
        if self.images is None:
            raise SearchError("there is nothing to measure a network by: give images, or a metric")
        if least == -math.inf:
            found = evaluate(network, self.images, self.normalization)
            return PartialEvaluation(found.top1, found.n, whole=True)
        return evaluate_unless_below(network, self.images, self.normalization, least, batch_size=self.batch)

    def plan(self, point: Point) -> Plan:
        """Return the plan of a point."""
        spec = spec_of(self.criterion, point)
        if spec not in self.scores:
            self.scores[spec] = self._scored(spec)
        sizes: dict[str, Any] = dict.fromkeys((*SIZES, RATIO))
        sizes |= {name: float(point[name]) for name in (MACS, RATIO) if name in point}
        return self.choose(self.graph, self.scores[spec], replace(self.target, **sizes))

    def _scored(self, spec: str) -> Scores:
        loss = task_named("classification" if self.data_of is None else self.data_of.task).loss_on
        found = score(self.model, self.graph, spec, data=self.data() if self.data else None, loss=loss)
        if self.target.scope != "sensitivity":
            return found
        if self.data is None:
            raise SearchError('scope="sensitivity" measures the output error on images: give the Evaluator data=')
        return sensitivity(self.model, self.graph, found, (x for x, _ in self.data()))

    def attempt(self, point: Point, least: float, most_macs: float) -> tuple[Outcome, float]:
        """Evaluate a point; stop once it cannot reach `least`, or if it needs more than `most_macs`.

        Also return the value that the sampler minimizes: the share of the MACs, or 1 plus the missing accuracy.
        """
        began = time.perf_counter()
        try:
            plan = self.plan(point)
        except TargetUnreachable as error:
            return Outcome(point, None, None, f"cannot be pruned this far: {error}"), 2.0
        macs = self.graph.macs(plan.counts(self.graph)) / self.graph.macs()
        if macs > most_macs:
            return Outcome(point, macs, None, "needs more MACs than a point that is accurate enough"), macs
        make = mask if self.way == "mask" and self.recover is None else _cut
        network = make(self.model, self.graph, plan)
        if self.recover is not None:
            self.recover(network, plan)
        seen = self._measured(network, max(least, 0.0))
        seconds = time.perf_counter() - began
        if not seen.whole:
            why = f"can no longer reach {least:.2f} % after {seen.n} images"
            return Outcome(point, macs, None, why, seconds), 1 + (least - seen.metric) / 100
        missing = self.judged_by.gain(seen.metric, least)
        return Outcome(point, macs, seen.metric, "", seconds), macs if missing <= 0 else 1 + missing / 100


def _cut(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    return prune(model, graph, plan, verify=False)


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    best: Outcome
    """The point with the fewest MACs that loses at most `max_drop`; at equal MACs, the most accurate."""
    base: float
    """Top-1 of the unpruned network, or its metric."""
    outcomes: tuple[Outcome, ...]


@storage_errors()
def search(
    evaluator: Evaluator,
    settings: Search,
    storage: StudyStorage,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Evaluate points until the best one is known, together with all processes that use the same storage.

    The evaluation of a point stops early when it can no longer win: when the remaining images cannot bring it to
    `base - max_drop`, or when it needs more MACs than a point that is accurate enough. This does not change the
    winner, and the winner does not depend on the order or on the number of processes. With `settings.complete`, all
    points are evaluated on all images.

    Raises:
        SearchError: every point loses more than `max_drop`, or the database failed.
        RunError: the journal cannot be written: a full disk.

    >>> import slimcnn, torch
    >>> from pathlib import Path; from tempfile import mkdtemp
    >>> torch.manual_seed(0); digits = slimcnn.load_dataset("digits").limit(500)
    <torch._C.Generator object at ...>
    >>> net = slimcnn.build("resnet8", in_channels=1)
    >>> training = slimcnn.Training(epochs=3, layout="nchw", precision="32")
    >>> _ = list(slimcnn.fit(net, digits, training=training))
    >>> graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    >>> evaluator = Evaluator(net, graph, digits.validation, digits.normalization, criterion="bn_scale")
    >>> settings = Search(max_drop=30, macs=(0.6, 0.9), refine=0)
    >>> storage = StudyStorage.open(Path(mkdtemp()) / "points.log", "first", settings)
    >>> found = search(evaluator, settings, storage)
    >>> len(found.outcomes), found.best.metric >= found.base - 30
    (2, True)
    """
    if storage.get_attr("base") is None:
        storage.set_attr("base", evaluator.base())
    base, metric = float(storage.get_attr("base")), evaluator.judged_by
    least = _least(base, settings, metric)
    if settings.sampler == "grid":
        grid = settings.grid()
        storage.enqueue(grid)
        work(evaluator, settings, storage, progress)
        best = winner((one for one in storage.outcomes() if one.point in grid), least, metric)
        if best is not None:
            storage.enqueue(settings.around(best.point))
            work(evaluator, settings, storage, progress)
    else:
        work(evaluator, settings, storage, progress)
    storage.set_attr("finished", True)
    outcomes = storage.outcomes()
    best = winner(outcomes, least, metric)
    if best is None:
        mildest = min(outcomes, key=lambda one: abs(float(one.point[settings.varied]) - settings.mildest))
        reached = f"reaches {metric.written(mildest.metric)}" if mildest.metric is not None else mildest.stopped
        unit = "percentage points" if metric.unit == "%" else metric.unit
        drop = f"{settings.max_drop:g} {unit}".rstrip()
        raise SearchError(
            f"no configuration stays within {drop} of {metric.written(base)}: the mildest "
            f"({describe(mildest.point)}) {reached}; allow a larger drop, milder cuts, or a recovery step"
        )
    return Found(best, base, tuple(outcomes))


def _least(base: float, settings: Search, metric: Metric) -> float:
    """Return the value of the metric that a network must reach: the highest allowed one if lower is better."""
    return base - settings.max_drop if metric.higher_is_better else base + settings.max_drop


def work(
    evaluator: Evaluator,
    settings: Search,
    storage: StudyStorage,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Evaluate waiting points until none is left."""
    metric = evaluator.judged_by
    least = _least(float(storage.get_attr("base")), settings, metric)
    anything = -math.inf if metric.higher_is_better else math.inf
    while claimed := storage.next():
        trial, point = claimed
        try:
            best = None if settings.complete else winner(storage.outcomes(), least, metric)
            most = best.macs if best is not None and best.macs is not None else 1.0
            outcome, value = evaluator.attempt(point, anything if settings.complete else least, most)
        except BaseException:  # Ctrl-C in a notebook: the process, which runs on, would wait for its own trial
            storage.release(trial, point)
            raise
        storage.tell(trial, outcome, value)
        if progress is not None:
            progress(*storage.progress)


def winner(outcomes: Iterable[Outcome], least: float, metric: Metric = TOP1) -> Outcome | None:
    """Return the outcome with the fewest MACs that reaches `least` of the metric; at equal MACs, the most accurate.

    >>> points = [(0.1, 0.9, 91.0), (0.5, 0.5, 90.0), (0.7, 0.3, 80.0)]
    >>> tried = [Outcome({"pruning_ratio": ratio}, macs, value) for ratio, macs, value in points]
    >>> winner(tried, least=89.5).point, winner(tried, least=95.0)
    ({'pruning_ratio': 0.5}, None)
    """
    known = [(one.macs, one.metric, one) for one in outcomes if one.macs is not None and one.metric is not None]
    good = [
        (macs, -metric.gain(0.0, value), describe(one.point), one)
        for macs, value, one in known
        if metric.gain(least, value) >= 0
    ]
    return min(good, key=lambda found: found[:3])[3] if good else None


@storage_errors()
def join(
    evaluator: Evaluator,
    settings: Search,
    storage: StudyStorage,
    patience: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Work on a search that another process started until it is finished; return the number of points evaluated here.

    Also stop after `patience` seconds without work: the process that started the search may have died.
    """
    tried, idle = 0, time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal tried, idle
        tried, idle = tried + 1, time.monotonic()
        if progress is not None:
            progress(done, total)

    while not storage.get_attr("finished") and time.monotonic() - idle < patience:
        if storage.get_attr("base") is not None:
            work(evaluator, settings, storage, count)
        time.sleep(0.2)
    return tried
