"""Random scores: the baseline that every criterion must beat."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("random", source="baseline; see Mittal et al. 2018 (arXiv 1801.10447)")
def random(seed: int | None = None) -> Criterion:
    """Score channels by independent uniform random numbers, seeded by `seed` and the group's name.

    >>> random().name
    'random'
    """

    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise CriterionError(f"random: seed={seed} must be a whole number from 0 to {2**32 - 1}")

    def draw(evidence: Evidence) -> Tensor:
        own = zlib.crc32(evidence.group.encode()) ^ (evidence.seed if seed is None else seed)
        return torch.rand(evidence.channels, generator=torch.Generator().manual_seed(own), dtype=torch.float64)

    return Criterion("random" if seed is None else f"random:seed={seed}", draw, needs="nothing", comparable=True)
