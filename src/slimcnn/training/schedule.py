"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from slimcnn.training.settings import Training


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`.

    With η the peak, w the steps of warm-up and t = (step - w) / (steps - w):

    - warm-up (step < w): η (step + 1) / w
    - cosine: η (1 + cos πt) / 2 (Loshchilov & Hutter 2017)
    - step: η · factor^k, where k is the number of milestones at or before step / steps
    - one_cycle: cosine from η / 25 up to η over the first 30 %, then down to η / 250,000 (Smith & Topin 2018)

    >>> [round(learning_rate(Training(learning_rate=1.0), step, 4), 2) for step in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    >>> [round(learning_rate(Training(learning_rate=1.0, schedule="step"), step, 4), 2) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    peak = training.learning_rate
    if training.schedule == "one_cycle":
        return _one_cycle(peak, step, steps)
    warm = round(steps * training.warmup_epochs / training.epochs)
    if step < warm:
        return peak * (step + 1) / warm
    if training.schedule == "cosine":
        return _cosine(peak, 0.0, (step - warm) / (steps - warm))
    return peak * math.prod(training.factor for milestone in training.milestones if step >= round(milestone * steps))


def _cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


def _one_cycle(peak: float, step: int, steps: int) -> float:
    # Same turning point and ends as torch.optim.lr_scheduler.OneCycleLR, so that published recipes apply.
    start, end, turn, last = peak / 25, peak / 25 / 1e4, 0.3 * steps - 1, steps - 1
    if step <= turn:
        return _cosine(start, peak, step / turn)
    return _cosine(peak, end, (step - turn) / (last - turn))
