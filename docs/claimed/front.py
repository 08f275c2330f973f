"""The claims of README, the first pages of the documentation, and the pages for users of other libraries."""

from __future__ import annotations

from claimed.claim import Claim, claim, spelled
from claimed.rows import compressed, deployed, read, without_training, zoo


def _installation() -> float:
    """Megabytes of an installation without PyTorch and what its build brings."""
    sizes: dict[str, float] = read("package.json")["megabytes"]
    torch = [name for name in sizes if name == "torch" or name.startswith(("nvidia", "triton", "cuda"))]
    return sum(sizes.values()) - sum(sizes[name] for name in torch)


def _device() -> Claim:
    original, small = deployed("original", "openvino", 1), deployed("macs_0.5/int8", "openvino", 1)
    return claim(
        "README.md",
        "Half of the multiply-accumulates (MACs) and int8 take {time:.2f} of the time at {lost:.2f} points less top-1, "
        "in a file of {small:,.0f} kB instead of {large:,.0f} kB.",
        time=small["latency"]["relative"],
        lost=original["top1"] - small["top1"],
        small=small["bytes"] / 1000,
        large=original["bytes"] / 1000,
    )


COMPRESSED = compressed()
OURS, THEIRS = zoo("slimcnn"), zoo("torch-pruning")

CLAIMS = [
    _device(),
    claim(
        "README.md",
        "ResNet-56 at half of its MACs keeps [{after:.2f} of {before:.2f} %](benchmarks/label_free_resnet56/study.md).",
        after=COMPRESSED["accuracy"],
        before=COMPRESSED["before"],
    ),
    claim(
        "README.md",
        "| [{networks} networks](benchmarks/zoo.md) cut exactly | {slimcnn} | {torch_pruning} |",
        networks=OURS.total(),
        slimcnn=OURS["exact"],
        torch_pruning=THEIRS["exact"],
    ),
    claim(
        "docs/index.md",
        "goes from {before:.2f} to {after:.2f} % test top-1 in {minutes} minutes on one core",
        before=COMPRESSED["before"],
        after=COMPRESSED["accuracy"],
        minutes=spelled(round(COMPRESSED["seconds"] / 60)),
    ),
    claim(
        "docs/index.md",
        "Of {networks} networks from torchvision and timm, {exact} were cut exactly, {uncut} have nothing that could "
        "be cut exactly, {wrong} was cut wrongly",
        networks=OURS.total(),
        exact=OURS["exact"],
        uncut=OURS["nothing cut"],
        wrong=spelled(OURS["wrong"]),
    ),
    claim(
        "docs/index.md",
        "{refitted:.2f} instead of {cut:.2f} % for ResNet-56 at half of its MACs, with the same share of every layer",
        refitted=without_training("l2", "local", 0.5, "least_squares"),
        cut=without_training("l2", "local", 0.5, "none"),
    ),
    claim(
        "docs/start.md",
        "Apart from PyTorch, an installation takes about {megabytes:.0f} MB",
        megabytes=round(_installation(), -1),
    ),
    claim("docs/results.md", "{networks} networks, three libraries", networks=OURS.total()),
    claim(
        "docs/coming_from/torch_pruning.md",
        "by L1 on {networks} networks, slimcnn cuts {slimcnn} exactly, Torch-Pruning {torch_pruning}",
        networks=OURS.total(),
        slimcnn=OURS["exact"],
        torch_pruning=THEIRS["exact"],
    ),
]
