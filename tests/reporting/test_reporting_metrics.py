"""Reports of every task speak of its metric: name, unit and direction."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from page_reading import Page
from rich.console import Console
from synthetic_reports import curve, tiny

from slimcnn.reporting import CurveReport, Report, formatting
from slimcnn.reporting.comparison import headline, is_alarming, verdict_in_words
from slimcnn.reporting.curve import curve_in_words
from slimcnn.reporting.figures.drawing import house_style
from slimcnn.reporting.figures.pareto import Pareto, Trial
from slimcnn.reporting.figures.training import EpochPoint, TrainingCurves
from slimcnn.reporting.outcome import MetricName, Numbers
from slimcnn.reporting.page import render, render_curve
from slimcnn.reporting.terminal import summary

IOU = MetricName(name="mean IoU")
ERROR = MetricName(name="mean absolute error", unit="", higher_is_better=False)
RATE = MetricName(name="error rate", higher_is_better=False)


def scored(numbers: Numbers, score: float) -> Numbers:
    return numbers.model_copy(update={"top1": None, "metric": score})


def curve_of(metric: MetricName, original: float, *scores: float) -> CurveReport:
    """A curve whose sizes, from the largest to the smallest, have these scores."""
    found = curve()
    points = tuple(
        point.model_copy(
            update={
                "after": scored(point.after, score),
                "steps": tuple(step.model_copy(update={"metric": score}) for step in point.steps),
            }
        )
        for point, score in zip(found.points, scores, strict=True)
    )
    update = {"metric": metric, "reference": scored(found.reference, original), "points": points}
    return found.model_copy(update=update)


def run_of(metric: MetricName, before: float, after: float) -> Report:
    found = tiny()
    steps = tuple(step.model_copy(update={"metric": after}) for step in found.steps)
    update: dict[str, Any] = {
        "metric": metric,
        "before": scored(found.before, before),
        "reference_metric": before,
        "sections": (),
    }
    return found.model_copy(update=update | {"after": scored(found.after, after), "steps": steps})


def said(report: Report | CurveReport) -> str:
    """What the page and the terminal say, titles of figures included."""
    console = Console(width=200, file=StringIO())
    for part in summary(report):
        console.print(part)
    html = render_curve(report) if isinstance(report, CurveReport) else render(report)
    return Page(html).all("body")[0].text + console.file.getvalue()


@pytest.mark.parametrize(
    "report",
    [
        curve_of(IOU, 80.0, 79.8, 79.5, 70.0), curve_of(ERROR, 0.2, 0.2005, 0.2015, 0.31),
        run_of(IOU, 80.0, 79.0), run_of(ERROR, 0.2, 0.21),
    ],
)  # fmt: skip
def test_pages_of_other_tasks_never_say_top_1(report: Report | CurveReport) -> None:
    text = said(report)
    assert "top-1" not in text.lower().replace("\u2011", "-")
    assert report.metric.name in text
    if report.metric.unit != "%":
        assert not re.search(r"\bpoints?\b", text)
        assert "%" not in report.metric.title


def test_a_curve_recommends_the_smallest_size_within_a_point_of_its_metric() -> None:
    words = curve_in_words(curve_of(IOU, 80.0, 79.9, 79.0, 70.0))
    assert words[0].startswith("The smallest size that loses at most 1 point of mean IoU is 0.6: ")
    assert "mean IoU 79.00 % (−1.00 points)" in words[0]


def test_a_curve_of_an_error_recommends_the_smallest_size_that_raises_it_by_at_most_one_percent() -> None:
    words = curve_in_words(curve_of(ERROR, 0.2, 0.19, 0.2015, 0.31))
    assert words[0].startswith("The smallest size that raises mean absolute error by at most 1 % is 0.6: ")
    assert "mean absolute error 0.202 (+0.0015)" in words[0]
    assert words[1].startswith("The smallest size is 0.4: ")


def test_the_mildest_size_of_a_curve_of_an_error_is_that_with_the_lowest_error() -> None:
    words = curve_in_words(curve_of(ERROR, 0.1, 0.3, 0.2, 0.4))
    assert words[0].startswith("Every size raises mean absolute error by more than 1 %; the mildest is 0.6: ")


def test_an_error_in_percent_may_rise_by_a_point() -> None:
    words = curve_in_words(curve_of(RATE, 5.0, 5.1, 5.9, 6.1))
    assert words[0].startswith("The smallest size that raises error rate by at most 1 point is 0.6: ")


def test_small_errors_are_not_rounded_away() -> None:
    report = run_of(ERROR, 0.0312, 0.0341)
    assert "mean absolute error 0.0312 → 0.0341 (+0.0029)" in headline(report)
    assert "Mean absolute error rises by 0.0029 (worse), from 0.0312 to 0.0341, measured on 360 test images." in (
        verdict_in_words(report)
    )
    assert "0.0341" in Page(render(report)).part("step-by-step").text


def test_a_page_is_alarming_if_an_error_rate_rises_not_if_it_falls() -> None:
    assert is_alarming(run_of(RATE, 5.0, 15.0))
    assert not is_alarming(run_of(RATE, 15.0, 5.0))


def test_the_training_accuracy_of_another_task_does_not_bear_the_name_of_its_metric() -> None:
    epoch = EpochPoint(
        epoch=1, loss=1.0, terms={}, train_accuracy=90.0, validation_metric=0.0312, learning_rate=0.1, seconds=1.0
    )
    for metric, line in (("top-1, %", "training"), ("mean IoU, %", "right in training"), ("error", None)):
        with house_style():
            panel = TrainingCurves(epochs=(epoch,), level=None, metric=metric).panels("a")[1]
        assert ("right in training" in panel.svg) == (line == "right in training")
        assert ("training 90" in panel.svg) == (line is not None)
    assert panel.note == "validation 0.0312 at the end"


def test_a_search_by_an_error_draws_its_bound_above_the_original() -> None:
    best = Trial(point={}, macs=0.5, metric=0.21)
    figure = Pareto(tried=(best,), best=best, base=0.2, drop=0.05, metric=ERROR)
    with house_style():
        panel = figure.panels("a")[0]
    assert panel.title == "Mean absolute error, on validation images"
    assert "0.05 more" in panel.svg
    assert "chosen: 0.500 of the MACs, 0.21" in panel.svg


def test_the_stored_figure_of_a_search_by_top_1_does_not_name_its_metric() -> None:
    best = Trial(point={}, macs=0.5, metric=90.0)
    figure = Pareto(tried=(best,), best=best, base=91.0, drop=1.0)
    assert set(figure.block().data) == {"tried", "best", "base", "drop"}
    other = figure.model_copy(update={"metric": ERROR}).block()
    assert Pareto.model_validate(other.data).metric == ERROR


def test_differences_have_a_sign_and_three_digits() -> None:
    assert [formatting.write(value, "signed") for value in (0.01278, -12.0, 0.0)] == ["+0.0128", "−12", "±0"]
