"""The claims of the guides."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from statistics import mean, median, stdev

from claimed.claim import Claim, claim, spelled
from claimed.rows import combined, compressed, read, read_all, study, study_steps, without_training

GUIDE = "docs/guides/without_training.md"
TUNED = "label_free_resnet56"
SHARES = (0.75, 0.6, 0.5, 0.4)


def _recoveries() -> Claim:
    rows = [
        (macs, *(without_training("l2", "sensitivity", macs, recovery) for recovery in ("none", "bn", "least_squares")))
        for macs in SHARES
    ]
    return claim(GUIDE, "| {:g} | {:.2f} | {:.2f} | {:.2f} |\n" * len(rows), *chain(*rows))


def _tuning() -> Claim:
    """Top-1 of ResNet-56 by images and passes, at each share of the MACs."""
    lines: list[str] = []
    cells: list[float] = []
    for macs in (0.75, 0.5, 0.38):
        for name, steps in study_steps(TUNED).items():
            for row in study(TUNED, steps=name, prune_macs=macs):
                settings = [
                    int(number) for found in re.findall(r"images=(\d+),epochs=(\d+)", steps) for number in found
                ]
                lines.append(
                    "| {:g} | {:,d} | {} | {:.2f} |"
                    if settings
                    else "| {:g} | as many as five minutes allow | 3 | {:.2f} |"
                )
                cells += [macs, *settings, row["accuracy"]]
    return claim(GUIDE, "\n".join(lines), *cells)


def _features() -> Claim:
    top1 = {
        name: [row["accuracy"] for row in study("label_free_tuning", steps=name)]
        for name in ("least_squares", "answers_1024_60", "features_1024")
    }
    return claim(
        GUIDE,
        "{images:,d} images, {seeds} seeds: {:.2f} ± {:.2f} % after least squares, {:.2f} ± {:.2f} % if answers "
        "are compared, {:.2f} ± {:.2f} % with features,\n{passes} passes each",
        *(cell for found in top1.values() for cell in (mean(found), stdev(found))),
        images=int(re.findall(r"tune:images=(\d+)", study_steps("label_free_tuning")["features_1024"])[0]),
        seeds=spelled(len(top1["features_1024"])),
        passes=int(re.findall(r"epochs=(\d+)", study_steps("label_free_tuning")["answers_1024_60"])[0]),
    )


def _distilled() -> Claim:
    top1 = {
        name: [row["accuracy"] for row in study("distill_features", distill_loss=name)]
        for name in ("features", "answers")
    }
    return claim(
        GUIDE,
        "`distill`, which trains with\nlabels, compares both by default: {:.2f} ± {:.2f} % after {epochs} epochs, "
        "{:.2f} ± {:.2f} % with answers alone",
        *(cell for found in top1.values() for cell in (mean(found), stdev(found))),
        epochs=spelled(tomllib.loads(read("distill_features/study.json")["source"])["steps"][-1]["epochs"]),
    )


def _lite0() -> Claim:
    """Agreement by criterion, with the multiples of channels and the stream as `compress` has them."""
    macs = 0.75
    found = {
        row["criterion"]: row["agreement"]["top1"]
        for row in read("lite0_without_training.json")["choices"]
        if (row["macs"], row["multiple"]) == (macs, 4)
    }
    return claim(
        GUIDE,
        "EfficientNet-lite0 at {macs:g} of its MACs agrees with the original on {reconstruction:.1f} % of photographs, "
        "with `l2` on {l2:.1f} %",
        macs=macs,
        **found,
    )


def _lite0_tuned() -> Claim:
    """Agreement before and after tuning; the crops that choose its epoch are not counted."""
    stored = read("lite0_without_training.json")
    rows = {row["macs"]: row for row in stored["rows"] if row["criterion"] == "compress as it comes"}
    cells = [
        cell
        for macs in (0.75, 0.6)
        for cell in (*(rows[macs]["agreement"][when]["top1"] for when in ("least squares", "tuned")), macs)
    ]
    return claim(
        GUIDE,
        "{passes} passes over {:d} crops: {:.1f} before and {:.1f} % after at {:g}, {:.1f} and {:.1f} % at {:g} "
        "({judging} crops)",
        rows[0.75]["learning"],
        *cells,
        judging=stored["judging"],
        passes=spelled(rows[0.75]["passes"]),
    )


def _searched() -> Claim:
    left = {way: mean(row["macs_left"] for row in study("search", steps=way)) for way in ("macs", "ratios")}
    return claim(
        "docs/guides/search.md",
        "ResNet-20 keeps {macs:.2f} of its MACs, and {ratios:.2f} with ratios, at equal test top-1 "
        "([rows](../../benchmarks/search/study.md), {seeds} seeds).",
        seeds=spelled(len(study("search", steps="macs"))),
        **left,
    )


def _streamed() -> Claim:
    """The last row: images per second are medians of the rounds, memory the first and the last figure."""
    row = read("streams.json")[-1]
    return claim(
        "docs/guides/data_sources.md",
        "([{images:,d} JPEGs](../../benchmarks/streams.md): {ours:.0f} and {plain:.0f} images/s on two cores), and its "
        "memory stays flat: {middle:d} MB in the middle of an epoch, {end:d} MB at the end.",
        images=row["images"],
        ours=median(row["stream_images_per_second"]),
        plain=median(row["plain_images_per_second"]),
        middle=row["memory_mb"][0],
        end=row["memory_mb"][-1],
    )


def _other_tasks() -> Claim:
    """Means over the seeds."""
    found = {
        f"{name}_{when}": mean(row[f"test_{when}"] for row in read_all(f"tasks/{name}_0.6_*.json"))
        for name in ("camvid", "bccd")
        for when in ("before", "after")
    }
    return claim(
        "docs/guides/tasks.md",
        "a small U-Net on CamVid has a mean IoU of {camvid_after:.2f} % instead of {camvid_before:.2f} %, a small "
        "RetinaNet on BCCD an mAP@50 of {bccd_after:.2f} % instead of {bccd_before:.2f} %.",
        **found,
    )


CLAIMS = [
    _other_tasks(),
    _searched(),
    _streamed(),
    claim(GUIDE, "ResNet-56 on CIFAR-10, {before:.2f} % test top-1", before=compressed()["before"]),
    _recoveries(),
    claim(
        GUIDE,
        "gives {refitted:.2f} % at half ([rows](../../benchmarks/combinations.md)) and, with five minutes of tuning "
        "on one core, {tuned:.2f} % ([rows]",
        refitted=combined("default", 0.5)["accuracy"],
        tuned=compressed()["accuracy"],
    ),
    _tuning(),
    _features(),
    _distilled(),
    _lite0(),
    _lite0_tuned(),
]
