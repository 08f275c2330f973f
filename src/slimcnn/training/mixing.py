"""Mix the images of a batch in pairs: mixup and cutmix."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from slimcnn.datasets.augmenting import OnPairs


def mixed_pairs(x: Tensor, y: Tensor, ways: Sequence[OnPairs], key: str) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Mix a batch; return the images, both labels of each, and the share of the first label, at least one half.

    Images 2i and 2i + 1 of a batch are mixed with each other: batches are in random order already, and so the pairs are
    the same for any number of processes if each has an even share of the batch. The last of an odd number stays whole.
    One share, and one of several `ways`, is drawn for the whole batch from the key.

    >>> from slimcnn.datasets.transforms.mixing import mixup
    >>> x, labels, share = mixed_pairs(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([7, 8, 9]), [mixup(1.0)], "seed 0")
    >>> labels[1].tolist(), bool(torch.isclose(x[0] + x[1], torch.tensor(1.0))), round(float(x[2])), share >= 0.5
    ([8, 7, 9], True, 4, True)
    """
    drawn = np.random.default_rng(int.from_bytes(sha256(f"mix/{key}".encode()).digest()[:8], "little"))
    way = ways[int(drawn.integers(len(ways)))]
    share = float(drawn.beta(way.alpha, way.alpha))
    share = max(share, 1 - share)  # the order of a pair is arbitrary
    order = torch.arange(len(x), device=x.device).bitwise_xor(1).clamp(max=len(x) - 1)
    mixed, share = way.mix(x, x[order], share, *drawn.random(2).tolist())
    return mixed, (y, y[order]), share
