"""A target says what it means, and refuses what makes no sense."""

from typing import Any

import pytest

from slimcnn.errors import TargetError
from slimcnn.pruning import Target


@pytest.mark.parametrize("wrong", [
    {}, {"macs": 0}, {"macs": -0.5}, {"macs": 1.01}, {"macs": float("nan")}, {"macs": float("inf")}, {"macs": "half"},
    {"macs": True}, {"bytes": 0}, {"bytes": 0.5}, {"bytes": "500kB"}, {"memory": -1}, {"memory": True},
    {"memory": 1000, "pruning_ratio": 0.5}, {"params": 0}, {"params": 2}, {"pruning_ratio": -0.1},
    {"pruning_ratio": 1}, {"pruning_ratio": 1.5},
    {"pruning_ratio": "0.5"},
    {"pruning_ratio": float("nan")}, {"pruning_ratio": 0.5, "macs": 0.5},
    {"pruning_ratio": 0.5, "params": 0.5}, {"per_layer": {"a": 1.0}},
    {"per_layer": {"a": -1}}, {"per_layer": {"a": "much"}}, {"per_layer": [("a", 0.5)]}, {"macs": 0.5, "scope": "all"},
    {"macs": 0.5, "residual": "yes"}, {"macs": 0.5, "min_channels": -1},
    {"pruning_ratio": 1, "min_channels": 1}, {"macs": 0.5, "min_channels": 1.5},
    {"macs": 0.5, "min_channels": True}, {"macs": 0.5, "round_to": 0}, {"macs": 0.5, "round_to": -8},
    {"macs": 0.5, "round_to": 8.0}, {"macs": 0.5, "round_to": "8"},
])  # fmt: skip
def test_a_target_that_makes_no_sense_is_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(TargetError) as caught:
        Target(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"macs": 1.5}, "macs=1.5: the share of the original to keep must be above 0 and at most 1"),
    ({"pruning_ratio": 1.0}, "pruning_ratio=1.0: the share of channels to remove must be at least 0 and below 1"),
    ({"per_layer": {"stem": 2}}, "per_layer['stem']=2: the share of channels to remove must be at least 0 and below 1"),
    ({"memory": 0.5}, "memory=0.5: give a whole number of bytes, 1 or more"),
    ({"pruning_ratio": 0.1, "round_to": 0}, "round_to=0: must be a whole number, 1 or more"),
])  # fmt: skip
def test_the_refusal_says_what_was_given_and_what_is_allowed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target(**wrong)
    assert str(caught.value) == said


@pytest.mark.parametrize("right", [
    {"macs": 1}, {"macs": 1e-6}, {"params": 1.0}, {"pruning_ratio": 0}, {"pruning_ratio": 0.999},
    {"macs": 0.5, "params": 0.5},
    {"bytes": 1}, {"memory": 10**12}, {"memory": 1000, "bytes": 1000, "macs": 0.5},
    {"per_layer": {"a": 0}}, {"per_layer": {"a": 0.3}, "macs": 0.5},
])  # fmt: skip
def test_the_ends_of_every_range_are_as_documented(right: dict[str, Any]) -> None:
    assert Target(**right).describe()


def test_one_protected_pattern_may_be_given_as_a_word() -> None:
    assert Target(macs=0.5, protect="layer1.*").protect == ("layer1.*",)  # type: ignore[arg-type]
    assert Target(macs=0.5, protect=["a", "b"]).protect == ("a", "b")  # type: ignore[arg-type]


def test_a_target_describes_everything_that_differs_from_the_default() -> None:
    target = Target(
        macs=0.5, params=0.6, scope="global", min_channels=4, round_to=8, residual="inner", protect=("stem",)
    )
    assert target.describe() == (
        "macs <= 0.5, params <= 0.6, global, residual = inner, min_channels = 4, round_to = 8, protected: stem"
    )
    assert Target(bytes=500_000, memory=8_000_000).describe() == "bytes <= 500 kB, memory <= 8 MB, local"
    assert Target(per_layer={"a": 0.25}).describe() == "a: pruning_ratio = 0.25, local"
