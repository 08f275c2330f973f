from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn.datasets.splitting import split
from slimcnn.errors import DataError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**40)
)
def test_every_image_is_on_one_side_and_every_class_gives_its_share(sizes: list[int], share: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = max(1, int(share * len(labels)))
    kept, held_out = split(labels, count, f"validation/{seed}", leave=0)
    assert len(held_out) == count
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    given_up = torch.bincount(labels[held_out], minlength=len(sizes)).tolist()
    for size, quota in zip(sizes, given_up, strict=True):
        assert abs(quota - count * size / len(labels)) < 1


def test_shares_are_rounded_by_largest_remainder() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # 3 of 10: shares 1.5, 0.9, 0.6
    assert torch.bincount(labels[split(labels, 3, "key")[1]]).tolist() == [1, 1, 1]
    assert torch.bincount(labels[split(labels, 4, "key")[1]]).tolist() == [2, 1, 1]


def test_a_split_is_the_same_today_and_in_ten_years() -> None:
    labels = torch.arange(12) % 3
    assert split(labels, 3, "validation/0")[1].tolist() == [0, 4, 5]
    assert split(labels, 3, "validation/1")[1].tolist() == [4, 6, 11]


def test_a_split_does_not_depend_on_other_random_numbers() -> None:
    labels = torch.arange(100) % 10
    first = split(labels, 20, "validation/7")[1]
    torch.rand(1000)
    assert torch.equal(first, split(labels, 20, "validation/7")[1])


def test_images_that_join_do_not_move_the_others() -> None:
    names = [f"{label}/{number}.png" for label in "ab" for number in range(50)]
    labels = torch.tensor([0] * 50 + [1] * 50)
    before = {names[position] for position in split(labels, 20, "test", names=names)[1].tolist()}
    names.insert(0, "a/new.png")
    after = {
        names[position] for position in split(torch.cat([labels[:1], labels]), 20, "test", names=names)[1].tolist()
    }
    assert len(before) == 20
    assert len(before & after) >= 19


def test_the_last_image_of_a_class_stays() -> None:
    labels = torch.tensor([0] * 9 + [1])
    for seed in range(20):
        kept, held_out = split(labels, 8, f"test/{seed}")
        assert labels[kept].unique().tolist() == [0, 1]
        assert len(held_out) == 8


@pytest.mark.parametrize("count", [0, -1, 9, 11])
def test_what_cannot_be_held_out_is_said(count: int) -> None:
    with pytest.raises(DataError, match=f"cannot hold out {count} of 10 images in 2 classes and keep 1 per class"):
        split(torch.tensor([0] * 5 + [1] * 5), count, "test")
