"""Write feature_reuse.md from the JSON files of feature_reuse.py."""

from __future__ import annotations

from pathlib import Path

from rows import environment_lines

HERE = Path(__file__).parent
PUBLISHED = {
    "vgg16": "0.435",
    "resnet20": "0.609 (which ResNet is not said)",
    "resnet50": "0.609 (which ResNet is not said)",
}


def page(found: list[dict]) -> str:
    lines = ["# Feature reuse", "", INTRODUCTION, ""]
    lines += starts([one for one in found if one["kind"] == "start"])
    lines += times([one for one in found if one["kind"] == "time"])
    lines += environment_lines(found)
    notes = HERE / "feature_reuse_notes.md"
    lines += [notes.read_text()] if notes.exists() else []
    return "\n".join(lines).rstrip() + "\n"


INTRODUCTION = """`python benchmarks/feature_reuse.py --check` verifies without training: parameters of VGG-16, ResNet-20 and ResNet-50, `prune == mask` on rewritten
networks, ONNX, latency. Below: CIFAR-10, 45,000 training images, test images read once at the end."""


def starts(found: list[dict]) -> list[str]:
    if not found:
        return []
    first = found[0]
    lines = [
        "## Initialization from the trained network's features", "",
        f"ResNet-20 with published weights ({first['original']:.2f} % on the test images), rewritten (53.9 % of its parameters); "
        f"{first['images']:,} training images for the initialization. Then the same training, with labels only, at two learning rates. "
        "The epoch columns are validation top-1.", "",
        "| begins with | rate | before training, test | " + " | ".join(f"epoch {n + 1}" for n in range(first["epochs"])) + " | test |",
        "|---|---|---|" + "---|" * (first["epochs"] + 1),
    ]  # fmt: skip
    for one in sorted(found, key=lambda one: (one["init"] == "random", one["rate"])):
        what = "the original's features" if one["init"] == "reuse" else "random units"
        epochs = " | ".join(f"{epoch['validation_top1']:.1f}" for epoch in one["history"])
        lines.append(f"| {what} | {one['rate']:g} | {one['before']:.2f} | {epochs} | {one['top1']:.2f} |")
    spent = max(one["seconds_of_start"] for one in found)
    return [*lines, "", f"The initialization takes {spent:.0f} s on one core, without labels.", ""]


def times(found: list[dict]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Latency",
        "",
        "Networks in turns, one thread, 32x32 images: medians, and the median of the ratios of adjacent calls with its quartiles. "
        "`one tensor`: the rewritten network writes both halves into one preallocated tensor instead of concatenating them (eager only).",
        "",
        "| network | runtime | batch | n | original, ms | rewritten, ms | ratio | one tensor | MACs | published |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: (one["network"], one["runtime"], one["batch"])):
        low, high = one["quartiles"]
        other = "–" if one.get("one_tensor") is None else f"{one['one_tensor']:.3f}"
        lines.append(
            f"| {one['network']} | {one['runtime']} | {one['batch']} | {one['n']} | {one['base_ms']:.2f} | {one['small_ms']:.2f} | "
            f"{one['ratio']:.3f} ({low:.3f} to {high:.3f}) | {other} | {one['macs']:.3f} | {PUBLISHED[one['network']]} |"
        )
    return [*lines, ""]
