"""Ridge regression from sums, against formulas that share no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from slimcnn.linear.ridge import PENALTIES, Sums, best, solve


def rows(groups: int = 2, n: int = 40, features: int = 5, outputs: int = 3) -> tuple[Tensor, Tensor]:
    """Inputs that depend on each other and do not average to zero, and what is nearly linear in them."""
    mixed = torch.randn(groups, features, features).double()
    x = torch.randn(groups, n, features).double() @ mixed + 3
    true = torch.randn(groups, features, outputs).double()
    return x, x @ true - 7 + torch.randn(groups, n, outputs).double()


def left_of(x: Tensor, r: Tensor, change: Tensor, shift: Tensor) -> float:
    return sum(float((r[g] - x[g] @ change[g] - shift[g]).square().sum()) for g in range(len(x)))


@pytest.mark.parametrize("shifting", [True, False])
def test_with_almost_no_penalty_it_is_numpys_least_squares(shifting):
    x, r = rows()
    change, shift = solve(Sums.of(x, r), 1e-12, shifting)
    for g in range(2):
        design = np.hstack([x[g].numpy(), np.ones((40, 1))]) if shifting else x[g].numpy()
        expected = np.linalg.lstsq(design, r[g].numpy(), rcond=None)[0]
        np.testing.assert_allclose(change[g].numpy(), expected[:5], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(shift[g].numpy(), expected[5] if shifting else 0, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shifting", [True, False])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_with_a_penalty_it_is_scikit_learns_ridge(shifting, penalty):
    x, r = rows()
    change, shift = solve(Sums.of(x, r), penalty, shifting)
    for g in range(2):
        size = x[g].var(0, correction=0).mean() if shifting else x[g].square().mean()
        oracle = Ridge(alpha=float(40 * penalty * size), fit_intercept=shifting, solver="svd")
        oracle.fit(x[g].numpy(), r[g].numpy())
        np.testing.assert_allclose(change[g].numpy(), oracle.coef_.T, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(shift[g].numpy(), oracle.intercept_, rtol=1e-7, atol=1e-9)


def test_by_hand():
    """x = 1, 2, 3 and r = 2, 4, 6 without shift: change = 28 / (14 + penalty * 14)."""
    sums = Sums.of(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[2.0], [4.0], [6.0]]]))
    assert (sums.n, sums.xx.item(), sums.xr.item(), sums.rr.item(), sums.x.item(), sums.r.item()) == (
        3, 14, 28, 56, 6, 12
    )  # fmt: skip
    change, shift = solve(sums, 1.0, shifting=False)
    assert (change.item(), shift.item()) == (pytest.approx(1), 0)
    assert sums.lack(change, shift) == pytest.approx(14)


@pytest.mark.parametrize("shifting", [True, False])
def test_lack_is_the_sum_of_squares_that_is_left(shifting):
    x, r = rows()
    sums = Sums.of(x, r)
    assert sums.lack() == pytest.approx(float(r.square().sum()), rel=1e-12)
    change, shift = torch.randn(2, 5, 3).double(), torch.randn(2, 3).double() * shifting
    assert sums.lack(change, shift) == pytest.approx(left_of(x, r, change, shift), rel=1e-9)


def test_lack_is_never_negative():
    x = rows()[0]
    true = torch.randn(2, 5, 3).double()
    sums = Sums.of(x, x @ true)
    assert 0 <= sums.lack(true, torch.zeros(2, 3).double()) < 1e-6


@pytest.mark.parametrize("cuts", [[40], [1] * 40, [13, 0, 27]])
def test_sums_of_parts_are_the_sums_of_all(cuts):
    x, r = rows()
    parts = [Sums.of(a, b) for a, b in zip(x.split(cuts, 1), r.split(cuts, 1), strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    for name, expected in vars(Sums.of(x, r)).items():
        torch.testing.assert_close(getattr(total, name), expected, rtol=1e-12, atol=1e-9)


def test_adding_changes_neither_summand():
    x, r = rows()
    one, other = Sums.of(x, r), Sums.of(x + 1, r)
    before = one.xx.clone()
    _ = one + other
    assert torch.equal(one.xx, before)
    assert one.n == 40


def test_no_change_leaves_less():
    """The solution is where the penalized sum of squares has its minimum: any step from it makes that larger."""
    x, r = rows()
    sums, penalty = Sums.of(x, r), 0.3
    change, shift = solve(sums, penalty, shifting=True)
    weights = 40 * penalty * torch.stack([x[g].var(0, correction=0).mean() for g in range(2)])

    def cost(change: Tensor, shift: Tensor) -> float:
        return left_of(x, r, change, shift) + float((weights * change.square().sum((1, 2))).sum())

    least = cost(change, shift)
    for _ in range(20):
        assert cost(change + 1e-3 * torch.randn_like(change), shift + 1e-3 * torch.randn_like(shift)) > least


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_the_scale_of_inputs_and_outputs_makes_no_difference(factor):
    x, r = (t.float() for t in rows())
    change, shift = solve(Sums.of(x, r), 1e-3, shifting=True)
    found, moved = solve(Sums.of(x * factor, r * factor), 1e-3, shifting=True)
    torch.testing.assert_close(found, change, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved / factor, shift, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shifting", [True, False])
def test_groups_do_not_see_each_other(shifting):
    x, r = rows(groups=3)
    together = solve(Sums.of(x, r), 0.1, shifting)
    for g in range(3):
        alone = solve(Sums.of(x[g : g + 1], r[g : g + 1]), 0.1, shifting)
        torch.testing.assert_close(together[0][g], alone[0][0])
        torch.testing.assert_close(together[1][g], alone[1][0])


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("shifting", [True, False])
def test_constant_inputs_give_numbers(constant, shifting):
    x, r = torch.full((1, 32, 4), constant), torch.randn(1, 32, 2)
    for penalty in PENALTIES:
        change, shift = solve(Sums.of(x, r), penalty, shifting)
        assert torch.isfinite(change).all()
        assert torch.isfinite(shift).all()
    if shifting:
        through = (x[0, 0].double() @ change[0]) + shift[0]
        torch.testing.assert_close(through, r.double().mean(1)[0])


def test_an_input_twice_is_read_half_each():
    x, _ = rows(groups=1, features=1)
    change, shift = solve(Sums.of(torch.cat([x, x], 2), 3 * x), 1e-6, shifting=True)
    assert change.flatten().tolist() == pytest.approx([1.5, 1.5], abs=1e-4)
    assert shift.item() == pytest.approx(0, abs=1e-3)


def test_fewer_rows_than_inputs_do_not_break_it():
    x, r = rows(n=3, features=20)
    found = best(Sums.of(x, r), Sums.of(*rows(n=3, features=20)), shifting=True)
    assert found.change is None or torch.isfinite(found.change).all()


# --- the judge ----------------------------------------------------------------------------------------------------


def test_the_penalty_is_that_which_held_out_rows_like_best():
    x, r = rows(n=12, features=10)
    true = torch.randn(2, 10, 3).double()
    r = x @ true + 5 * torch.randn_like(r)
    more = rows(n=500, features=10)[0]
    fitted, held_out = Sums.of(x, r), Sums.of(more, more @ true + 5 * torch.randn(2, 500, 3).double())
    found = best(fitted, held_out, shifting=True)
    lacks = {penalty: held_out.lack(*solve(fitted, penalty, shifting=True)) for penalty in PENALTIES}
    assert found.penalty == min(lacks, key=lacks.get)
    assert found.penalty not in (PENALTIES[0], PENALTIES[-1])
    assert found.after == lacks[found.penalty] / 500
    assert found.before == held_out.lack() / 500
    assert found.after < found.before


def test_the_solution_is_fitted_on_all_rows():
    x, r = rows(n=60)
    found = best(Sums.of(x[:, :45], r[:, :45]), Sums.of(x[:, 45:], r[:, 45:]), shifting=True)
    change, shift = solve(Sums.of(x, r), found.penalty, shifting=True)
    torch.testing.assert_close(found.change, change)
    torch.testing.assert_close(found.shift, shift)


def test_what_held_out_rows_contradict_is_not_taken():
    x, r = rows()
    found = best(Sums.of(x, r), Sums.of(x, -r), shifting=True)
    assert (found.change, found.shift) == (None, None)
    assert found.before == found.after


def test_nothing_lacking_is_nothing_to_do():
    x, r = rows()
    found = best(Sums.of(x, 0 * r), Sums.of(x, 0 * r), shifting=True)
    assert (found.change, found.before, found.after) == (None, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["fitted", "held out"])
def test_numbers_that_are_not_finite_change_nothing(bad, where):
    x, r = rows()
    broken = r.clone()
    broken[0, 0, 0] = bad
    good, damaged = Sums.of(x, r), Sums.of(x, broken)
    pair = (damaged, good) if where == "fitted" else (good, damaged)
    assert best(*pair, shifting=True).change is None
