"""Compare combined methods with single methods: ResNet-56 on CIFAR-10, at the same MACs.

Every row is a chain of steps, run by `slimcnn run --steps ...` in its own folder (so that a killed run resumes). Its report
is stored as combinations/NAME_EPOCHS_MACS.json. The test images are read once, at the end of each run.

    python benchmarks/combinations.py --weights resnet56_cifar10.safetensors              # no training, 2 to 5 minutes per row
    python benchmarks/combinations.py --weights resnet56_cifar10.safetensors --epochs 6   # 1.5 to 10 minutes per epoch
    python benchmarks/combinations.py --table
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RAW = HERE / "combinations"
SIZES = (0.5, 0.35)
UNTRAINED = {
    "l2": "prune:scope=local,macs={m} + recalibrate:images=2048",
    "fpdf": "prune:criterion=fpdf,scope=local,macs={m} + recalibrate:images=2048",
    "l2_least_squares": "prune:scope=local,macs={m} + least_squares",
    "default": "prune:macs={m} + least_squares",
    "two_cuts": "prune:macs=0.7 + least_squares + prune:macs={m},of=reference + least_squares",
    "rewrite_cut": "rewrite + prune:macs={m},of=reference + least_squares",
}
TRAINED = {
    "l2_distill": "prune:scope=local,macs={m} + recalibrate:images=2048 + distill:epochs={e}",
    "default_distill": "prune:macs={m} + least_squares + distill:epochs={e}",
    "l2_train": "prune:scope=local,macs={m} + recalibrate:images=2048 + train:epochs={e}",
    "two_cuts_distill": "prune:macs=0.7 + least_squares + distill:epochs={half} + prune:macs={m},of=reference "
    "+ least_squares + distill:epochs={half}",
}
"""Name → chain. l2 and fpdf are single methods with batch norm recalibration; the others are combinations.

rewrite_cut needs a target below 0.41 of the MACs, because feature reuse alone needs that much.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=0, help="epochs of training; 0: no training")
    parser.add_argument("--names", default="")
    parser.add_argument("--macs", default=",".join(map(str, SIZES)))
    parser.add_argument("--runs", type=Path, default=Path("runs/combinations"))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        table()
        return
    lines = TRAINED if asked.epochs else UNTRAINED
    for macs in map(float, asked.macs.split(",")):
        for name in asked.names.split(",") if asked.names else lines:
            row = RAW / f"{name}_{asked.epochs}_{macs:g}.json"
            if row.exists() or (name == "rewrite_cut" and macs > 0.41):
                continue
            line = lines[name].format(m=macs, e=asked.epochs, half=asked.epochs // 2)
            out = asked.runs / row.stem
            command = [sys.executable, "-m", "slimcnn.cli", "run", "--model", "resnet56", "--weights", str(asked.weights),
                       "--data", "cifar10", "--steps", line, "--out", str(out)]  # fmt: skip
            subprocess.run(command, check=True)
            report = json.loads((out / "report.json").read_text())
            kept = {
                key: report[key] for key in ("before", "after", "steps", "reference_top1", "seconds", "environment")
            }
            kept["verdict"] = report["verdict"]["text"] if report["verdict"] else ""
            row.parent.mkdir(exist_ok=True)
            row.write_text(
                json.dumps({"name": name, "epochs": asked.epochs, "macs": macs, "chain": line, "n": 1} | kept, indent=1)
                + "\n"
            )


def table() -> None:
    print("| epochs | MACs | chain | kept | test top-1 | change | seconds |\n|" + "---|" * 7)
    rows = [json.loads(path.read_text()) for path in RAW.glob("*.json")]
    for row in sorted(rows, key=lambda row: (row["epochs"], -row["macs"], -row["after"]["top1"])):
        before, after = row["before"], row["after"]
        print(
            f"| {row['epochs'] or 'none'} | {row['macs']} | `{row['chain']}` | {after['macs'] / before['macs']:.3f} | "
            f"{after['top1']:.2f} | {after['top1'] - before['top1']:+.2f} | {row['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
