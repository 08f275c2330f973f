"""Defaults for networks with depthwise convolutions: the criterion, and multiples of channels that are fast."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from slimcnn.pruning import Plan, Target

FAST = (4, 2)
"""Multiples that are tried in turn. Runtimes compute depthwise convolutions for 4 to 16 channels at once: in ONNX
Runtime, half of a MobileNetV2 takes 1.17 of the time of the whole with any numbers, 0.71 with multiples of 4, 0.66 with
multiples of 8 (benchmarks/rounding.md). On EfficientNet-lite0 neither costs accuracy that can be told apart
(benchmarks/lite0_without_training.md), but narrow networks have few multiples of 8."""


def has_depthwise(model: nn.Module) -> bool:
    """Return whether a convolution of the network has filters that each read one channel."""
    return any(isinstance(one, _ConvNd) and one.groups == one.in_channels > 1 for one in model.modules())


def criterion_for(model: nn.Module) -> str:
    """Return the default criterion.

    With `reconstruction`, EfficientNet-lite0 at 0.75 of its MACs, refitted by least squares, agrees with the original
    on 74 % of photographs, with `l2` on 68 % (multiples of 4, n = 1, benchmarks/lite0_without_training.md); on
    ResNet-56 the two are equal (benchmarks/without_training.md), and on ResNet-20 with the stream kept they cannot be
    told apart (n = 3, benchmarks/criteria_untrained/study.md).

    >>> import slimcnn
    >>> criterion_for(slimcnn.build("mobilenet_v2")), criterion_for(slimcnn.build("resnet20"))
    ('reconstruction', 'l2')
    """
    return "reconstruction" if has_depthwise(model) else "l2"


def choices_for(model: nn.Module, target: Target) -> list[Target]:
    """Return the target with each multiple that is fast, in the order to try; none if no convolution is depthwise.

    The residual stream is cut only where no multiple reaches the target without it.

    >>> import slimcnn
    >>> [one.round_to for one in choices_for(slimcnn.build("mobilenet_v2"), Target(macs=0.5, residual="inner"))]
    [4, 2]
    >>> choices_for(slimcnn.build("resnet20"), Target(macs=0.5))
    []
    """
    if not has_depthwise(model):
        return []
    streams = [replace(target, residual="inner"), target] if target.residual == "auto" else [target]
    tried = [replace(stream, round_to=multiple) for stream in streams for multiple in (*FAST, 1)]
    return tried[:-1]  # the last is the target as it is


def rounded(plan: Plan, asked: Target, choice: Target) -> Plan:
    """Return the plan of a choice, with what was asked, and a note about the multiple."""
    if choice.round_to == 1:
        return replace(plan, target=asked.describe())
    note = (
        f"Kept channels are multiples of {choice.round_to}, because depthwise convolutions with other numbers are slow "
        "in some runtimes; round_to=1 leaves it out."
    )
    return replace(plan, target=replace(asked, round_to=choice.round_to).describe(), notes=(*plan.notes, note))
