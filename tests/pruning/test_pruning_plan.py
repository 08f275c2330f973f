"""The plan is data: written, read, edited, and refused where it does not belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_to_prune import image, plain, residual
from torch import nn

from slimcnn.errors import PlanError, RunError
from slimcnn.graph import trace
from slimcnn.pruning import Plan, Target, allocate, mask, prune, score

NETWORK = residual(12, 18)
GRAPH = trace(NETWORK, image())


def some_plan() -> Plan:
    return allocate(GRAPH, score(NETWORK, GRAPH, "fpdf"), Target(macs=0.4))


def refused(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text, GRAPH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(**changes: Any) -> str:
    return json.dumps(json.loads(some_plan().to_json(GRAPH)) | changes)


def row(group: str, *removed: Any) -> dict[str, Any]:
    return {"group": group, "removed": list(removed)}


# --- out and in --------------------------------------------------------------------------------------------------


SOME_OF_EACH = {g.name: st.sets(st.integers(0, g.channels - 1), max_size=g.channels - 1) for g in GRAPH.groups}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.fixed_dictionaries(SOME_OF_EACH), st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_text_and_plan_are_the_same_data(
    removed: dict[str, set[int]], criterion: str, target: str, notes: list[str]
) -> None:
    plan = Plan(GRAPH.fingerprint, {g: tuple(c) for g, c in removed.items()}, criterion, target, tuple(notes))
    assert Plan.from_json(plan.to_json(GRAPH), GRAPH) == plan
    assert Plan.from_json(plan.to_json(GRAPH), GRAPH).to_json(GRAPH) == plan.to_json(GRAPH)


def test_a_plan_on_disk_is_the_same_plan(tmp_path: Path) -> None:
    plan = some_plan()
    plan.save(tmp_path / "plan.json", GRAPH)
    assert Plan.load(tmp_path / "plan.json", GRAPH) == plan


def test_every_group_has_one_line_so_that_plans_can_be_compared() -> None:
    plan = some_plan()
    lines = plan.to_json(GRAPH).splitlines()
    for group in GRAPH.groups:
        assert sum(f'"group": "{group.name}"' in line for line in lines) == 1
    other = Plan(plan.network, {**plan.removed, "1.one": (0,)}, plan.criterion, plan.target)
    assert sum(a != b for a, b in zip(lines, other.to_json(GRAPH).splitlines(), strict=True)) == 1


def test_channels_are_kept_in_order_and_once() -> None:
    assert Plan("x", {"a": (3, 1, 3), "b": ()}).removed == {"a": (1, 3)}


def test_an_edited_plan_cuts_what_it_says() -> None:
    plan = Plan.from_json(edited(groups=[row("1.one", 17, 0), row("2.one")]), GRAPH)
    small = prune(NETWORK, GRAPH, plan)
    assert (small[1].one.out_channels, small[2].one.out_channels, small[0].out_channels) == (16, 18, 12)
    assert torch.equal(small[1].one.weight, NETWORK[1].one.weight[1:17])


def test_counts_and_indices_follow_the_order_of_the_graph() -> None:
    plan = Plan(GRAPH.fingerprint, {"2.one": (1, 2), "0": (5,)})
    assert dict(zip([g.name for g in GRAPH.groups], plan.counts(GRAPH).tolist(), strict=True)) == {
        "0": 1,
        "1.one": 0,
        "2.one": 2,
    }
    assert {GRAPH.groups[i].name: c.tolist() for i, c in plan.by_index(GRAPH).items()} == {"0": [5], "2.one": [1, 2]}


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [
    "", "{", "nonsense", "[]", "null", "3", '"plan"', "{}",
    '{"slimcnn_plan": 1}', '{"slimcnn_plan": 1, "network": "x"}',
    '{"slimcnn_plan": 1, "network": "x", "groups": 3}', '{"slimcnn_plan": 1, "network": "x", "groups": [3]}',
    '{"slimcnn_plan": 1, "network": "x", "groups": [{"group": "0"}]}', "[" * 100_000, "\x00",
])  # fmt: skip
def test_garbage_is_no_plan(garbage: str) -> None:
    assert "this is not a plan" in refused(garbage)


@pytest.mark.parametrize("channel", [1.5, "1", True, None, [1]])
def test_channels_are_whole_numbers(channel: Any) -> None:
    assert "is not a channel number" in refused(edited(groups=[row("1.one", channel)]))


def test_another_format_is_refused() -> None:
    assert "has format 2; this version reads format 1" in refused(edited(slimcnn_plan=2))


@pytest.mark.parametrize(("groups", "said"), [
    ([row("1.one", 18)], "removes channel 18 of '1.one', which has channels 0 to 17"),
    ([row("1.one", -1)], "removes channel -1 of '1.one'"),
    ([row("0", *range(12))], "leaves 0 of 12 channels of '0'; at least 1 must stay"),
    ([row("1.two", 0)], "removes channels of '1.two', which is not a group of this network"),
    ([row("1.one", 0), row("1.one", 1)], "lists '1.one' twice"),
])  # fmt: skip
def test_an_impossible_edit_is_refused(groups: list[Any], said: str) -> None:
    assert said in refused(edited(groups=groups))


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nowhere.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(PlanError, match="cannot read the plan"):
            Plan.load(path, GRAPH)


def test_a_plan_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        some_plan().save(tmp_path / "file" / "plan.json", GRAPH)


def other_networks() -> list[nn.Module]:
    return [plain(12), residual(12, 17), residual(13, 18), residual(12, 18, blocks=3)]


@pytest.mark.parametrize("other", other_networks())
def test_a_plan_for_another_network_is_refused_everywhere(other: nn.Module) -> None:
    plan, graph = some_plan(), trace(other, image())
    with pytest.raises(PlanError, match="made for another network"):
        Plan.from_json(plan.to_json(GRAPH), graph)
    for cut in (prune, mask):
        with pytest.raises(PlanError, match="made for another network"):
            cut(other, graph, plan)
        with pytest.raises(PlanError, match="the graph was traced on another network"):
            cut(other, GRAPH, plan)


def test_an_impossible_plan_made_in_python_is_refused_too() -> None:
    for removed in ({"0": (99,)}, {"nobody": (0,)}, {"0": tuple(range(12))}):
        with pytest.raises(PlanError):
            prune(NETWORK, GRAPH, Plan(GRAPH.fingerprint, removed))


def test_the_pruned_network_is_another_network() -> None:
    plan = some_plan()
    small = prune(NETWORK, GRAPH, plan)
    with pytest.raises(PlanError, match="trace this network"):
        prune(small, GRAPH, plan)
