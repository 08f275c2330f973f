"""What every view keeps to, and small cases by hand."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

import slimcnn
from slimcnn import views
from slimcnn.datasets import load_dataset
from slimcnn.errors import UnknownName
from slimcnn.models.published import published_rows
from slimcnn.pruning import Plan
from slimcnn.reporting import render_page, tables
from slimcnn.reporting.sections import Section, Table
from slimcnn.rewriting import rewritten

EXAMPLE = torch.zeros(1, 1, 8, 8)
WORDS = {"text", "name"}


def resnet8() -> tuple[nn.Module, slimcnn.ChannelGraph]:
    torch.manual_seed(0)
    model = slimcnn.build("resnet8", num_classes=10, in_channels=1)
    return model, slimcnn.trace(model, EXAMPLE)


def of_norms() -> views.View:
    return views.norms(*resnet8(), ["l2", "fpgm"], slimcnn.Target(pruning_ratio=0.5), "resnet8")


def of_plan() -> views.View:
    model, graph = resnet8()
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(macs=0.5))
    return views.plan(graph, plan)


def of_rewrite() -> views.View:
    model, _ = resnet8()
    found = rewritten(model, "feature_reuse", EXAMPLE)
    return views.rewrite(found, slimcnn.measure(model, EXAMPLE), slimcnn.measure(found.model, EXAMPLE))


def of_closeness() -> views.View:
    digits = load_dataset("digits").limit(40)
    return views.closeness({"teacher": resnet8()[0], "student": resnet8()[0]}, digits)


def of_evaluate() -> views.View:
    digits = load_dataset("digits").limit(40)
    return views.evaluate(resnet8()[0], digits.test, digits.normalization)


def of_benchmark() -> views.View:
    digits = load_dataset("digits").limit(40)
    nets = {"original": resnet8()[0], "compressed": resnet8()[0]}
    return views.benchmark(
        slimcnn.benchmark(
            nets, EXAMPLE, runtimes=["torch"], batches=[1, 2], seconds=0, processes=0, images=digits.test,
            normalization=digits.normalization,
        )
    )  # fmt: skip


EVERY: dict[str, Callable[[], views.View]] = {
    "doctor": lambda: views.doctor(runtimes=["torch", "onnxruntime"]),
    "inspect": lambda: views.inspect(resnet8()[1]),
    "measure": lambda: views.measure(resnet8()[0], EXAMPLE, layers=True, seconds=0),
    "norms": of_norms,
    "closeness": of_closeness,
    "zoo": lambda: views.zoo(published_rows(["shufflenet_v2"])[:2], runtimes=["eager"], seconds=0),
    "names": lambda: views.names("all"),
    "plan": of_plan,
    "rewrite": of_rewrite,
    "evaluate": of_evaluate,
    "evaluate_task": lambda: views.evaluate_task(resnet8()[0], load_dataset("digits").limit(40)),
    "benchmark": of_benchmark,
}


@pytest.fixture(scope="module")
def found() -> dict[str, views.View]:
    return {name: look() for name, look in EVERY.items()}


def tables_of(view: views.View) -> list[Table]:
    return [block for section in view.sections for block in section.blocks if isinstance(block, Table)]


def test_every_view_of_the_room_is_tested_here() -> None:
    assert set(EVERY) == set(views.__all__) - {"View"}


@pytest.mark.parametrize("name", EVERY)
def test_sections_come_back_from_json_as_they_were_and_data_is_json(name: str, found: dict[str, views.View]) -> None:
    view = found[name]
    assert view.sections
    for section in view.sections:
        assert Section.model_validate_json(section.model_dump_json()) == section
    assert json.loads(json.dumps(view.data, allow_nan=False))


@pytest.mark.parametrize("name", EVERY)
def test_a_column_of_numbers_holds_numbers_and_every_row_is_complete(name: str, found: dict[str, views.View]) -> None:
    assert tables_of(found[name])
    for table in tables_of(found[name]):
        assert table.rows
        for row in table.rows:
            assert len(row) == len(table.columns)
            for column, value in zip(table.columns, row, strict=True):
                assert value is None or isinstance(value, str) == (column.format in WORDS), (column, value)


@pytest.mark.parametrize("name", EVERY)
def test_a_notebook_shows_a_short_line_or_html_and_the_page_needs_nothing_else(
    name: str, found: dict[str, views.View]
) -> None:
    view = found[name]
    assert view.headline in repr(view)
    assert len(repr(view)) < 200
    assert "\n" not in repr(view)
    html = view._repr_html_()
    assert all(section.title in html for section in view.sections)
    page = render_page(view.title, view.headline, view.sections)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert page == render_page(view.title, view.headline, view.sections)


@pytest.mark.parametrize("name", EVERY)
def test_eighty_columns_of_a_terminal_are_enough_for_every_heading_and_name(
    name: str, found: dict[str, views.View]
) -> None:
    written = io.StringIO()
    Console(file=written, width=80).print(*tables(found[name].sections))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.rstrip().endswith("…") and name != "plan"]
    shown = [table for table in tables_of(found[name]) if not table.folded]
    names = [str(row[0]) for table in shown for row in table.rows if isinstance(row[0], str)]
    words = [word for name in names for word in name.split() if len(word) <= 20]
    words += [word for table in shown for column in table.columns for word in column.title.split()]
    assert not [word for word in words if not any(word in line for line in lines)]


def test_names_from_outside_are_escaped() -> None:
    model, graph = resnet8()
    view = views.norms(model, graph, ["l2"], slimcnn.Target(pruning_ratio=0.5), "<script>x")
    plan = views.plan(graph, Plan(graph.fingerprint, {}, criterion="<b>mine", notes=("<i>note",)))
    digits = replace(load_dataset("digits").limit(40), name="<u>data", classes=tuple("<s>x" + n for n in "0123456789"))
    close = views.closeness({"<em>one": model, "<kbd>two": model}, digits)
    for one in (view, plan, close):
        page = render_page(one.title, one.headline, one.sections)
        assert not re.search(r"<script>|<b>mine|<i>note|<u>data|<s>x|<em>one|<kbd>two", page)
        assert not re.search(r"<script>|<b>mine|<i>note|<u>data|<s>x|<em>one|<kbd>two", one._repr_html_())


def test_removable_and_locked_channels_are_told_apart() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False))
    view = views.inspect(slimcnn.trace(net, EXAMPLE))
    assert view.headline == "4 channels in 1 group can be removed, 2 locked"
    assert view.data["params"] == 4 * 9 + 2 * 4 * 9
    assert view.data["macs"] == 36 * 4 * 9 + 16 * 2 * 4 * 9
    assert [(group["name"], group["channels"], group["layers"]) for group in view.data["groups"]] == [("0", 4, ["0"])]
    assert [(lock["layer"], lock["channels"], lock["of"]) for lock in view.data["locked"]] == [("2", 2, 2)]
    free, locked = tables_of(view)
    assert free.rows == (("0", 4, "0"),)
    assert locked.rows[0][:3] == ("2", 2, 2)


def test_a_plan_tells_what_stays_of_channels_macs_and_parameters() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 2, 3, bias=False))
    graph = slimcnn.trace(net, EXAMPLE)
    view = views.plan(graph, Plan(graph.fingerprint, {"0": tuple(range(13))}, "l2", "by hand", ("a note",)))
    assert view.data == {
        "criterion": "l2",
        "target": "by hand",
        "notes": ["a note"],
        "groups": [{"group": "0", "channels": 16, "kept": 3}],
        "macs": {"before": 36 * 16 * 9 + 16 * 32 * 9, "after": 36 * 3 * 9 + 16 * 6 * 9},
        "params": {"before": 16 * 9 + 32 * 9, "after": 3 * 9 + 6 * 9},
        "bytes": {"before": 4 * (16 * 9 + 32 * 9), "after": 4 * (3 * 9 + 6 * 9)},
        "peak_memory": {"before": 4 * 2 * 16 * 36, "after": 4 * 2 * 3 * 36},
    }
    groups, saved = tables_of(view)
    assert groups.rows == (("0", 16, 3, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 …"),)
    assert saved.rows[1] == ("params", 432, 81, 81 / 432)


def test_a_rewrite_tells_which_layers_were_replaced_and_why_others_were_not() -> None:
    view = of_rewrite()
    changed = [change["layer"] for change in view.data["changes"] if change["what"]]
    assert changed == ["layer1.0.conv1", "layer1.0.conv2"]
    assert all(change["what"] or change["why_left"] for change in view.data["changes"])
    assert view.data["params"]["after"] < view.data["params"]["before"]
    assert view.headline.startswith(f"2 of {len(view.data['changes'])} layers replaced")


def test_a_measurement_lists_layers_only_where_they_are_asked_for() -> None:
    net = nn.Sequential(nn.Linear(8, 3))
    view = views.measure(net, torch.zeros(1, 8), seconds=0)
    assert {name: view.data[name] for name in ("params", "macs")} == {"params": 27, "macs": 24}
    assert set(view.data) == {"params", "macs", "bytes", "peak_memory", "peak_memory_int8", "not_counted", "latency"}
    assert view.data["latency"]["median_ms"] > 0
    layers = views.measure(net, torch.zeros(1, 8), layers=True, seconds=0)
    assert set(layers.data) == set(view.data) | {"layers"}
    assert tables_of(layers)[0].rows == (("0", "Linear", (3,), 27, 24),)


def test_accuracy_is_that_of_scores_known_in_advance() -> None:
    digits = load_dataset("digits").limit(100)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net[1].weight.data.zero_()
    net[1].bias.data.copy_(torch.arange(10.0))
    view = views.evaluate(net, digits.test, digits.normalization, "test")
    labels = digits.test.labels
    assert view.data["n"] == 100
    assert view.data["part"] == "test"
    assert view.data["top1"] == pytest.approx(float((labels == 9).float().mean()) * 100)
    assert view.data["top5"] == pytest.approx(float((labels >= 5).float().mean()) * 100)
    total = math.log(sum(math.exp(k) for k in range(10)))
    assert view.data["loss"] == pytest.approx(total - float(labels.double().mean()), rel=1e-5)
    assert tables_of(view)[0].rows == (("test", 100, view.data["top1"], view.data["top5"], view.data["loss"]),)


def test_names_of_one_kind_or_of_all_and_of_no_other() -> None:
    assert list(views.names("criteria").data) == ["criteria"]
    every = views.names("all").data
    assert {"networks", "criteria", "rewrites", "losses", "datasets"} <= set(every)
    assert all(
        entry["name"] and entry["summary"] and entry["source"] for entries in every.values() for entry in entries
    )
    with pytest.raises(UnknownName, match="unknown kind 'shapes'"):
        views.names("shapes")
