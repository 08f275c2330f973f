"""Locks and limits of the partition, on cases small enough to do by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from traced import image

from at_hand import Net
from slimcnn.graph import trace
from slimcnn.graph.locks import Locks
from slimcnn.graph.trace_record import LockRecord, Site


def test_a_reason_that_names_a_place_replaces_one_that_does_not_and_no_other() -> None:
    none = torch.empty(0, dtype=torch.int64)
    somewhere, here = (
        LockRecord(none, "output", None),
        LockRecord(none, "softmax", Site("softmax", "head", "net.py", 7)),
    )
    there = LockRecord(none, "sort", Site("sort", "head", "net.py", 9))
    locks = Locks.none(3).add([(somewhere, np.array([0, 1])), (here, np.array([1])), (there, np.array([1, 2]))])
    assert [locks.of(component) for component in range(3)] == [somewhere, here, there]


def test_channels_that_a_squeeze_would_drop_keep_two() -> None:
    net = Net(lambda n, x: n.b(n.a(x).mean((2, 3)).squeeze()), a=nn.Conv2d(3, 8, 1), b=nn.Linear(8, 5))
    assert trace(net, image())["a"].least == 2
