"""Write zoo.md from the results of zoo.py."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from typing import Any

Result = dict[str, Any]
Results = dict[str, dict[str, Result]]
Sweep = tuple[list[str], Results, dict[str, Result]]
"""The names of networks, and their results and environment by library."""

OUTCOMES = {
    "exact": "exact",
    "wrong": "wrong",
    "norm": "cut through a norm",
    "crash": "crash",
    "timeout": "no end",
    "nothing cut": "nothing cut",
}

HEAD = """# The zoo

Every classification constructor of torchvision (without the pure transformers vit and swin, which are not CNNs), its
segmentation, detection and video networks, and {timm} CNNs and hybrids of timm, one per family and variant idea, without
pretrained weights, in eval mode. Three libraries prune each at pruning ratio 0.5 (half of the channels of every layer, by
L1, except the classifier), each in its own process with one thread and limits on time and memory.
{count} networks.

"""

HOW = """
## Method

* **Image size.** The smallest square image of 128, 160, 192, 224, 256 pixels that a network accepts, to keep the sweep short
  (video: 16 frames of 64 x 64). *MACs left* and *seconds* are for this size.
* **The judge** is the same for all libraries and shares no code with them (`zoo_law.py`). Before pruning, it fills all parameters,
  including batch norm's affine parameters, with values that encode their position. The values left after pruning show which positions survived. *Exact*: in
  float64, on normal input, the small network reproduces the outputs of the original with all other positions set to zero, to a
  relative error below 1e-9. *Wrong*: it does not. slimcnn's own check must agree with the judge.
* **Cut through a norm**: not equal, and a layer with statistics over channels (LayerNorm, GroupNorm, weight
  standardization, EvoNorm ...) was pruned; no library can be exact then. slimcnn does not prune such channels unless asked to.
* **Crash**: an exception while pruning or running the pruned network, or more memory than the limit. **No end**: a stage
  (build, cut, run, judge) exceeded the time limit, which is given
  with every case above (the last sweep's: {seconds} s; some would finish with more time). **Nothing cut**: no channel was removed.
* **slimcnn**: `trace`, `score("l1")`, `allocate(Target(pruning_ratio=0.5))`, `prune`. *Seconds* exclude verification, which has its
  own column. A layer is *locked* if some or all of its output channels cannot be removed; the outputs of the network never can.
* **torch-pruning**: `MagnitudePruner`, `MagnitudeImportance(p=1)`, `pruning_ratio=0.5`, the classifiers in `ignored_layers`.
* **torch-kirigami**: layer by layer, the lower half of the filters with `Pruner.plan_remove`; a layer that is refused keeps
  all channels. Its own `Greedy` strategy, shown in its readme, replans for every channel and had not
  finished torchvision's ResNet-18 after five minutes.
* **Detection**: a detector returns a list of boxes whose length depends on the image, so outputs cannot be compared. Backbone,
  feature pyramid and heads are therefore pruned and judged as one network (`zoo_networks.Detector`, with two
  fixed regions per image if a detector uses regions), and the whole detector must run afterwards.
* *Seconds* are processor time, one thread, on a machine that other programs shared.
"""


PACKAGES = """
## Networks of other packages

slimcnn on {count} networks of segmentation_models_pytorch (`smp:`), transformers and pytorchcv, from configurations, with random
weights, in eval mode; cut and judged as above, those of segmentation_models_pytorch from 64 pixels on. The judge also compares the
pruned and the masked network on images of 1.5 times the size (*larger*), which slimcnn never ran; code that accepts one image
size only has no error there.

"""

OPEN = """
Locked, and why it stays so:

* BiT normalizes groups of channels before every convolution, ConvNeXt V2 divides by a mean over all channels: no cut is exact.
  So it is with the maximum and mean over channels of a spatial gate (`cbam_resnet18`).
* OctConv (`octresnet10_ad2`) slices its weight by stored numbers of channels. `trace` finds stored numbers that split activations,
  not those that split weights, and locks these layers.
* DiCENet and ChannelNet convolve along the channel axis: neighboring channels are mixed, none can go alone.
* CondenseNet's tables of positions hold only zeros before training: its layers read channel 0 alone, so what was cut had no
  influence and the cut proves little.
* Groups of fewer than three independent channels are too small for a trial cut (`shufflenet_g4_w1`, whose groups lose equal
  positions).
* Attention (PVT v2, SegFormer, GLPN, DETR, LeViT) keeps its queries, keys and residual stream, as in the table above.
* Recurrent cells (SLANet) start from a state of zeros, which is multiplied with a weight: their channels stay. Its decoder runs 501
  steps, 28,300 operations, which `trace` repeats for every trial cut: that is why it takes the longest.
"""


def page(main: Sweep, packages: Sweep) -> str:
    """Format the whole page; networks without results are omitted from the first sweep and named in the second."""
    names, results, environments = main
    shown = [name for name in names if any(name in known for known in results.values())]
    timm = sum(name.startswith("timm:") for name in shown)
    seconds = max(one["seconds"] for one in environments.values())
    lines = [
        HEAD.format(timm=timm, count=len(shown)).rstrip(),
        "",
        *_summary(shown, results),
        "",
        *_against(shown, results),
    ]
    lines += ["", "## Network by network", "", *_table(shown, results), "", *_failures(shown, results)]
    lines += _packages(*packages)
    lines += [HOW.format(seconds=seconds).rstrip(), "", *_measured_on(environments), ""]
    lines += ["Repeat: `python benchmarks/zoo.py` (results in `benchmarks/zoo/` are not run again; see `--help`)"]
    return "\n".join(lines) + "\n"


def _measured_on(environments: dict[str, Result]) -> list[str]:
    """Format the environment of each library's sweep."""
    return ["Measured on:", "", *(f"* {library}: `{json.dumps(one)}`" for library, one in environments.items())]


def _packages(names: list[str], results: Results, environments: dict[str, Result]) -> list[str]:
    """Format the section of the networks from other packages."""
    known = results["slimcnn"]
    shown = [name for name in names if name in known]
    lines = [
        PACKAGES.format(count=len(shown)).strip(),
        "",
        *_summary(shown, results),
        "",
        *_by_package(shown, known),
        "",
    ]
    lines += [
        "| network | size | groups | channels | locked layers (most frequent reason) | MACs left | error | larger: size |"
        " error | seconds | verify |",
        "|---" * 11 + "|",
    ]
    for name in shown:
        row = known[name]
        cells = [name, row.get("size", ""), row.get("groups", ""), row.get("channels", ""), _locked(row), _left(row)]
        cells += [_error(row), *_larger(row), _number(row, "seconds", 2), _number(row, "verify_seconds", 2)]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", *_failures(shown, results)]
    absent = [name for name in names if name not in known]
    lines += [f"Without a result: {', '.join(absent)}.", ""] if absent else []
    lines += [OPEN.strip(), ""]
    return [*lines, *_measured_on(environments), "", "Repeat: `python benchmarks/zoo.py --packages`", ""]


def _by_package(names: list[str], known: dict[str, Result]) -> list[str]:
    """Format how many networks of each package were cut."""
    lines = [
        "| package | networks | exact | wrong | crash or no end | nothing cut | MACs left where exact: mean |",
        "|---" * 7 + "|",
    ]
    for package in dict.fromkeys(name.partition(":")[0] for name in names):
        rows = [known[name] for name in names if name.startswith(f"{package}:")]
        counted = Counter(row["outcome"] for row in rows)
        left = [row["macs_left"] for row in rows if row["outcome"] == "exact"]
        cells = [package, len(rows), counted["exact"], counted["wrong"], counted["crash"] + counted["timeout"]]
        cells += [counted["nothing cut"], f"{statistics.mean(left):.3f}" if left else "-"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _larger(row: Result) -> tuple[str, str]:
    """Format the larger size and the error there."""
    if "larger_error" in row:
        return str(row["larger"][-1]), f"{row['larger_error']:.0e}"
    return "", "not accepted" if "larger_refused" in row else ""


def line(result: Result) -> str:
    """Format a result as one line for the terminal."""
    left = f"{result['macs_left']:.3f} MACs left" if "macs_left" in result else ""
    seconds = f"{result['seconds']:.1f} s" if "seconds" in result else ""
    return "  ".join(
        [f"{result['network']:44s}", f"{result['library']:14s}", f"{result['outcome']:12s}", left, seconds, result.get("message", "")]
    ).rstrip()  # fmt: skip


def _summary(names: list[str], results: Results) -> list[str]:
    """Format the outcomes per library, and the MACs left of the exactly pruned networks."""
    lines = [
        f"| library | networks | {' | '.join(OUTCOMES.values())} | MACs left where exact: mean | median |",
        "|---" * (len(OUTCOMES) + 4) + "|",
    ]
    for library, known in results.items():
        rows = [known[name] for name in names if name in known]
        counted = Counter(row["outcome"] for row in rows)
        exact = [row for row in rows if row["outcome"] == "exact"]
        numbers = ["-"] * 2
        if exact:
            left = [row["macs_left"] for row in exact]
            numbers = [f"{statistics.mean(left):.3f}", f"{statistics.median(left):.3f}"]
        counts = [str(counted[outcome]) for outcome in OUTCOMES]
        lines.append(f"| {' | '.join([library, str(len(rows)), *counts, *numbers])} |")
    return lines


def _against(names: list[str], results: Results) -> list[str]:
    """Compare slimcnn with each other library on the networks that both prune exactly."""
    lines = []
    ours = results["slimcnn"]
    for library, theirs in results.items():
        both = [n for n in names if _exact(ours, n) and _exact(theirs, n)]
        if library == "slimcnn" or not both:
            continue
        left = [(ours[n]["macs_left"], theirs[n]["macs_left"]) for n in both]
        more = [n for n, (a, b) in zip(both, left, strict=True) if a > b + 0.005]
        lines.append(
            f"On the {len(both)} networks that both prune exactly, slimcnn leaves {statistics.mean(a for a, _ in left):.3f} of the "
            f"MACs (mean) and {library} {statistics.mean(b for _, b in left):.3f}. slimcnn leaves more than {library} (by over "
            f"0.005) on {len(more)}{': ' if more else ''}{', '.join(more)}."
        )
        lines.append("")
    slow = max(
        (row for row in ours.values() if "trace_seconds" in row), key=lambda row: row["trace_seconds"], default=None
    )
    if slow:
        median = statistics.median(row["seconds"] for row in ours.values() if row["outcome"] == "exact")
        lines.append(
            f"slimcnn takes {median:.2f} s of processor time (median where exact); its longest trace: {slow['network']}, "
            f"{slow['trace_seconds']:.2f} s. The times of the libraries are compared side by side in [trace_speed.md](trace_speed.md)."
        )
    return lines


def _exact(known: dict[str, Result], name: str) -> bool:
    return known.get(name, {}).get("outcome") == "exact"


def _table(names: list[str], results: Results) -> list[str]:
    lines = [
        "| network | size | groups | channels | locked layers (most frequent reason) | MACs left | error | seconds | verify |"
        " torch-pruning: outcome | MACs left | kirigami: outcome | MACs left |",
        "|---" * 13 + "|",
    ]
    for name in names:
        ours, theirs, third = (results[library].get(name, {}) for library in ("slimcnn", "torch-pruning", "kirigami"))
        size = next((row["size"] for row in (ours, theirs, third) if "size" in row), "")
        cells = [name, size, ours.get("groups", ""), ours.get("channels", ""), _locked(ours), _left(ours), _error(ours)]
        cells += [_number(ours, "seconds", 2), _number(ours, "verify_seconds", 2)]
        for row in (theirs, third):
            cells += [_outcome(row), _left(row)]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return lines


def _locked(row: Result) -> str:
    reasons = row.get("locked_because")
    if not reasons:
        return str(row.get("locked", ""))
    reason, where, _ = reasons[0]
    return f"{row['locked']} ({reason}{f', {where}' if where else ''})"


def _left(row: Result) -> str:
    return _number(row, "macs_left", 3) if row.get("outcome") in ("exact", "norm", "wrong", "nothing cut") else ""


def _error(row: Result) -> str:
    return f"{row['error']:.0e}" if row.get("outcome") == "exact" else f"**{_outcome(row)}**" if row else ""


def _number(row: Result, key: str, digits: int) -> str:
    return f"{row[key]:.{digits}f}" if key in row else ""


def _outcome(row: Result) -> str:
    return OUTCOMES[row["outcome"]] if row else ""


def _failures(names: list[str], results: Results) -> list[str]:
    """List the message of every result that is not exact, by library."""
    lines = []
    for library, known in results.items():
        rows = [known[name] for name in names if name in known and known[name]["outcome"] != "exact"]
        lines += [f"## Not exact: {library}", "", *(_failure(row) for row in rows), ""] if rows else []
    return lines


def _failure(row: Result) -> str:
    said = row.get("message") or (f"relative error {row['error']:.1e}" if row["outcome"] == "wrong" else "")
    at = f" ({row['place']})" if "place" in row else ""
    return f"* {row['network']}: {OUTCOMES[row['outcome']]}{f', {said}' if said else ''}{at}"
