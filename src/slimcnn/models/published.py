"""Published results of compact networks on ImageNet: 224 x 224 pixels (Xception 299), 1000 classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slimcnn.errors import UnknownName


@dataclass(frozen=True)
class Published:
    """One row of a paper's table, with the arguments that build the network."""

    network: str
    arguments: Mapping[str, float | int]
    params: str
    """As printed."""
    macs: str
    """As printed; "" if not published."""
    top1: float
    """In %, on ImageNet's validation images."""
    source: str
    """Where `top1` was published."""
    note: str = field(default="")
    """Where our counts differ from the printed ones, and why."""

    @property
    def title(self) -> str:
        """The network's name and its non-default arguments.

        >>> Published("fe_net", {"width": 1.375}, "5.9 M", "563 M", 75.0, "paper").title
        'fe_net width=1.375'
        """
        return " ".join([self.network, *(f"{name}={value:g}" for name, value in self.arguments.items())])


def _w(width: float) -> dict[str, float]:
    return {"width": width}


ACTIVE = "MACs: interpolation counts 0 here; the paper does not define how it counts it"

PUBLISHED = (
    Published("squeezenet1_0", {}, "1.2 M", "0.84 G", 57.5, "paper; 58.09 torchvision"),
    Published("squeezenet1_1", {}, "1.2 M", "", 58.18, "torchvision"),
    Published("mobilenet_v1", {}, "4.2 M", "569 M", 70.6, "paper"),
    Published("mobilenet_v1", _w(0.75), "2.6 M", "325 M", 68.4, "paper"),
    Published("mobilenet_v1", _w(0.5), "1.3 M", "149 M", 63.7, "paper"),
    Published("mobilenet_v1", _w(0.25), "0.5 M", "41 M", 50.6, "paper"),
    Published("mobilenet_v2", {}, "3.4 M", "300 M", 72.0, "paper; 71.88 torchvision"),
    Published("mobilenet_v2", _w(0.75), "2.61 M", "209 M", 69.8, "paper"),
    Published("mobilenet_v2", _w(0.5), "1.95 M", "97 M", 65.4, "paper"),
    Published("mobilenet_v2", _w(1.4), "6.9 M", "585 M", 74.7, "paper", "the paper's table does not add up to 6.9 M"),
    Published("shufflenet_v1", _w(0.5), "0.7 M", "38 M", 57.3, "megvii's repository"),
    Published("shufflenet_v1", {}, "1.9 M", "138 M", 67.8, "megvii's repository"),
    Published("shufflenet_v1", _w(1.5), "3.4 M", "292 M", 71.6, "megvii's repository"),
    Published("shufflenet_v1", _w(2.0), "5.4 M", "524 M", 74.1, "megvii's repository"),
    Published("shufflenet_v2", _w(0.5), "1.4 M", "41 M", 61.1, "megvii's repository; 60.55 torchvision"),
    Published("shufflenet_v2", {}, "2.3 M", "146 M", 69.4, "megvii's repository; 69.36 torchvision"),
    Published("shufflenet_v2", _w(1.5), "3.5 M", "299 M", 72.6, "megvii's repository; 73.00 torchvision"),
    Published("shufflenet_v2", _w(2.0), "7.4 M", "591 M", 75.0, "megvii's repository; 76.23 torchvision"),
    Published("xception", {}, "22.9 M", "8.4 G", 79.0, "paper"),
    Published("igcv3", {}, "3.5 M", "", 70.6, "authors; 72.2 retrained in their repository"),
    Published("shiftnet_a", {}, "4.1 M", "1.4 G", 70.1, "paper"),
    Published("shiftnet_b", {}, "1.1 M", "371 M", 61.2, "paper"),
    Published("as_resnet_w32", {}, "0.9 M", "171 M", 64.1, "paper", ACTIVE),
    Published("as_resnet_w50", {}, "1.96 M", "404 M", 69.9, "paper", ACTIVE),
    Published("as_resnet_w68", {}, "3.42 M", "729 M", 72.2, "paper", ACTIVE),
    Published(
        "fe_net", {"head": 1500}, "3.7 M", "301 M", 72.9, "paper; 73.6 retrained by the authors",
        "the head of 1932 in the authors' code belongs to width 1.375",
    ),
    Published("fe_net", _w(1.375), "5.9 M", "563 M", 75.0, "paper; 75.7 retrained by the authors"),
)  # fmt: skip

SURVEYED = ("mobilenet_v2", "shufflenet_v2", "igcv3", "shiftnet_a", "shiftnet_b", "as_resnet_w32", "as_resnet_w50",
            "as_resnet_w68", "fe_net")  # fmt: skip
"""The networks that the survey (Lang, Xia 2020) compares, spatial and shift convolution; their names are inferred."""


def published_rows(names: Sequence[str] = (), everything: bool = False) -> list[Published]:
    """Return rows of `PUBLISHED`: the named networks, everything, or by default the survey's networks.

    Raises `UnknownName` for a network that `PUBLISHED` does not list.

    >>> [row.title for row in published_rows(["shiftnet_b", "igcv3"])]
    ['igcv3', 'shiftnet_b']
    """
    known = {row.network for row in PUBLISHED}
    for name in names:
        if name not in known:
            raise UnknownName("compact network", name, sorted(known))
    chosen = known if everything else set(names or SURVEYED)
    return [row for row in PUBLISHED if row.network in chosen]
