"""Statistics of a study, against cases worked by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slimcnn.studying.comparing import against_baseline, cell_of, difference_of, front_of, grouped
from slimcnn.studying.publishing import card, headline, sections
from slimcnn.studying.rows import StudyRow, StudyRows


def rows(values: dict[tuple[str, float], list[float]]) -> tuple[StudyRow, ...]:
    """One row per seed: (criterion, MACs) → accuracies."""
    return tuple(
        StudyRow({"criterion": criterion, "macs": macs}, seed, {"accuracy": value, "macs_left": macs})
        for (criterion, macs), accuracies in values.items()
        for seed, value in enumerate(accuracies)
    )


TWO = rows({("l2", 0.5): [90.0, 91.0, 92.0], ("fpdf", 0.5): [89.0, 90.1, 90.9], ("l2", 0.3): [80.0, 82.0, 81.0],
            ("fpdf", 0.3): [80.5, 81.0, 81.9]})  # fmt: skip


def study_of(found: tuple[StudyRow, ...], baseline: dict[str, str] | None = None) -> StudyRows:
    return StudyRows("criteria", "slimcnn study c.toml", "x = 1", ("accuracy", "macs_left"), baseline or {}, found)


def test_mean_and_standard_deviation_are_those_of_the_seeds() -> None:
    cell = cell_of([90.0, 91.0, 92.0])
    assert (cell.mean, cell.sd, cell.n) == (91.0, 1.0, 3)


def test_differences_are_paired_by_seed() -> None:
    found = difference_of({0: 1.0, 1: 5.0, 7: 9.0}, {1: 4.0, 0: 2.0, 3: 0.0})
    assert found is not None
    assert (found.mean, found.n) == (0.0, 2)


def test_a_difference_that_every_seed_shows_is_told_apart_and_a_noisy_one_is_not() -> None:
    base = dict.fromkeys(range(5), 90.0)
    clear = difference_of({seed: 91.0 + 0.1 * seed for seed in range(5)}, base)
    noisy = difference_of({seed: 90.0 + (-1) ** seed for seed in range(5)}, base)
    assert clear is not None
    assert noisy is not None
    assert (clear.clear, noisy.clear) == (True, False)
    assert clear.low is not None
    assert clear.high is not None
    assert 91.0 - 90 <= clear.low < clear.mean < clear.high <= 91.4 - 90


def test_the_bootstrap_alone_does_not_tell_three_seeds_apart() -> None:
    # All three differences are positive, so that the bootstrap never reaches 0; the t-test knows that three are few.
    found = difference_of({0: 90.1, 1: 92.0, 2: 90.2}, {0: 90.0, 1: 90.0, 2: 90.0})
    assert found is not None
    assert found.low is not None
    assert found.low > 0
    assert stats.ttest_1samp([0.1, 2.0, 0.2], 0.0).pvalue > 0.05
    assert not found.clear
    assert found.verdict == "not at n = 3"


def test_the_rate_of_false_claims_is_below_one_in_ten_with_three_seeds() -> None:
    drawn = np.random.default_rng(0).normal(size=(200, 2, 3))
    claims = 0
    for own, base in drawn:
        found = difference_of(dict(enumerate(own)), dict(enumerate(base)))
        assert found is not None
        claims += found.clear
    assert claims < 20


def test_every_point_is_compared_with_the_baseline_at_its_own_other_values() -> None:
    found = against_baseline(TWO, {"criterion": "l2"}, lambda row: row.values["accuracy"])
    by_macs = {group[0].point["macs"]: found[key] for key, group in grouped(TWO).items() if key in found}
    assert by_macs[0.5].mean == pytest.approx(-1.0)
    assert by_macs[0.3].mean == pytest.approx(0.4 / 3)


def test_the_front_has_no_point_that_another_beats() -> None:
    drawn = np.random.default_rng(0).uniform(size=(50, 2))
    points = [(float(cost), float(top1)) for cost, top1 in drawn]
    front = front_of(points)
    for index, (cost, top1) in enumerate(points):
        beaten = any(c <= cost and t >= top1 and (c, t) != (cost, top1) for c, t in points)
        assert beaten != (index in front)


def test_failed_runs_are_shown_with_their_reason_and_do_not_count() -> None:
    failed = StudyRow({"criterion": "fpdf", "macs": 0.5}, 3, {}, "failed", "no channels left")
    study = study_of((*TWO, failed), {"criterion": "l2"})
    assert headline(study) == "4 points, 12 runs, 1 failed"
    assert "no channels left" in card(study)


def test_the_card_holds_every_mean_the_differences_and_the_command() -> None:
    text = card(study_of(TWO, {"criterion": "l2"})).replace("\N{NO-BREAK SPACE}", " ")
    assert "| fpdf | 0.5 | 3 | 90.00 ± 0.95 | −1.00 (" in text
    assert "| l2 | 91.00 ± 1.00 | 81.00 ± 1.00 |" in text
    assert "slimcnn study c.toml" in text
    assert text == card(study_of(TWO, {"criterion": "l2"})).replace("\N{NO-BREAK SPACE}", " ")


def test_a_study_without_a_finished_run_has_a_page() -> None:
    assert sections(study_of(()))[0].title == "Results"
