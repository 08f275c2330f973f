"""Studies of every task speak of its metric: name, unit and direction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimcnn.reporting.outcome import MetricName
from slimcnn.studying.measures import measure_of_row
from slimcnn.studying.publishing import card, render, sections
from slimcnn.studying.rows import PAGE, StudyRow, StudyRows, read_rows, write_rows

IOU = MetricName(name="mean IoU")
ERROR = MetricName(name="mean absolute error", unit="", higher_is_better=False)


def study_of(metric: MetricName, values: dict[str, list[float]]) -> StudyRows:
    """One point for each criterion at a MACs of its own, one row for each value."""
    rows = tuple(
        StudyRow(
            {"criterion": criterion, "macs": 0.5 - 0.1 * place},
            seed,
            {"accuracy": value, "change": value - 0.25, "macs_left": 0.5 - 0.1 * place},
            metric=metric,
        )
        for place, (criterion, each) in enumerate(values.items())
        for seed, value in enumerate(each)
    )
    return StudyRows("s", "slimcnn study s.toml", "", ("accuracy", "change", "macs_left"), {}, rows)


ERRORS = {"l2": [0.2, 0.21], "fpgm": [0.3, 0.31], "random": [0.25, 0.26]}


def circled(study: StudyRows) -> list[str]:
    (block,) = (block for section in sections(study) for block in section.blocks if block.kind == "figure")
    return [one["label"].partition(",")[0] for one in block.data["points"] if one["best"]]


@pytest.mark.parametrize("metric", [IOU, ERROR])
def test_the_card_and_the_page_of_another_task_never_say_top_1(metric: MetricName, tmp_path: Path) -> None:
    study = study_of(metric, ERRORS)
    render(study, tmp_path)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    for text in (card(study), page):
        assert "top-1" not in text.lower().replace("\u2011", "-")
        assert metric.name in text
        assert f"change of {metric.name}" in text


def test_the_best_points_of_a_study_of_an_error_are_those_with_low_errors() -> None:
    assert circled(study_of(ERROR, ERRORS)) == ["l2", "random"]
    assert circled(study_of(IOU, ERRORS)) == ["fpgm", "random"]


def test_the_numbers_of_an_error_keep_three_digits() -> None:
    text = card(study_of(ERROR, {"l2": [0.0312, 0.0314], "fpgm": [0.0341, 0.0349]}))
    assert "0.0313 ± 0.000141" in text
    assert "0.0345" in text


def test_a_difference_of_errors_has_no_points_and_says_that_lower_is_better() -> None:
    rows = tuple(
        StudyRow({"criterion": criterion}, seed, {"accuracy": value + 0.001 * seed}, metric=ERROR)
        for criterion, value in (("l2", 0.2), ("fpgm", 0.25))
        for seed in (0, 1)
    )
    study = StudyRows("s", "", "", ("accuracy",), {"criterion": "l2"}, rows)
    text = card(study)
    assert "at otherwise equal settings, lower is better: mean and 95 % bootstrap interval" in text
    assert "in points" not in text
    assert "+0.05" in text


def test_a_row_keeps_the_metric_of_its_run_and_a_row_of_top_1_is_that_of_earlier_versions(tmp_path: Path) -> None:
    study = study_of(ERROR, ERRORS)
    write_rows(study, tmp_path)
    assert read_rows(tmp_path) == study
    assert read_rows(tmp_path).metric == ERROR
    usual = study_of(MetricName(), ERRORS)
    assert "metric" not in json.loads(usual.to_json())["rows"][0]
    write_rows(usual, tmp_path)
    assert read_rows(tmp_path) == usual


def test_a_failed_run_does_not_decide_the_metric() -> None:
    failed = StudyRow({"criterion": "l1"}, 0, {}, "failed", "no")
    study = study_of(IOU, ERRORS)
    assert StudyRows("s", "", "", study.measure, {}, (failed, *study.rows)).metric == IOU


def test_measures_of_top_1_have_their_usual_titles() -> None:
    names = ("accuracy", "change", "validation", "macs")
    assert [measure_of_row(name).title for name in names] == [
        "top-1, %", "change of top-1", "validation top-1, %", "MACs"
    ]  # fmt: skip
    odd = MetricName(name="balanced top-1")
    assert [measure_of_row(name, odd).title for name in names[:2]] == ["balanced top-1, %", "change of balanced top-1"]
    assert [measure_of_row(name, ERROR).better for name in names] == ["lower"] * 4
