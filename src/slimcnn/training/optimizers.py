"""The optimizer, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slimcnn.errors import ModelError, RecipeError
from slimcnn.training.settings import Training

SHARE = "share"
"""Key of an optimizer's group: its share of the learning rate."""

Tensors = tuple[Tensor, ...] | list[Tensor]


def optimizer_for(model: nn.Module, training: Training, shares: Mapping[int, float] | None = None) -> Optimizer:
    """Build the optimizer over the trainable parameters; weight decay applies to tensors with two or more axes only.

    `shares` holds each parameter's share of the learning rate (see `rate_shares`); default: 1 for all.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer_for(model, Training()).param_groups]
    [(0.0005, 1), (0.0, 3)]
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("no parameter of the network requires a gradient: set requires_grad on those to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if shares is not None:
        # The full rate first: objectives read the learning rate of the first group.
        groups = [
            group | {"params": [p for p in group["params"] if shares[id(p)] == share], SHARE: share}
            for share in sorted(set(shares.values()), reverse=True)
            for group in groups
        ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "adamw":
        return AdamW(groups, lr=training.learning_rate)
    if training.optimizer == "lamb":
        return _lamb_class()(groups, lr=training.learning_rate)
    if training.optimizer == "rmsprop":  # smoothing and epsilon of torchvision's recipes
        return RMSprop(groups, lr=training.learning_rate, alpha=0.9, eps=0.0316, momentum=training.momentum)
    return SGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=training.momentum > 0)


def refuse_missing_optimizer(training: Training) -> None:
    """Raise `RecipeError` if the package of an optimizer is missing."""
    if training.optimizer == "lamb":
        _lamb_class()


def _lamb_class() -> Callable[..., Optimizer]:
    """Return LAMB (You et al. 2019, arXiv 1904.00962) of timm."""
    try:
        from timm.optim.lamb import Lamb
    except ImportError as error:
        raise RecipeError("the optimizer lamb needs the package timm: pip install 'slimcnn[timm]'") from error
    found: Callable[..., Optimizer] = Lamb
    return found


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an averaged copy of the network: average ← decay · average + (1 - decay) · weight, buffers included.

    The first update copies. Integer buffers (counters, index tables) are copied every time: truncating their average
    to an integer would make it one too low.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            average(averages, values, count)
        else:
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


@torch.no_grad()
def swap(model: nn.Module, average: AveragedModel) -> None:
    """Swap the values of the network and of its moving average, in place."""
    for current, averaged in zip(_tensors(model), _tensors(average.module), strict=True):
        kept = current.clone()
        current.copy_(averaged)
        averaged.copy_(kept)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
