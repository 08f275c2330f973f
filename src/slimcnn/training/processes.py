"""One process or many: what they must agree on."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from slimcnn.errors import RecipeError, SlimcnnError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def launched(fabric: Fabric | None) -> Fabric:
    """The given Fabric, its processes running; by default one process on the best device, or all those of torchrun."""
    fabric = fabric or _default()
    found = fabric.strategy.precision.precision
    if found != "32-true":
        raise RecipeError(f"the Fabric has precision {found!r}: leave that out and give it as Training(precision=...)")
    if not getattr(fabric, "_launched", False):  # a second launch would start the processes a second time
        fabric.launch()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    # gloo's threads abort the process if they outlive the interpreter; for NCCL Fabric sees to it.
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
    """What the function returns, or the error that it raises, on rank 0; on all ranks."""
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
    """The sum of the values over all ranks, on the CPU."""
    if fabric.world_size == 1:
        return values
    return cast(Tensor, fabric.all_reduce(values.to(fabric.device), reduce_op="sum")).cpu()


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """True on all ranks if it is true on one."""
    return bool(summed(fabric, torch.tensor(float(flag))) > 0)


def share_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0: each has seen other images in the last step."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def best_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU.

    >>> best_device().type in {"cuda", "mps", "cpu"}
    True
    """
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
