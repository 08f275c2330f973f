"""Costs from a measured curve: the lower convex hull of its running maximum."""

from __future__ import annotations

from slimcnn.pruning.sensitivity_curves import rising


def test_an_error_that_falls_by_chance_makes_no_channel_cheaper() -> None:
    """Measured 0, 5, 3, 8: the curve is taken as 0, 5, 5, 8, whose hull is the straight line from 0 to 8."""
    assert rising({0: 0.0, 1: 5.0, 2: 3.0, 4: 8.0}, 4).tolist() == [2.0, 2.0, 2.0, 2.0]


def test_channels_beyond_the_last_measured_one_cost_ever_more() -> None:
    assert rising({0: 0.0, 2: 4.0}, 4).tolist() == [2.0, 2.0, 2.0, 4.0]
