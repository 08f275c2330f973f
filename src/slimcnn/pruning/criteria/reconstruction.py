"""Reconstruction: a channel matters by how badly the others replace it in what the next layers make."""

from __future__ import annotations

import torch
from torch import Tensor

from slimcnn.pruning.input_statistics import Reading
from slimcnn.pruning.scores import Criterion, criteria

RIDGE = 1e-4
"""Added to the moments, as a share of their mean: images are few, and a channel that never varies divides by zero."""


@criteria.add(
    "reconstruction",
    source="Frantar & Alistarh 2022, Optimal brain compression (arXiv 2208.11580), for whole channels",
)
def reconstruction() -> Criterion:
    r"""Score channel c by the error that its removal adds when the next layers are re-solved without it.

    With X the inputs of a layer that reads the channels, M = E[(X - EX)(X - EX)^T], W its weights and H = M^-1,
    removing the inputs J of channel c and re-solving the rest by least squares costs

        e_c = tr(W_J (H_JJ)^-1 W_J^T),   then  W <- W - W_J (H_JJ)^-1 H_J.,   H <- H - H_.J (H_JJ)^-1 H_J.

    as a share of tr(W M W^T); several layers that read the group add up. Channels go one by one, the cheapest first,
    each when those before it are gone and made up for; the score is the cost at that moment (never less than that of
    one that went before). So redundant channels go together with what makes them redundant staying. Scores are
    comparable between layers. Needs `data` (labels are not looked at).

    >>> from slimcnn.pruning.input_statistics import Reading
    >>> from slimcnn.pruning.scores import Evidence
    >>> x = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> x[:, 2] = x[:, 0] + x[:, 1]  # all that is read is x0 + x1 + x2 = 2 x2
    >>> weight = torch.ones(4, 3, dtype=torch.float64)
    >>> one = Reading("next.weight", 0, x.T.cov(), x.mean(0), weight, torch.arange(3), torch.arange(3)[:, None])
    >>> [cost < 0.01 for cost in sorted(reconstruction().score(Evidence("conv", readings=(one,), channels=3)).tolist())]
    [True, True, False]
    """
    return Criterion(
        "reconstruction", lambda e: removal_costs(e.readings, e.channels), needs="readings", comparable=True
    )


def removal_costs(readings: tuple[Reading, ...], channels: int) -> Tensor:
    """Remove channel after channel, the cheapest first; give each one's cost, (channels,), rising as they go."""
    ways = [_Way(reading, channels) for reading in readings]
    costs, left = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.bool)
    highest = 0.0
    for step in range(channels):
        now = torch.stack([way.costs() for way in ways]).sum(0)
        chosen = int(now.masked_fill(~left, torch.inf).argmin())
        highest = max(highest, float(now[chosen]))
        # In the order in which they went, even where many cost nothing.
        costs[chosen] = highest * (1 + 1e-9 * step) + 1e-18 * step
        left[chosen] = False
        for way in ways:
            way.remove(chosen)
    return costs


class _Way:
    """One layer that reads the channels, while they go."""

    def __init__(self, reading: Reading, channels: int) -> None:
        moments = reading.moments
        scale = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
        ridge = RIDGE * scale * torch.eye(len(moments), dtype=moments.dtype)
        self._inverse = torch.linalg.inv(moments + ridge)
        self._weight = reading.weight.clone()
        energy = (reading.weight @ moments * reading.weight).sum()
        self._share = 1 / energy.clamp_min(torch.finfo(moments.dtype).tiny)
        self._place = {int(channel): row for row, channel in enumerate(reading.channels)}
        self._channels, self._columns, self._all = reading.channels, reading.columns, channels
        self._gone = torch.zeros(len(reading.columns), dtype=torch.bool)

    def costs(self) -> Tensor:
        """What the removal of each channel would cost now; zero for those that this layer does not read."""
        columns = self._columns
        blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
        blocks = torch.where(self._gone[:, None, None], torch.eye(columns.shape[1], dtype=blocks.dtype), blocks)
        read = self._weight[:, columns].permute(1, 2, 0)  # (channels, k, outputs)
        found = (read * torch.linalg.solve(blocks, read)).sum((1, 2)) * self._share
        return torch.zeros(self._all, dtype=found.dtype).index_copy(0, self._channels, found)

    def remove(self, channel: int) -> None:
        """Take a channel away and make up for it with the others."""
        row = self._place.get(channel)
        if row is None:
            return
        j = self._columns[row]
        through = torch.linalg.solve(self._inverse[j][:, j], self._inverse[j])  # (k, f)
        self._weight -= self._weight[:, j] @ through
        self._inverse -= self._inverse[:, j] @ through
        self._weight[:, j] = 0
        self._inverse[j] = 0
        self._inverse[:, j] = 0
        self._gone[row] = True
