"""The claims of the method cards."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from statistics import mean, stdev

from claimed.claim import Claim, claim, spelled
from claimed.rows import read, read_all, study

FPDF, SHIFT, REUSE = "docs/methods/fpdf.md", "docs/methods/compact_shift.md", "docs/methods/feature_reuse.md"
SCALE, INDEX = "docs/methods/scale_factor.md", "docs/methods/index.md"


# --- GFR --------------------------------------------------------------------------------------------------------------


def _gfr() -> Claim:
    search = read("gfr/vgg16_w0.5_related_0_search.json")
    slimmed = read("gfr/vgg16_w0.5_l1_0_bn_scale_0.6.json")
    return claim(
        INDEX,
        "removes {removed:.0f} % of the MACs of a half-width VGG-16 and loses {lost:.2f} points; network slimming "
        "removes {slimming:.0f} % and loses {slimming_lost:.2f}",
        removed=100 * (1 - search["best"]["macs"]),
        lost=search["test_base"] - search["test"],
        slimming=100 * (1 - slimmed["macs"]),
        slimming_lost=read("gfr/vgg16_w0.5_l1_0.json")["top1"] - slimmed["top1"]["cut"],
    )


# --- FPDF -------------------------------------------------------------------------------------------------------------


def _ahead(rate: float, accounting: str) -> Iterator[float]:
    """By how many points other criteria are ahead of FPDF after least squares (ResNet-20)."""
    name = f"fpdf/resnet20_{accounting}_{rate}_{{}}_hard0_0.json"
    for criterion in ("l2", "fpgm", "fpdf-bins1"):
        yield read(name.format(criterion))["top1"]["least_squares"] - read(name.format("fpdf"))["top1"]["least_squares"]


def _untrained() -> Claim:
    low, high = 0.1, 0.5
    return claim(
        FPDF,
        "L2, FPGM and `fpdf:bins=1` are {least:.1f} (rate {low:g}) to {most:.0f} points (rate {high:g}, scatter) "
        "better on ResNet-20 after least squares",
        least=min([*_ahead(low, "inner"), *_ahead(low, "scatter")]),
        most=max(_ahead(high, "scatter")),
        low=low,
        high=high,
    )


def _trained(rate: float, criterion: str) -> list[float]:
    return [row["top1"]["trained"] for row in read_all(f"fpdf/resnet20_scatter_{rate}_{criterion}_hard2_[0-9].json")]


def _behind_l2() -> Claim:
    first, second = 0.3, 0.5
    return claim(
        FPDF,
        "After two epochs of training ({seeds} seeds), it is {mild:.1f} points behind L2 at rate {first:g} and "
        "{strong:.1f} at {second:g}.",
        seeds=spelled(len(_trained(first, "fpdf"))),
        mild=mean(_trained(first, "l2")) - mean(_trained(first, "fpdf")),
        strong=mean(_trained(second, "l2")) - mean(_trained(second, "fpdf")),
        first=first,
        second=second,
    )


def _distilled() -> Claim:
    (ours,), (theirs,) = read_all("resnet56/fpdf_auto_10_*.json"), read_all("resnet56/l2_auto_10_*.json")
    return claim(
        FPDF,
        "On ResNet-56, {epochs} epochs of distillation narrow the gap to {gap:.1f} points (one seed).",
        epochs=spelled(ours["epochs"]),
        gap=theirs["top1"]["distilled"] - ours["top1"]["distilled"],
    )


def _bounded() -> list[Claim]:
    """The readings of FPDF against L2, at two sizes, from the study without training."""

    def points(criterion: str, macs: float) -> list[float]:
        return [row["accuracy"] for row in study("criteria_untrained", prune_criterion=criterion, prune_macs=macs)]

    def fit(criterion: str) -> float:
        return mean(row["ks"] for row in study("criteria_untrained", prune_criterion=criterion, prune_macs=0.5))

    said = [
        claim(
            FPDF,
            f"| `{criterion}` | {{half:.1f}} ± {{half_spread:.1f}} | {{most:.1f}} ± {{most_spread:.1f}} | {{ks:.2f}} |",
            half=mean(points(criterion, 0.5)),
            half_spread=stdev(points(criterion, 0.5)),
            most=mean(points(criterion, 0.38)),
            most_spread=stdev(points(criterion, 0.38)),
            ks=fit(criterion),
        )
        for criterion in (
            "l2",
            "fpgm",
            "reconstruction",
            "fpdf",
            "fpdf:tau=0.1",
            "fpdf:tau=0.2",
            "fpdf:tau=0.3",
            "random",
        )
    ]
    least = mean(points("l2", 0.5)) - mean(points("fpdf:tau=0.3", 0.5))
    smaller = mean(points("l2", 0.38)) - mean(points("fpdf:tau=0.3", 0.38))
    behind = claim(
        FPDF,
        "is {behind:.1f} points behind L2 at half of the MACs, more than the seeds differ, and {smaller:.1f} at "
        "{size}, which three seeds cannot tell apart",
        behind=least,
        smaller=smaller,
        size=0.38,
    )
    return [*said, behind]


def _bounded_and_trained() -> Claim:
    criteria = ("l2", "fpdf:tau=0.3", "fpdf")
    found = [
        [row["accuracy"] for row in study("criteria_resnet20", prune_criterion=criterion, prune_macs=0.5)]
        for criterion in criteria
    ]
    source = tomllib.loads(read("criteria_resnet20/study.json")["source"])
    return claim(
        FPDF,
        "Distilled for {epochs} epochs, the readings are close. At half of the MACs `l2` keeps {:.2f} ± {:.2f} % "
        "({} seeds), "
        "`fpdf:tau=0.3` {:.2f} ± {:.2f} % ({}), `fpdf` {:.2f} ± {:.2f} % ({}) "
        "([rows](../../benchmarks/criteria_resnet20/study.md)).",
        *(cell for top1 in found for cell in (mean(top1), stdev(top1), spelled(len(top1)))),
        epochs=spelled(source["steps"][-1]["epochs"]),
    )


# --- feature reuse ----------------------------------------------------------------------------------------------------


def _reuse() -> list[Claim]:
    time = read("feature_reuse/time_vgg16_onnxruntime_64.json")
    cold = {
        point: [row["accuracy"] for row in study("feature_reuse_no_warmup", point=point)]
        for point in ("plain", "from_scratch")
    }
    starts = [row["seconds_of_start"] for row in read_all("feature_reuse/start_reuse_*.json")]
    return [
        claim(
            INDEX,
            "VGG-16 takes {ratio:.2f} of its time in ONNX Runtime at batch {batch}",
            ratio=time["ratio"],
            batch=time["batch"],
        ),
        claim(REUSE, "%, {macs:.2f} % | | `chain`", macs=100 * time["macs"]),
        claim(
            REUSE,
            "a rewritten VGG-9 reached {reuse:.2f} ± {spread:.2f} % in 16 epochs, a plain network of equal size "
            "{plain:.2f} %\n([rows](../../benchmarks/feature_reuse_no_warmup/study.md), {seeds} seeds).",
            reuse=mean(cold["from_scratch"]),
            spread=stdev(cold["from_scratch"]),
            plain=mean(cold["plain"]),
            seeds=spelled(len(cold["plain"])),
        ),
        claim(REUSE, "No labels; {seconds:.0f} seconds on one core for ResNet-20.", seconds=mean(starts)),
    ]


# --- scale factor -----------------------------------------------------------------------------------------------------


def _taught(way: str) -> list[float]:
    return [row["top1"] for row in read_all("scale_factor/*_10.json") if row["way"] == way]


def _scale_factor() -> list[Claim]:
    ways = {"kd": "KD", "scaled": "KD + scale factor", "larger": "KD, larger step", "dkd": "DKD"}
    found = {name: _taught(way) for name, way in ways.items()}
    classes = _taught("KD + scale factor, classes")
    means = {name: mean(values) for name, values in found.items()}
    return [
        claim(INDEX, "{gain:.1f} points above plain KD, but so is a larger step", gain=means["scaled"] - means["kd"]),
        claim(
            SCALE,
            "{seeds} seeds. KD {kd:.2f}, with the scale factor {scaled:.2f} ± {scaled_spread:.2f}, KD at a larger step "
            "{larger:.2f} ± {larger_spread:.2f}, DKD {dkd:.2f}.",
            seeds=spelled(len(found["kd"])),
            scaled_spread=stdev(found["scaled"]),
            larger_spread=stdev(found["larger"]),
            **means,
        ),
        claim(SCALE, "(`level=class`) hurts: {mean:.2f} ± {spread:.2f}.", mean=mean(classes), spread=stdev(classes)),
    ]


# --- shifts -----------------------------------------------------------------------------------------------------------


def _speedups(layout: str, batch: int, direction: str = "forward", part: str = "op") -> dict[int, list[float]]:
    """Time of the depthwise convolution / time of the shift, by the side of the images."""
    found: dict[int, list[float]] = {}
    for row in read_all("compact/times_*.json"):
        if (row["layout"], row["batch"]) == (layout, batch):
            found.setdefault(row["side"], []).append(row[direction][part])
    return found


def _range(speedups: dict[int, list[float]], sides: Iterable[int] | None = None) -> tuple[float, float]:
    chosen = [one for side, values in speedups.items() if sides is None or side in sides for one in values]
    return min(chosen), max(chosen)


def _shifts() -> list[Claim]:
    faster = "each its faster"
    at_64 = _speedups(faster, 64)
    pairs = [*_range(_speedups(faster, 1, part="pair")), *_range(_speedups(faster, 64, part="pair"))]
    rows = [row for row in read_all("compact/times_*.json") if row["exported"]]
    exported = [row["exported"][runtime] for row in rows for runtime in ("onnxruntime", "openvino")]
    return [
        claim(
            SHIFT,
            "In NCHW: {:.2f} to {:.2f} at batch 1 and {:.2f} to {:.2f} at batch 64; with the backward pass {:.2f} to "
            "{:.2f} and {:.2f} to {:.2f}.",
            *(
                one
                for way in ("forward", "backward")
                for batch in (1, 64)
                for one in _range(_speedups("nchw", batch, way))
            ),
        ),
        claim(
            SHIFT,
            "*is* a depthwise convolution: {:.2f} to {:.2f} at batch 1, where Python's overhead counts, and {:.2f} to "
            "{:.2f} at batch 64.",
            *(one for batch in (1, 64) for one in _range(_speedups("channels_last", batch))),
        ),
        claim(
            SHIFT,
            "Each in its faster layout: {:.2f} to {:.2f} at batch 1; at batch 64, {:.2f} to {:.2f}, but {:.2f} to "
            "{:.2f} on 8 x 8 images.",
            *_range(_speedups(faster, 1)),
            *_range(at_64, at_64.keys() - {8}),
            *_range(at_64, {8}),
        ),
        claim(SHIFT, "little of the gain remains: {:.2f} to {:.2f}.", min(pairs), max(pairs)),
        claim(SHIFT, "Exported, none: {:.2f} to {:.2f}.", min(exported), max(exported)),
    ]


CLAIMS = [
    _gfr(),
    _untrained(),
    _behind_l2(),
    _distilled(),
    *_bounded(),
    _bounded_and_trained(),
    *_reuse(),
    *_scale_factor(),
    *_shifts(),
]
