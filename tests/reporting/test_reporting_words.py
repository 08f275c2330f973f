"""The verdict in words, for cases worked out by hand."""

from __future__ import annotations

import math

import pytest
from synthetic_reports import REPORTS, curve, failed_verdict, not_finite_curve, tiny

from slimcnn.reporting import verdict_in_words
from slimcnn.reporting.comparison import (
    accuracy_in_words,
    exactness_in_words,
    rows,
    size_in_words,
    time_in_words,
)
from slimcnn.reporting.curve import curve_headline, curve_in_words
from slimcnn.reporting.outcome import CutVerdict, Numbers, Ratio, Timing
from slimcnn.reporting.page import render


def timed(before: float, after: float, ratio: tuple[float, float, float]) -> Timing:
    lower, median, upper = ratio
    return Timing(
        batch=1, threads=1, runtime="torch eager", device="a CPU", n=9,
        before_ms=(before, before, before), after_ms=(after, after, after),
        ratio=Ratio(median=median, lower=lower, upper=upper),
    )  # fmt: skip


def numbers(params: int, macs: int, size: int) -> Numbers:
    return Numbers(top1=90.0, params=params, macs=macs, bytes=size, peak_memory=64, latency_ms=1.0)


def test_the_verdict_of_a_run_in_its_order() -> None:
    assert verdict_in_words(tiny()) == [
        "The network needs 51 % fewer MACs and 50 % fewer parameters; its file is 48 % smaller. "
        "It runs in 25 % less memory.",
        "A call takes 33 % less time: 0.543 ms, previously 0.812 ms (torch eager, batch 1, 2 threads, some processor).",
        "Top-1 falls by 1.11 points, from 98.61 % to 97.50 %: 4 more of 360 test images are misclassified.",
        "The cut is exact: the pruned network’s outputs equal those of the original with the removed channels set to "
        "zero (largest relative difference 3.4e−16).",
        "To recover more accuracy, train for more epochs: --epochs 20.",
    ]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((100, 1000, 480), (100, 1000, 700), "The network is as large as before: 1.000 k MACs and 100 parameters."),
        (
            (100, 1000, 480),
            (100, 968, 480),
            "The network needs 3.2 % fewer MACs and as many parameters; its file is as large as before.",
        ),
        (
            (100, 1000, 480),
            (110, 2500, 500),
            "The network needs 2.5 times as many MACs and 10 % more parameters; its file is 4.2 % larger.",
        ),
        (
            (10**6, 10**9, 10**6),
            (1, 1, 1),
            "The network needs over 99.9 % fewer MACs and over 99.9 % fewer parameters; its file is "
            "over 99.9 % smaller.",
        ),
        (
            (10**6, 10**9, 10**6),
            (10**6 - 1, 10**9, 10**6),
            "The network needs as many MACs and under 0.1 % fewer parameters; its file is as large as before.",
        ),
        (
            (100, 1000, 480),
            (0, 0, 240),
            "The network needs 100 % fewer MACs and 100 % fewer parameters; its file is 50 % smaller.",
        ),
        (
            (100, 0, 480),
            (200, 1500, 960),
            "The network needs 1.500 k MACs instead of none and 100 % more parameters; its file is 100 % larger.",
        ),
    ],
)
def test_what_was_saved(before: tuple[int, int, int], after: tuple[int, int, int], words: str) -> None:
    assert size_in_words(numbers(*before), numbers(*after)) == words


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (2.0, 1.0, "A call takes 50 % less time: 1.00 ms, previously 2.00 ms (torch eager, batch 1, 1 thread, a CPU)."),
        (1.0, 1.5, "A call takes 50 % more time: 1.50 ms, previously 1.00 ms (torch eager, batch 1, 1 thread, a CPU)."),
        (
            1.0,
            1.01,
            "A call takes about as long as before: 1.01 ms, previously 1.00 ms "
            "(torch eager, batch 1, 1 thread, a CPU).",
        ),
        (math.nan, 1.0, "The time of a call was not measured."),
        (0.0, 1.0, "The time of a call was not measured."),
    ],
)
def test_what_a_call_takes(before: float, after: float, words: str) -> None:
    ratio = after / before if before else math.nan
    assert time_in_words(before, after, timed(before, after, (ratio, ratio, ratio))) == words


def test_a_report_states_one_latency_ratio_that_of_interleaved_calls() -> None:
    """On a busy machine the ratio of the medians differs: 0.67 here."""
    timing = tiny().timing.model_copy(update={"ratio": Ratio(median=0.91, lower=0.88, upper=0.93)})
    report = tiny().model_copy(update={"timing": timing})
    assert "A call takes 9.0 % less time: 0.543 ms, previously 0.812 ms" in verdict_in_words(report)[1]
    assert rows(report)[-1].change == "× 0.91"
    page = render(report)
    assert "0.91" in page
    assert "0.67" not in page


def test_wide_quartiles_of_the_latency_ratio_are_flagged() -> None:
    said = time_in_words(2.0, 1.0, timed(2.0, 1.0, (0.4, 0.5, 0.7)))
    assert said.endswith(
        "The ratio varied widely between calls (quartiles 0.40 and 0.70): measure again on an idle machine."
    )
    assert "widely" not in time_in_words(2.0, 1.0, timed(2.0, 1.0, (0.48, 0.5, 0.53)))
    found = curve()
    wide = found.points[1].model_copy(update={"ratio": Ratio(median=0.6, lower=0.4, upper=0.7)})
    said = curve_in_words(found.model_copy(update={"points": (found.points[0], wide)}))[-1]
    assert said == "The time of 0.6 varied widely between calls: measure again on an idle machine."


@pytest.mark.parametrize(
    ("before", "after", "images", "words"),
    [
        (
            98.61,
            97.5,
            360,
            "Top-1 falls by 1.11 points, from 98.61 % to 97.50 %: 4 more of 360 test images are misclassified.",
        ),
        (
            90.0,
            89.99,
            10000,
            "Top-1 falls by 0.01 points, from 90.00 % to 89.99 %: 1 more of 10,000 test images is misclassified.",
        ),
        (90.0, 91.5, 200, "Top-1 rises by 1.50 points, from 90.00 % to 91.50 %, measured on 200 test images."),
        (90.0, 90.0, 1, "Top-1 stays at 90.00 %, measured on 1 test image."),
        (90.0, 88.0, 0, "Top-1 falls by 2.00 points, from 90.00 % to 88.00 %, measured on the test images."),
        (
            math.nan,
            88.0,
            9,
            "Top-1 on the test images is not known for both networks, so its change is not known.",
        ),
    ],
)
def test_what_it_costs(before: float, after: float, images: int, words: str) -> None:
    assert accuracy_in_words(before, after, images) == words


def test_whether_the_cut_is_exact() -> None:
    assert exactness_in_words(failed_verdict().verdict) == (
        "Exactness of the cut cannot be proven, because norm1 (LayerNorm) mixes channels that were cut."
    )
    wrong = CutVerdict(equal=False, error=0.0371, text="wrong at conv1: relative error 3.7e-02 in float64")
    assert exactness_in_words(wrong) == (
        "The cut is not exact (largest relative difference 0.0371): wrong at conv1: relative error 3.7e-02 in float64."
    )
    assert exactness_in_words(None) == "No channels were removed, so there is no cut to check."


@pytest.mark.parametrize("name", REPORTS)
def test_every_verdict_is_whole_sentences_and_ends_with_what_to_do_next(name: str) -> None:
    report = REPORTS[name]()
    words = verdict_in_words(report)
    assert len(words) == 4 + len(report.next_steps)
    assert words[4:] == list(report.next_steps)
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in words[:4])
    assert not any("nan" in sentence.lower().split() for sentence in words)


def test_a_curve_recommends_the_smallest_size_that_loses_little() -> None:
    assert curve_headline(curve()) == "tiny on digits: 3 sizes, 0.80 to 0.40 of the MACs"
    assert curve_in_words(curve()) == [
        "The smallest size that loses at most 1 point of top-1 is 0.6: 0.60 of the MACs, top-1 97.80 % (−0.81 points), "
        "time × 0.77.",
        "The smallest size is 0.4: 0.40 of the MACs, top-1 93.10 % (−5.51 points), time × 0.67.",
        "All 3 cuts are exact.",
    ]


def test_a_curve_of_which_every_size_loses_much_says_so() -> None:
    found = curve().model_copy(update={"points": curve().points[2:]})
    assert curve_headline(found) == "tiny on digits: 1 size, 0.40 of the MACs"
    assert curve_in_words(found) == [
        "Every size loses more than 1 point of top-1; the mildest is 0.4: 0.40 of the MACs, top-1 93.10 % "
        "(−5.51 points), time × 0.67.",
        "The cut is exact.",
    ]


def test_a_curve_without_accuracy_or_with_a_cut_that_is_not_exact_says_so() -> None:
    assert curve_in_words(not_finite_curve())[0] == (
        "Top-1 on the test images is not known, so no size can be recommended."
    )
    points = [curve().points[0].model_copy(update={"verdict": failed_verdict().verdict}), *curve().points[1:]]
    found = curve().model_copy(update={"points": tuple(points)})
    assert curve_in_words(found)[-1] == "Not exact, or not provable: 0.8; each size’s page gives the reason."
