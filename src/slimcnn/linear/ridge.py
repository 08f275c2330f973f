"""Ridge regression from running sums, in float64: compute the change of a layer's weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = tuple(10.0**k for k in range(-6, 2))
"""Candidate ridge penalties, as fractions of the mean variance of an input."""


@dataclass
class Sums:
    """Sums over rows x (inputs) and r (residuals of the outputs), for every group of a layer.

    `xx` (groups, f, f), `xr` (groups, f, o), `rr` (groups, o), `x` (groups, f), `r` (groups, o). Memory does not grow
    with the number of rows.
    """

    n: int
    xx: Tensor
    xr: Tensor
    rr: Tensor
    x: Tensor
    r: Tensor

    @classmethod
    def of(cls, x: Tensor, r: Tensor) -> Sums:
        """Compute the sums of rows x (groups, rows, f) and r (groups, rows, o)."""
        x, r = x.double(), r.double()
        return cls(x.shape[1], x.transpose(1, 2) @ x, x.transpose(1, 2) @ r, (r * r).sum(1), x.sum(1), r.sum(1))

    def __add__(self, other: Sums) -> Sums:
        mine, others = vars(self), vars(other)
        return Sums(**{name: mine[name] + others[name] for name in mine})

    def lack(self, change: Tensor | None = None, shift: Tensor | None = None) -> float:
        """Return the sum of squared residuals when outputs change by `x @ change + shift`."""
        total = self.rr.sum()
        if change is not None and shift is not None:
            total = total - 2 * (change * self.xr).sum() + (change * (self.xx @ change)).sum()
            through = (self.x[:, None] @ change)[:, 0]
            total = total + (self.n * shift * shift + 2 * shift * (through - self.r)).sum()
        return float(total.clamp_min(0))


def solve(sums: Sums, penalty: float, shifting: bool) -> tuple[Tensor, Tensor]:
    """Solve ridge regression for the change (groups, f, o) and the shift (groups, o).

    min sum ||r - change^T x - shift||^2 + n * penalty * v * ||change||^2, where v is the mean variance of an input.
    Without `shifting`, the shift is zero.

    >>> x = torch.randn(1, 50, 3, dtype=torch.float64)
    >>> true = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64)
    >>> change, shift = solve(Sums.of(x, x @ true + 4), 1e-9, shifting=True)
    >>> torch.allclose(change, true, atol=1e-6), round(shift.item(), 6)
    (True, 4.0)
    """
    xx, xr = sums.xx, sums.xr
    if shifting:
        xx = xx - sums.x[:, :, None] * sums.x[:, None] / sums.n
        xr = xr - sums.x[:, :, None] * sums.r[:, None] / sums.n
    scale = xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(xx.dtype).tiny)
    ridge = torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device) * (scale * penalty)[:, None, None]
    factor, failed = torch.linalg.cholesky_ex(xx + ridge)
    change = torch.cholesky_solve(xr, factor)
    change[failed > 0] = 0  # not positive definite: the penalty is too small
    shift = (sums.r - (sums.x[:, None] @ change)[:, 0]) / sums.n if shifting else torch.zeros_like(sums.r)
    return change, shift


@dataclass(frozen=True)
class Solution:
    """The change that minimizes the held-out error; None if no change reduces it."""

    change: Tensor | None
    shift: Tensor | None
    penalty: float
    before: float
    """Output MSE (summed over channels) on held-out rows without a change."""
    after: float
    """Output MSE (summed over channels) on held-out rows with the change fitted without them."""


def best(fitted: Sums, held_out: Sums, shifting: bool) -> Solution:
    """Choose the penalty on held-out rows, then fit on all rows; no change unless it reduces the held-out error."""
    nothing = held_out.lack()
    found = {penalty: held_out.lack(*solve(fitted, penalty, shifting)) for penalty in PENALTIES}
    penalty = min(found, key=lambda p: found[p] if found[p] == found[p] else float("inf"))
    rows = max(held_out.n, 1)
    if not found[penalty] < nothing:
        return Solution(None, None, penalty, nothing / rows, nothing / rows)
    change, shift = solve(fitted + held_out, penalty, shifting)
    return Solution(change, shift, penalty, nothing / rows, found[penalty] / rows)
