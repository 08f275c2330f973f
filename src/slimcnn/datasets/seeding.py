"""Seed all random numbers that code of the user may draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed the generators of PyTorch (on the CPU), NumPy and Python within the block, and restore them afterwards.

    >>> with seeded("7/1/batch 3"): first = torch.rand(1)
    >>> with seeded("7/1/batch 3"): bool(torch.rand(1) == first)
    True
    """
    seed = int.from_bytes(sha256(key.encode()).digest()[:4], "little")
    plain, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(array)
