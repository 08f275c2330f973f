"""The smallest network that keeps its accuracy without training: points are tried until one has won."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from slimcnn.datasets import Images, Normalisation
from slimcnn.errors import SearchError, TargetUnreachable
from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan, Scores, Target, allocate, mask, prune, score
from slimcnn.searching.board import Board, Outcome
from slimcnn.searching.settings import Point, Search, describe, spec_of
from slimcnn.training import evaluate
from slimcnn.training.evaluation import evaluate_unless_below


@dataclass
class Trying:
    """How a point is tried: scored, allocated, cut, perhaps recovered without training, and evaluated.

    Args:
        model: the network that was traced.
        graph: what `trace` found.
        images: validation images; never those of the test part.
        normalisation: of the network's weights.
        criterion: a criterion by name, whose options a search may vary.
        target: everything about the target but `ratio`, which the search varies.
        data: gives batches (x, y) for criteria that look at data.
        recover: wins accuracy back in place, without training: (small network, plan) → nothing.
        way: "cut" evaluates the small network, "mask" the masked one, which is the same to rounding; "mask" needs no
            surgery, "cut" evaluates faster.
        batch: images at a time; whether a point can still win is asked after each batch.
    """

    model: nn.Module
    graph: ChannelGraph
    images: Images
    normalisation: Normalisation
    criterion: str = "gfr"
    target: Target = field(default_factory=lambda: Target(ratio=0.5, scope="global", residual="inner"))
    data: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None
    recover: Callable[[nn.Module, Plan], None] | None = None
    way: Literal["cut", "mask"] = "cut"
    batch: int = 128
    _scores: dict[str, Scores] = field(default_factory=dict)

    def base(self) -> float:
        """Top-1 of the network as it is."""
        return evaluate(self.model, self.images, self.normalisation).top1

    def plan(self, point: Point) -> Plan:
        """Say what goes at a point."""
        spec = spec_of(self.criterion, point)
        if spec not in self._scores:
            self._scores[spec] = score(self.model, self.graph, spec, data=self.data() if self.data else None)
        target = replace(self.target, ratio=float(point["ratio"]), macs=None, params=None)
        return allocate(self.graph, self._scores[spec], target)

    def attempt(self, point: Point, least: float, most_macs: float) -> tuple[Outcome, float]:
        """Try a point; stop when it is certain that it misses `least` percent, or needs more than `most_macs`.

        Also gives what a sampler makes small: the share of the MACs, or 1 and what lacks to `least`.
        """
        began = time.perf_counter()
        try:
            plan = self.plan(point)
        except TargetUnreachable as error:
            return Outcome(point, None, None, f"cannot be cut so far: {error}"), 2.0
        macs = self.graph.macs(plan.counts(self.graph)) / self.graph.macs()
        if macs > most_macs:
            return Outcome(point, macs, None, "needs more MACs than one that is good enough"), macs
        make = mask if self.way == "mask" and self.recover is None else _cut
        network = make(self.model, self.graph, plan)
        if self.recover is not None:
            self.recover(network, plan)
        seen = evaluate_unless_below(network, self.images, self.normalisation, least, batch_size=self.batch)
        seconds = time.perf_counter() - began
        if not seen.whole:
            why = f"cannot reach {least:.2f} % any more after {seen.n} images"
            return Outcome(point, macs, None, why, seconds), 1 + (least - seen.top1) / 100
        value = macs if seen.top1 >= least else 1 + (least - seen.top1) / 100
        return Outcome(point, macs, seen.top1, "", seconds), value


def _cut(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    return prune(model, graph, plan, verify=False)


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: Outcome
    """Of all points that lose at most `drop`, the one with the fewest MACs; of those with equal MACs the best."""
    base: float
    """Top-1 of the network before."""
    outcomes: tuple[Outcome, ...]


def search(trying: Trying, settings: Search, board: Board, progress: Callable[[int, int], None] | None = None) -> Found:
    """Try points until one has won; together with whoever works on the same board.

    A point is not evaluated to the end when it cannot win any more: when the images that are left cannot bring it to
    `base - drop`, or when it needs more MACs than one that got there.  Neither changes the winner, and the winner does
    not depend on the order or on the number of processes.  With `settings.complete` all are evaluated.

    Raises:
        SearchError: no point loses as little.

    >>> import slimcnn, torch
    >>> from pathlib import Path; from tempfile import mkdtemp
    >>> torch.manual_seed(0); digits = slimcnn.load_dataset("digits").limit(500)
    <torch._C.Generator object at ...>
    >>> net = slimcnn.build("resnet8", in_channels=1)
    >>> training = slimcnn.Training(epochs=3, layout="nchw", precision="32")
    >>> _ = list(slimcnn.fit(net, digits, training=training))
    >>> graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    >>> trying = Trying(net, graph, digits.validation, digits.normalisation, criterion="bn_scale")
    >>> settings = Search(drop=30, ratios=(0.1, 0.3), refine=0)
    >>> found = search(trying, settings, Board.open(Path(mkdtemp()) / "points.log", "first", settings))
    >>> len(found.outcomes), found.best.top1 >= found.base - 30
    (2, True)
    """
    if board.said("base") is None:
        board.say("base", trying.base())
    base: float = board.said("base")
    if settings.sampler == "grid":
        grid = settings.grid()
        board.post(grid)
        work(trying, settings, board, progress)
        best = winner((one for one in board.outcomes() if one.point in grid), base - settings.drop)
        if best is not None:
            board.post(settings.around(best.point))
            work(trying, settings, board, progress)
    else:
        work(trying, settings, board, progress)
    board.say("finished", True)
    outcomes = board.outcomes()
    best = winner(outcomes, base - settings.drop)
    if best is None:
        gentle = min(outcomes, key=lambda outcome: float(outcome.point["ratio"]))
        reached = f"reaches {gentle.top1:.2f} %" if gentle.top1 is not None else gentle.stopped
        raise SearchError(
            f"no point stays within {settings.drop:g} points of {base:.2f} %: the gentlest ({describe(gentle.point)}) "
            f"{reached}; allow a larger drop, smaller ratios, or a recovery"
        )
    return Found(best, base, tuple(outcomes))


def work(trying: Trying, settings: Search, board: Board, progress: Callable[[int, int], None] | None = None) -> None:
    """Try points of a board until none is left."""
    least = float(board.said("base")) - settings.drop
    while taken := board.take() if settings.sampler == "grid" else board.propose():
        trial, point = taken
        best = None if settings.complete else winner(board.outcomes(), least)
        most = best.macs if best is not None and best.macs is not None else 1.0
        outcome, value = trying.attempt(point, 0.0 if settings.complete else least, most)
        board.settle(trial, outcome, value)
        if progress is not None:
            progress(*board.progress)


def winner(outcomes: Iterable[Outcome], least: float) -> Outcome | None:
    """Choose, of those that reach `least` percent, the one with the fewest MACs; the better of two that need as many.

    >>> points = [(0.1, 0.9, 91.0), (0.5, 0.5, 90.0), (0.7, 0.3, 80.0)]
    >>> tried = [Outcome({"ratio": ratio}, macs, top1) for ratio, macs, top1 in points]
    >>> winner(tried, least=89.5).point, winner(tried, least=95.0)
    ({'ratio': 0.5}, None)
    """
    good = [one for one in outcomes if one.macs is not None and one.top1 is not None and one.top1 >= least]
    return min(good, key=lambda one: (one.macs, -(one.top1 or 0), describe(one.point)), default=None)


def join(
    trying: Trying,
    settings: Search,
    board: Board,
    patience: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Help with a search that another process began, until it is finished; how many points were tried here.

    Ends as well when nothing was to be done for `patience` seconds: whoever began it may have died.
    """
    tried, idle = 0, time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal tried, idle
        tried, idle = tried + 1, time.monotonic()
        if progress is not None:
            progress(done, total)

    while not board.said("finished") and time.monotonic() - idle < patience:
        if board.said("base") is not None:
            work(trying, settings, board, count)
        time.sleep(0.2)
    return tried
