"""Communication between the processes of a run: launch, broadcast and reduce."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from slimcnn.errors import RecipeError, RunError, SlimcnnError
from slimcnn.process_ids import is_running, this_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

_ranks: list[str] = []
"""Names of the processes of all ranks (see `this_process`); empty if there is one process."""

PATIENCE = 2.0
"""Seconds to wait for the end of a process whose connection was lost."""


def launched(fabric: Fabric | None) -> Fabric:
    """Launch the given Fabric; by default one process on the best device, or all processes of torchrun."""
    fabric = fabric or _default()
    found = fabric.strategy.precision.precision
    if found != "32-true":
        raise RecipeError(f"the Fabric has precision {found!r}: leave it out and set Training(precision=...) instead")
    if not getattr(fabric, "_launched", False):  # a second launch would start the processes a second time
        fabric.launch()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(_leave)
        if not _ranks:
            names: list[str] = [""] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(names, this_process())
            _ranks.extend(names)
    return fabric


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turn the error of a broken connection into one line that names the rank whose process has died.

    Raises:
        RunError: the process of another rank has died. An error with another cause is raised unchanged.
    """
    try:
        yield
    except RuntimeError as error:  # gloo, NCCL and the store raise several subclasses, with different messages
        lost = _lost_ranks()
        if not lost:
            raise
        named = f"rank {lost[0]} was" if len(lost) == 1 else f"ranks {', '.join(map(str, lost))} were"
        raise RunError(
            f"{named} lost (killed, out of memory, or failed with an error of its own); run the same command to resume"
        ) from error


def _lost_ranks() -> list[int]:
    """Return the ranks on this host whose process has ended; a process needs a moment to end after its connections."""
    end = time.monotonic() + PATIENCE
    while True:
        lost = [rank for rank, name in enumerate(_ranks) if is_running(name) is False]
        if lost or len(_ranks) < 2 or time.monotonic() > end:
            return lost
        time.sleep(0.1)


def _leave() -> None:
    # gloo's threads abort the process if they outlive the interpreter; Fabric closes NCCL's process group itself.
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _default() -> Fabric:
    from lightning_fabric import Fabric

    device = best_device().type
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
        return Fabric(accelerator=device, devices=local, num_nodes=nodes, strategy="ddp")
    return Fabric(accelerator=device, devices=1)


def from_rank_zero(fabric: Fabric, function: Callable[[], T]) -> T:
    """Call the function on rank 0; return its result, or raise its error, on all ranks."""
    result: T | None = None
    failure: SlimcnnError | None = None
    if fabric.is_global_zero:
        try:
            result = function()
        except SlimcnnError as error:
            failure = error
    result, failure = fabric.broadcast((result, failure))
    if failure:
        raise failure
    return cast(T, result)


def summed(fabric: Fabric, values: Tensor) -> Tensor:
    """Sum the values over all ranks; the result is on the CPU."""
    if fabric.world_size == 1:
        return values
    return cast(Tensor, fabric.all_reduce(values.to(fabric.device), reduce_op="sum")).cpu()


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Return True on all ranks if the flag is true on at least one."""
    return bool(summed(fabric, torch.tensor(float(flag))) > 0)


def share_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Copy the buffers of rank 0 to all ranks: they differ, as each rank trained on different images."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def best_device() -> torch.device:
    """Return the first CUDA device, else Apple's MPS, else the CPU.

    >>> best_device().type in {"cuda", "mps", "cpu"}
    True
    """
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
