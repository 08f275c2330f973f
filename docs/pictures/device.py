"""Draw the picture of the README from the rows of benchmarks/device: python docs/pictures/device.py."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {
    "original": ("original", "#555555", -12, -12, "end"),
    "openvino_0.75/compressed": ("--latency 0.75", "#4477aa", 10, -4, "start"),
    "macs_0.5/compressed": ("--macs 0.5", "#4477aa", 10, 12, "start"),
    "onnxruntime_0.6/compressed": ("planned for ONNX Runtime", "#4477aa", 10, 5, "start"),
    "macs_0.35/compressed": ("--macs 0.35", "#4477aa", 10, 5, "start"),
    "openvino_0.6/compressed": ("--latency 0.6", "#4477aa", 10, 5, "start"),
    "macs_0.5/int8": ("--macs 0.5, int8", "#228833", -10, -8, "end"),
}
"""Network -> label, color, offset of the label, its anchor."""
LEFT, TOP, WIDTH, HEIGHT = 60, 30, 560, 260
FASTEST, SLOWEST, WORST, BEST = 1.0, 4.0, 86.0, 94.0


def picture() -> str:
    """Test top-1 against milliseconds of a call in OpenVINO, batch 1, one thread."""
    found = json.loads((ROOT / "benchmarks" / "device" / "plans.json").read_text(encoding="utf-8"))["benchmark"]
    rows = {row["network"]: row for row in found["rows"] if row["runtime"] == "openvino" and row["batch"] == 1}
    shapes = []
    for percent in range(86, 95, 2):
        y = _y(percent)
        shapes.append(f'<path d="M{LEFT} {y}H{LEFT + WIDTH}" class="grid"/>')
        shapes.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{percent}</text>')
    for time in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0):
        shapes.append(f'<text x="{_x(time)}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{time:g}</text>')
    for name, (label, color, dx, dy, anchor) in NAMES.items():
        time, top1 = rows[name]["latency"]["median_ms"], rows[name]["top1"]
        x, y = _x(time), _y(top1)
        shapes.append(f'<circle cx="{x}" cy="{y}" r="6" fill="{color}"/>')
        shapes.append(f'<text x="{x + dx}" y="{y + dy}" text-anchor="{anchor}">{label}</text>')
    shapes.append(f'<text x="{LEFT}" y="18">ResNet-56 on CIFAR-10, no training, no labels: test top-1, %</text>')
    under = "milliseconds a call in OpenVINO, batch 1, one thread (median)"
    shapes.append(f'<text x="{LEFT + WIDTH}" y="{TOP + HEIGHT + 42}" text-anchor="end">{under}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 345" width="660">'
        "<style>text{font:13px sans-serif;fill:#222}.grid{stroke:#ddd}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>\n'
    )


def _x(time: float) -> float:
    return round(LEFT + WIDTH * (time - FASTEST) / (SLOWEST - FASTEST), 1)


def _y(percent: float) -> float:
    return round(TOP + HEIGHT * (BEST - percent) / (BEST - WORST), 1)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
