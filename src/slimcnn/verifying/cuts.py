"""Every cut of a run, checked again: prune == mask, and the network that it left is the one that the plan gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

from torch import nn

from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, mask, prune
from slimcnn.pruning.verify import verify
from slimcnn.running.folder import COMPRESSED, ORIGINAL, PLAN
from slimcnn.verifying.certificate import Check, NotCheckable, Refuted, attempt
from slimcnn.verifying.claimed_files import ClaimedFiles, OriginRecord, StepRecord, first_difference


@dataclass(frozen=True)
class ReopenedCut:
    """A cut, read from the files again."""

    step: StepRecord
    origin: OriginRecord
    whole: nn.Module
    """The network before the cut."""
    small: nn.Module
    """The network that the step left."""
    graph: ChannelGraph
    plan: Plan


def cuts_of(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """Give the steps that cut."""
    return [after for before, after in pairwise(steps) if len(after.cuts) > len(before.cuts)]


def check_cuts(files: ClaimedFiles, steps: Sequence[StepRecord]) -> list[Check]:
    """Prove every cut again, from the network before it, the plan and the network after it."""
    found = []
    for step in cuts_of(steps):
        reopened = cache(partial(_reopen, files, step))
        found += [
            attempt("prune == mask", step.folder, partial(_equal, reopened)),
            attempt("the network is what the plan leaves", step.folder, partial(_follows_plan, reopened)),
        ]
    return found


def _reopen(files: ClaimedFiles, step: StepRecord) -> ReopenedCut:
    origin, plan = step.origin, _plan_of(step)
    assert origin is not None
    whole, small = files.network(origin.whole), files.network(step.model)
    graph = trace(whole, files.example(step.model), origin.inexact)
    return ReopenedCut(step, origin, whole, small, graph, Plan.load(files.path(plan), graph))


def _plan_of(step: StepRecord) -> str:
    if step.origin is None or step.origin.plan is None:
        raise Refuted(f"{step.folder} says that it cut, but names no plan")
    return step.origin.plan


def _equal(reopened: Callable[[], ReopenedCut]) -> tuple[str, float]:
    cut = reopened()
    verdict = verify(mask(cut.whole, cut.graph, cut.plan), cut.small, cut.graph, cut.plan)
    claimed = cut.step.cuts[-1].equal
    if not verdict.holds or verdict.equal != claimed:
        raise Refuted(f"{verdict}; the run claims {'equal' if claimed else 'not equal'}")
    said = f"relative error {verdict.error:.1e} in {verdict.dtype}" if verdict.equal else str(verdict)
    shape = " × ".join(map(str, cut.graph.example.shape[1:]))
    return f"{said}, on a normal random input {shape}, against {cut.origin.whole}", verdict.error


def _follows_plan(reopened: Callable[[], ReopenedCut]) -> str:
    cut = reopened()
    leaves = f"what {cut.origin.plan} leaves of {cut.origin.whole}"
    differs = first_difference(prune(cut.whole, cut.graph, cut.plan, verify=False), cut.small)
    if differs:
        raise Refuted(f"{differs} is not {leaves}")
    return f"every tensor is {leaves}, bit by bit"


def check_results(files: ClaimedFiles, steps: Sequence[StepRecord], folder: str) -> list[Check]:
    """Compare the files that a run hands over with what its steps left; `folder` ends with a slash, or is empty."""
    last, cuts = steps[-1], cuts_of(steps)
    found = [
        attempt("is what the last step left", folder + name, partial(_same_network, files, folder + name, left))
        for name, left in ((ORIGINAL, last.reference), (COMPRESSED, last.model))
    ]
    if cuts:
        plan, model = folder + PLAN, folder + COMPRESSED
        found += [
            attempt("is the plan of the last cut", plan, partial(_same_plan, files, plan, cuts[-1])),
            attempt("structure is what the plan says", model, partial(_same_shapes, files, model, steps, cuts[-1])),
        ]
    return found


def _same_network(files: ClaimedFiles, name: str, left: str) -> str:
    differs = first_difference(files.network(name), files.network(left))
    if differs:
        raise Refuted(f"{differs} is not that of {left}")
    return f"every tensor equals that of {left}, bit by bit"


def _same_plan(files: ClaimedFiles, name: str, cut: StepRecord) -> str:
    plan = _plan_of(cut)
    if files.path(name).read_bytes() != files.path(plan).read_bytes():
        raise Refuted(f"differs from {plan}")
    return f"equals {plan}"


def _same_shapes(files: ClaimedFiles, name: str, steps: Sequence[StepRecord], cut: StepRecord) -> str:
    """Steps behind a cut may change the structure once more, which the plan does not say."""
    for before, after in pairwise(steps[steps.index(cut) :]):
        if first_difference(files.network(before.model), files.network(after.model), only_shapes=True):
            raise NotCheckable(f"{after.folder} changed the structure after the last cut, {cut.folder}")
    differs = first_difference(files.network(name), files.network(cut.model), only_shapes=True)
    if differs:
        raise Refuted(f"{differs} has another shape than after {cut.folder}")
    return f"every shape is that after {cut.folder}"
