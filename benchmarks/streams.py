"""Images decoded while they are read: images per second against a plain DataLoader loop, memory, first batch, resuming.

    python benchmarks/streams.py                     # 20,000 JPEGs of 1500 x 1000; adds rows to streams.json
    python benchmarks/streams.py --images 200        # the same at a small scale
    python benchmarks/streams.py --augmentations     # the cost of each augmentation; adds a row to augmentations.json
    python benchmarks/streams.py --scaling           # training from a stream in one and two processes; adds a row to scaling.json
    python benchmarks/streams.py --table > streams.md
    python benchmarks/streams.py --check             # under 2 minutes; exits 1 if one falls short

The JPEGs are made: 100 pictures of noise over shades, written under several names. Both loops decode the same files with the
same transforms (bicubic to 224, center crop, normalize), workers and batch size, in turn; the ratio is the median of the
rounds. Memory is the proportional set size (PSS) of the process and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from rows import environment_lines
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from slimcnn.datasets import Augmentation, Dataset, Images, Normalization, augmentations, batches, load_dataset
from slimcnn.datasets.augmenting import mixing
from slimcnn.measuring import environment
from slimcnn.training.mixing import mixed_pairs

HERE = Path(__file__).parent
RAW, RAW_AUGMENTATIONS, RAW_SCALING = (HERE / f"{name}.json" for name in ("streams", "augmentations", "scaling"))
PROCESSES = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
DISTINCT, CLASSES, SIZE, BATCH, ROUNDS = 100, 4, 224, 16, 3
LEAST_RATIO, MOST_GROWTH, MOST_SECONDS = 1.0, 0.05, 5.0


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write `count` JPEGs in folders of classes: a part of them distinct, the others under further names."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        path, first = place / f"{number:06}.jpg", number % (DISTINCT - DISTINCT % CLASSES)
        if first != number:
            os.link(folder / f"class{first % CLASSES}" / f"{first:06}.jpg", path)
            continue
        shades = generator.integers(0, 256, (12, 8, 3), dtype=np.uint8).transpose(1, 0, 2)
        smooth = np.asarray(Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + generator.integers(-20, 20, smooth.shape, dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def plain_loop(folder: Path, workers: int, data: Dataset) -> Iterator[torch.Tensor]:
    """What a script does: ImageFolder, transforms per image, DataLoader."""
    transform = v2.Compose(
        [
            lambda picture: ImageOps.fit(picture, (SIZE, SIZE)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(data.normalization.mean), list(data.normalization.std)),
        ]
    )
    loader = DataLoader(ImageFolder(str(folder), transform), BATCH, shuffle=True, num_workers=workers)
    return (x for x, _ in loader)


def our_loop(data: Dataset, *, start: int = 0) -> Iterator[torch.Tensor]:
    return (x for x, _ in batches(data.train, BATCH, normalization=data.normalization, seed=0, start=start))


def speed(feed: Iterator[torch.Tensor]) -> float:
    began, images = time.perf_counter(), 0
    for x in feed:
        images += len(x)
    return images / (time.perf_counter() - began)


def memory() -> int:
    """Return the bytes of this process and its children."""
    return sum(_pss(pid) for pid in [os.getpid(), *_children()])


def _children() -> list[int]:
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def seconds_to_first(feed: Iterator[torch.Tensor]) -> float:
    began = time.perf_counter()
    next(feed)
    return time.perf_counter() - began


def grown(data: Dataset) -> list[int]:
    """Return the memory during an epoch, five times, in its second half: before, the allocator fills its pools."""
    total = -(-len(data.train) // BATCH)
    feed, found = our_loop(data), []
    for number, _ in enumerate(feed, 1):
        if number % max(total // 10, 1) == 0:
            found.append(memory())
    return found[len(found) // 2 :]


def evidence(images: int, size: tuple[int, int], workers: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        make_photos(folder, images, size)
        began = time.perf_counter()
        data = load_dataset(folder, image_size=SIZE, stream=True, workers=workers)
        first = time.perf_counter() - began + seconds_to_first(our_loop(data))
        # The plain loop reads all images, ours the training part: both are speeds.
        pairs = [(speed(our_loop(data)), speed(plain_loop(folder, workers, data))) for _ in range(rounds)]
        middle = -(-len(data.train) // BATCH) // 2
        used = grown(data)
        return {
            "images": images, "size": f"{size[0]} x {size[1]}", "workers": workers, "batch": BATCH,
            "stream_images_per_second": [round(ours, 2) for ours, _ in pairs],
            "plain_images_per_second": [round(plain, 2) for _, plain in pairs],
            "ratio": round(statistics.median(ours / plain for ours, plain in pairs), 3),
            "first_batch_seconds": round(first, 2),
            "resume_in_mid_epoch_seconds": round(seconds_to_first(our_loop(data, start=middle)), 2),
            "memory_mb": [round(each / 1e6) for each in used],
            "growth": round(max(used) / used[0] - 1, 4),
            "load_average": round(os.getloadavg()[0], 1),
            "when": datetime.now().isoformat(timespec="minutes"),
            "environment": environment(),
        }  # fmt: skip


def augmentation_costs(seconds: float) -> dict:
    """Return images per second of one process for each augmentation, on images of 224 x 224 in memory, in turn."""
    pixels = torch.randint(
        0, 256, (BATCH, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    images = Images(pixels, torch.arange(BATCH))
    plain = {"normalization": Normalization((0.5,) * 3, (0.25,) * 3), "seed": 0}
    found: dict[str, list[float]] = {name: [] for name in ("none", *(entry.name for entry in augmentations))}
    for _ in range(ROUNDS):
        for name, speeds in found.items():
            chosen = Augmentation.named(name)
            began, epochs = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                for x, y in batches(images, BATCH, **plain, augmentation=chosen, epoch=epochs):
                    if pairs := mixing(chosen.others):
                        mixed_pairs(x, y, pairs, str(epochs))
                epochs += 1
            speeds.append(epochs * BATCH / (time.perf_counter() - began))
    return {
        "images": f"{BATCH} of {SIZE} x {SIZE}", "rounds": ROUNDS,
        "images_per_second": {name: [round(one, 1) for one in speeds] for name, speeds in found.items()},
        "load_average": round(os.getloadavg()[0], 1), "when": datetime.now().isoformat(timespec="minutes"),
        "environment": environment(),
    }  # fmt: skip


def augmentations_table(rows: list[dict]) -> list[str]:
    """Return the table of the last row: images per second, and milliseconds more for an image than without."""
    if not rows:
        return []
    last = rows[-1]
    lines = [
        "",
        "## Cost of each augmentation",
        "",
        f"Made by `python benchmarks/streams.py --augmentations`, from [augmentations.json](augmentations.json): {last['images']} pixels in",
        f"memory, one process, the median of {last['rounds']} rounds in turn; normalization is included. Load average {last['load_average']}.",
        "",
        "| augmentation | images/s | ms for an image, more than none |",
        "|---|---|---|",
    ]
    speeds = {name: statistics.median(found) for name, found in last["images_per_second"].items()}
    for name, speed in speeds.items():
        lines.append(f"| `{name}` | {speed:.0f} | {1000 / speed - 1000 / speeds['none']:.2f} |")
    return lines


def scaling(images: int, epochs: int = 3) -> dict:
    """Train from a stream with one and two processes; return the images per second of every epoch but the first."""
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        make_photos(folder, images, (300, 200))
        for name, (processes, threads) in PROCESSES.items():
            command = [
                sys.executable, "-m", "slimcnn.cli", "train", "--model", "resnet20", "--data", str(folder), "--image-size", "64",
                "--stream", "--set", "data.workers=1", "--epochs", str(epochs), "--devices", str(processes),
                "--out", str(Path(place) / name.replace(" ", "_")), "--set", "train.layout=channels_last", "--set", "train.precision=32",
            ]  # fmt: skip
            found = subprocess.run(
                command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
            )
            rates = [
                float(rate.replace(",", "")) for rate in re.findall(r"([\d,]+) images/s", found.stdout + found.stderr)
            ]
            if found.returncode or len(rates) < epochs:
                raise RuntimeError(f"{name}: exit {found.returncode}, {len(rates)} epochs\n{found.stderr[-2000:]}")
            speeds[name] = rates[1:epochs]
    return {
        "images": images, "network": "resnet20 at 64 x 64", "images_per_second": speeds, "load_average": round(os.getloadavg()[0], 1),
        "when": datetime.now().isoformat(timespec="minutes"), "environment": environment(),
    }  # fmt: skip


def scaling_table(rows: list[dict]) -> list[str]:
    """Return the table of the last row."""
    if not rows:
        return []
    last = rows[-1]
    speeds = {name: statistics.median(found) for name, found in last["images_per_second"].items()}
    one = speeds[next(iter(PROCESSES))]
    return [
        "",
        "## Training in several processes",
        "",
        f"{last['network']}, {last['images']:,} JPEGs of 300 x 200 streamed, one worker for each process, float32: images per second of",
        "training, the median of the epochs after the first. More processes are for more processors or GPUs.",
        "",
        "| | images/s | times |",
        "|---|---|---|",
        *(f"| {name} | {speed:.0f} | {speed / one:.2f} |" for name, speed in speeds.items()),
    ]


def shortfalls(found: dict, least_ratio: float) -> list[str]:
    wrong = []
    if found["ratio"] < least_ratio:
        wrong.append(f"{found['ratio']} of the speed of a plain loop: expected {least_ratio}")
    if found["growth"] > MOST_GROWTH:
        wrong.append(f"memory grew by {100 * found['growth']:.1f} %: expected at most {100 * MOST_GROWTH:.0f} %")
    if found["first_batch_seconds"] > MOST_SECONDS:
        wrong.append(f"first batch after {found['first_batch_seconds']} s: expected at most {MOST_SECONDS} s")
    return wrong


def page(rows: list[dict]) -> str:
    lines = [
        "# Images decoded while they are read",
        "",
        "Made by `python benchmarks/streams.py --table` from [streams.json](streams.json). The loops ran in turn; what both do is",
        "in the docstring of [streams.py](streams.py). A load average above the number of processors means that other programs",
        "took part of the machine: compare within a row only.",
        "",
        "| JPEGs | workers | stream, images/s | plain loop, images/s | ratio | first batch | resume in mid-epoch | memory during the epoch | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, plain = (statistics.median(row[f"{way}_images_per_second"]) for way in ("stream", "plain"))
        used = f"{min(row['memory_mb'])} to {max(row['memory_mb'])} MB"
        lines.append(
            f"| {row['images']:,} of {row['size']} | {row['workers']} | {ours:.1f} | {plain:.1f} | {row['ratio']:.2f} | "
            f"{row['first_batch_seconds']:.1f} s | {row['resume_in_mid_epoch_seconds']:.1f} s | {used} | {row['load_average']} |"
        )
    costs, scaled = (json.loads(path.read_text()) if path.exists() else [] for path in (RAW_AUGMENTATIONS, RAW_SCALING))
    return (
        "\n".join(
            [
                *lines,
                *augmentations_table(costs),
                *scaling_table(scaled),
                "",
                *environment_lines(rows + costs[-1:] + scaled[-1:]),
                "Repeat: `python benchmarks/streams.py`",
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--augmentations", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each augmentation and round")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print(page(json.loads(RAW.read_text())), end="")
        return
    if asked.augmentations:
        torch.set_num_threads(1)
        rows = json.loads(RAW_AUGMENTATIONS.read_text()) if RAW_AUGMENTATIONS.exists() else []
        rows.append(augmentation_costs(asked.seconds))
        RAW_AUGMENTATIONS.write_text(json.dumps(rows, indent=1) + "\n")
        print("\n".join(augmentations_table(rows)))
        return
    if asked.scaling:
        rows = json.loads(RAW_SCALING.read_text()) if RAW_SCALING.exists() else []
        rows.append(scaling(2000))
        RAW_SCALING.write_text(json.dumps(rows, indent=1) + "\n")
        print("\n".join(scaling_table(rows)))
        return
    if asked.check:
        found = evidence(640, (300, 200), 2, 2)
        print(json.dumps({key: value for key, value in found.items() if key != "environment"}, indent=1))
        # One tenth of tolerance: rounds of a few seconds scatter.
        wrong = shortfalls(found, 0.9 * LEAST_RATIO)
        print("\n".join(wrong) or "all as promised")
        sys.exit(bool(wrong))
    found = evidence(asked.images, (1500, 1000), asked.workers, asked.rounds)
    rows = json.loads(RAW.read_text()) if RAW.exists() else []
    RAW.write_text(json.dumps([*rows, found], indent=1) + "\n")
    print(page([found]), "\n".join(shortfalls(found, LEAST_RATIO)), sep="\n")


if __name__ == "__main__":
    main()
