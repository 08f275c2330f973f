"""Verify every cut of a run: prune == mask, and the pruned network follows the plan."""

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
    """A cut, reloaded from the run's files."""

    step: StepRecord
    origin: OriginRecord
    whole: nn.Module
    """The network before the cut."""
    small: nn.Module
    """The step's output network."""
    graph: ChannelGraph
    plan: Plan


def cuts_of(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """Return the steps that cut."""
    return [after for before, after in pairwise(steps) if len(after.cuts) > len(before.cuts)]


def check_cuts(files: ClaimedFiles, steps: Sequence[StepRecord]) -> list[Check]:
    """Check every cut from the network before it, the plan and the network after it."""
    found = []
    for step in cuts_of(steps):
        reopened = cache(partial(_reopen, files, step))
        found += [
            attempt("prune == mask", step.folder, partial(_equal, reopened)),
            attempt("the network follows the plan", step.folder, partial(_follows_plan, reopened)),
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
        raise Refuted(f"{step.folder} records a cut but no plan")
    return step.origin.plan


def _equal(reopened: Callable[[], ReopenedCut]) -> tuple[str, float]:
    cut = reopened()
    verdict = verify(mask(cut.whole, cut.graph, cut.plan), cut.small, cut.graph, cut.plan)
    claimed = cut.step.cuts[-1].equal
    if not verdict.holds or verdict.equal != claimed:
        raise Refuted(f"{verdict}; the run claims {'equal' if claimed else 'not equal'}")
    outcome = f"relative error {verdict.error:.1e} in {verdict.dtype}" if verdict.equal else str(verdict)
    shape = " × ".join(map(str, cut.graph.example.shape[1:]))
    return f"{outcome}, on a normal random input {shape}, against {cut.origin.whole}", verdict.error


def _follows_plan(reopened: Callable[[], ReopenedCut]) -> str:
    cut = reopened()
    expected = f"{cut.origin.whole} pruned by {cut.origin.plan}"
    differs = first_difference(prune(cut.whole, cut.graph, cut.plan, verify=False), cut.small)
    if differs:
        raise Refuted(f"{differs} differs from {expected}")
    return f"every tensor is bit-identical to {expected}"


def check_results(files: ClaimedFiles, steps: Sequence[StepRecord], folder: str) -> list[Check]:
    """Compare a run's final files with the outputs of its steps; `folder` is empty or has a trailing slash."""
    last, cuts = steps[-1], cuts_of(steps)
    found = [
        attempt("equals the last step's output", folder + name, partial(_same_network, files, folder + name, output))
        for name, output in ((ORIGINAL, last.reference), (COMPRESSED, last.model))
    ]
    if cuts:
        plan, model = folder + PLAN, folder + COMPRESSED
        found += [
            attempt("equals the plan of the last cut", plan, partial(_same_plan, files, plan, cuts[-1])),
            attempt("structure follows the plan", model, partial(_same_shapes, files, model, steps, cuts[-1])),
        ]
    return found


def _same_network(files: ClaimedFiles, name: str, output: str) -> str:
    differs = first_difference(files.network(name), files.network(output))
    if differs:
        raise Refuted(f"{differs} differs from {output}")
    return f"every tensor is bit-identical to {output}"


def _same_plan(files: ClaimedFiles, name: str, cut: StepRecord) -> str:
    plan = _plan_of(cut)
    if files.path(name).read_bytes() != files.path(plan).read_bytes():
        raise Refuted(f"differs from {plan}")
    return f"equals {plan}"


def _same_shapes(files: ClaimedFiles, name: str, steps: Sequence[StepRecord], cut: StepRecord) -> str:
    """Steps after a cut may change the structure again, which the plan does not record."""
    for before, after in pairwise(steps[steps.index(cut) :]):
        if first_difference(files.network(before.model), files.network(after.model), only_shapes=True):
            raise NotCheckable(f"{after.folder} changed the structure after the last cut, {cut.folder}")
    differs = first_difference(files.network(name), files.network(cut.model), only_shapes=True)
    if differs:
        raise Refuted(f"{differs} has a different shape than after {cut.folder}")
    return f"all shapes are equal to those after {cut.folder}"
