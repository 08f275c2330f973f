"""The KS distance is the one that scipy computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from slimcnn.reporting import ks_distance


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (16, 8), (64, 64), (513, 100), (1, 300)])
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scipy(sizes: tuple[int, int], ties: bool) -> None:
    chance = np.random.default_rng(sum(sizes))
    a, b = (chance.normal(shift, 1, n) for shift, n in zip((0, 0.3), sizes, strict=True))
    if ties:
        a, b = a.round(), b.round()
    assert ks_distance(list(a), list(b)) == pytest.approx(ks_2samp(a, b, method="auto").statistic, abs=1e-12)


def test_small_cases_by_hand() -> None:
    assert ks_distance([1.0, 2.0], [2.0, 1.0]) == 0
    assert ks_distance([0.0], [1.0]) == 1
    assert ks_distance([1.0, 2.0, 3.0], [2.0]) == pytest.approx(1 / 3)


def test_it_is_symmetric_and_between_zero_and_one() -> None:
    chance = np.random.default_rng(0)
    for _ in range(20):
        a, b = list(chance.normal(size=7)), list(chance.normal(size=12))
        assert 0 <= ks_distance(a, b) == ks_distance(b, a) <= 1


def test_infinite_values_have_a_place_and_nan_has_none() -> None:
    assert ks_distance([1.0, math.inf], [1.0, 2.0]) == 0.5
    assert math.isnan(ks_distance([1.0, math.nan], [1.0]))


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0], [])])
def test_an_empty_sample_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="needs two samples"):
        ks_distance(a, b)
