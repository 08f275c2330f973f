"""Reconstruction: the error of the next layers' outputs when the other channels replace a channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.pruning.input_statistics import Reading
from slimcnn.pruning.scores import Criterion, criteria

RIDGE = 1e-4
"""Added to the moments, as a share of their mean: images are few, and a constant channel would divide by zero."""


@criteria.add(
    "reconstruction",
    source="Frantar & Alistarh 2022, Optimal brain compression (arXiv 2208.11580), for whole channels",
)
def reconstruction() -> Criterion:
    r"""Score channel c by the output error after its removal when the next layers are refitted without it.

    With X the inputs of a layer that reads the channels, M = E[(X - EX)(X - EX)^T], W its weights and H = M^-1,
    removing the inputs J of channel c and refitting the rest by least squares costs

        e_c = tr(W_J (H_JJ)^-1 W_J^T),   then  W <- W - W_J (H_JJ)^-1 H_J.,   H <- H - H_.J (H_JJ)^-1 H_J.

    as a share of tr(W M W^T), summed over the layers that read the group. Channels are removed one by one, the
    cheapest first, and the layers are refitted after each. The score is the cost at that step, never less than the
    score of an earlier channel. So of mutually redundant channels, not all score low. Scores are comparable between
    layers. Needs `data` (labels are not used).

    >>> from slimcnn.pruning.input_statistics import Reading
    >>> from slimcnn.pruning.scores import Evidence
    >>> x = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> x[:, 2] = x[:, 0] + x[:, 1]  # the layer reads only x0 + x1 + x2 = 2 x2
    >>> weight = torch.ones(4, 3, dtype=torch.float64)
    >>> one = Reading("next.weight", 0, x.T.cov(), x.mean(0), weight, torch.arange(3), torch.arange(3)[:, None])
    >>> [cost < 0.01 for cost in sorted(reconstruction().score(Evidence("conv", readings=(one,), channels=3)).tolist())]
    [True, True, False]
    """
    return Criterion(
        "reconstruction", lambda e: removal_costs(e.readings, e.channels), needs="readings", comparable=True
    )


def removal_costs(readings: tuple[Reading, ...], channels: int) -> Tensor:
    """Remove the channels one by one, the cheapest first, and return their costs, (channels,), rising in that order."""
    cost_of, remove = refitted_costs(readings, channels)
    costs, left = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.bool)
    highest = 0.0
    for step in range(channels):
        now = cost_of()
        chosen = int(now.masked_fill(~left, torch.inf).argmin())
        highest = max(highest, float(now[chosen]))
        # Strictly rising in removal order, even where many channels cost nothing.
        costs[chosen] = highest * (1 + 1e-9 * step) + 1e-18 * step
        left[chosen] = False
        remove(chosen)
    return costs


def refitted_costs(readings: tuple[Reading, ...], channels: int) -> tuple[Callable[[], Tensor], Callable[[int], None]]:
    """Return the costs of removing each channel now, and the function that removes one and refits the readers."""
    readers = [RefittedReader(reading, channels) for reading in readings]

    def costs() -> Tensor:
        return torch.stack([reader.costs() for reader in readers]).sum(0)

    def remove(channel: int) -> None:
        for reader in readers:
            reader.remove(channel)

    return costs, remove


class RefittedReader:
    """One layer that reads the channels, refitted after each removal."""

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
        """Compute the cost of removing each channel now; zero for channels that this layer does not read."""
        columns = self._columns
        blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
        blocks = torch.where(self._gone[:, None, None], torch.eye(columns.shape[1], dtype=blocks.dtype), blocks)
        read = self._weight[:, columns].permute(1, 2, 0)  # (channels, k, outputs)
        found = (read * torch.linalg.solve(blocks, read)).sum((1, 2)) * self._share
        return torch.zeros(self._all, dtype=found.dtype).index_copy(0, self._channels, found)

    def remove(self, channel: int) -> None:
        """Remove a channel and refit the weights of the others."""
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
