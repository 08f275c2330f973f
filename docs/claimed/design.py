"""The claims of the page on the design: measurements that decided something."""

from __future__ import annotations

from claimed.claim import Claim, claim
from claimed.rows import read, read_lines

PAGE = "docs/design.md"


def _concatenation() -> Claim:
    vgg, resnet = (read(f"feature_reuse/time_{network}_eager_64.json") for network in ("vgg16", "resnet20"))
    return claim(
        PAGE,
        "the rewritten VGG-16 takes {vgg:.3f} instead of {vgg_units:.3f} of the original's time, ResNet-20 "
        "{resnet:.3f} instead of {resnet_units:.3f}",
        vgg=vgg["one_tensor"],
        vgg_units=vgg["ratio"],
        resnet=resnet["one_tensor"],
        resnet_units=resnet["ratio"],
    )


def _stream() -> Claim:
    """By how many points a kept residual stream is better, by the share of the MACs."""
    cells: list[float] = []
    for macs in (0.75, 0.5, 0.35):
        asked = {"network": "resnet20", "criterion": "l2", "scope": "sensitivity", "images": 1024, "macs": macs}
        rows = [row for row in read_lines("defaults.jsonl") if asked.items() <= row.items()]
        top1 = {row["residual"]: row["test"] for row in rows}
        cells += [top1["inner"] - top1["cut"], macs]
    template = "keeping the stream is worth {:.1f} points at {:g} of the MACs, {:.1f} at {:g} and {:.1f} at {:g}"
    return claim(PAGE, template, *cells)


CLAIMS = [
    _concatenation(),
    _stream(),
]
