"""Distillation with a scale factor: properties, agreement with other implementations, and the required controls.

    python benchmarks/scale_factor.py --check                        # seconds, no training; exit code 1 if a figure misses its target
    python benchmarks/scale_factor.py --data cifar100:PATH           # the controls: ResNet-32 to ResNet-8, 3 seeds
    python benchmarks/scale_factor.py --cost                         # cost of the teacher: milliseconds per step
    python benchmarks/scale_factor.py --table                        # scale_factor.md from the JSON files

Install torchdistill to compare with its losses; otherwise the comparison is skipped with a message. Results are JSON in
scale_factor/, one file per row. Existing rows are not measured again, and an interrupted training resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rows import environment_lines, measured, meets_target, spread
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.distillation import Teacher, kd_loss, objective_named
from slimcnn.distillation.attention import attention_loss
from slimcnn.distillation.dist import dist_loss
from slimcnn.distillation.rkd import rkd_loss
from slimcnn.distillation.scale_factor import scale_factor_loss
from slimcnn.files import write_text
from slimcnn.objectives import cross_entropy
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "scale_factor"
T = 4.0
VIEWS = 4
CONTROLS = {
    "CE": "cross_entropy",
    "KD": "kd",
    "DKD": "1*cross_entropy+1*dkd:beta=2",
    "NCKD": "1*cross_entropy+1*nckd",
    "KD + centered logits": "kd+0.1*centered_logit_mse",
    "KD, larger step": "0.1*cross_entropy+{factor}*kd",
    "KD + scale factor": "kd+0.5*scale_factor",
    "KD + scale factor, classes": "kd+0.5*scale_factor:level=class",
}
"""In `KD, larger step`, KD's weight is raised until its gradient is as large as that of KD + scale factor."""


# --- checks without training ------------------------------------------------------------------------------------------


def logits(classes: int, n: int = 512) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = 4 * torch.randn(2, n, classes)
    return student.requires_grad_(), teacher, torch.randint(classes, (n,))


def sizes(classes: int) -> tuple[float, float]:
    """Return the largest L1 norm and the largest sum of a sample's gradient."""
    student, teacher, labels = logits(classes)
    (gradient,) = torch.autograd.grad(scale_factor_loss(student, teacher, labels, T) * len(labels), student)
    return float(gradient.abs().sum(1).max()), float(gradient.sum(1).abs().max())


def by_loops(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    total = 0.0
    for s, t, y in zip(student.detach().double(), teacher.double(), labels.tolist(), strict=True):
        others = [j for j in range(len(s)) if j != y]
        weights = (t[others] / T).softmax(0)
        for j, w in zip(others, weights, strict=True):
            e = abs(float((s[j] - s[y] - t[j] + t[y]) / T))
            total += float(w) * (0.5 * e * e if e <= 1 else e - 0.5)
    return T * T * total / len(labels)


def check() -> bool:
    began, good = time.perf_counter(), []
    student, teacher, labels = logits(10, 32)
    found = scale_factor_loss(student, teacher, labels, T).item()
    good.append(
        meets_target(
            "scale factor against its double loop, relative", abs(found / by_loops(student, teacher, labels) - 1), 1e-5
        )
    )
    for classes in (2, 10, 100, 1000):
        largest, sums = sizes(classes)
        good.append(meets_target(f"{classes} classes: L1 norm of a sample's gradient", largest, 2 * T + 1e-4))
        good.append(meets_target(f"{classes} classes: sum of a sample's gradient", sums, 1e-5))
    shifted = scale_factor_loss(teacher + torch.randn(len(teacher), 1), teacher, labels, T)
    good.append(meets_target("logits that agree up to a constant: the loss", float(shifted), 1e-9))
    order = torch.randperm(10)
    renamed = scale_factor_loss(student[:, order], teacher[:, order], order.argsort()[labels], T).item()
    good.append(meets_target("classes renamed: relative change of the loss", abs(renamed / found - 1), 1e-5))
    huge = scale_factor_loss(1e4 * student.sign(), -1e4 * student.sign(), labels, T)
    good.append(meets_target("logits of 1e4: values that are not finite", float(~torch.isfinite(huge)), 0))
    good += against_torchdistill(student, teacher, labels)
    print(f"{time.perf_counter() - began:.0f} s")
    return all(good)


def against_torchdistill(student: Tensor, teacher: Tensor, labels: Tensor) -> list[bool]:
    try:
        from torchdistill.losses import mid_level
    except ImportError:
        print("--    torchdistill is not installed: its losses are not compared")
        return []
    torch.manual_seed(1)
    features = [torch.rand(8, width, 4, 4) for width in (6, 10)]
    outputs = [
        {"s": {"output": student}, "f": {"output": features[0]}},
        {"t": {"output": teacher}, "f": {"output": features[1]}},
    ]
    keys = {"student_module_path": "s", "student_module_io": "output"} | {
        "teacher_module_path": "t",
        "teacher_module_io": "output",
    }
    pair = {"student": {"path": "f", "io": "output"}, "teacher": {"path": "f", "io": "output"}, "factor": 1.0}
    theirs = {
        # With alpha = 0 it omits the factor T^2, so alpha is 1 and the cross entropy is subtracted.
        "kd": mid_level.KDLoss(**keys, temperature=T, alpha=1, beta=1)(*outputs, labels)
        - nn.functional.cross_entropy(student, labels),
        "dist": mid_level.DISTLoss(**keys, beta=1, gamma=1, tau=1)(*outputs),
        "rkd": mid_level.RKDLoss("s", "t", 25.0, 50.0, "mean", student_module_io="output")(*outputs),
        "attention": mid_level.ATLoss({"f": pair}, mode="code")(*outputs),
    }
    ours = {
        "kd": kd_loss(student, teacher, T),
        "dist": dist_loss(student, teacher, 1.0),
        "rkd": rkd_loss(student, teacher),
        "attention": attention_loss(*features),
    }
    return [
        meets_target(
            f"{name}: against torchdistill's, relative",
            abs(float(ours[name].detach() / theirs[name].detach()) - 1),
            1e-4,
        )
        for name in ours
    ]


# --- accuracy ---------------------------------------------------------------------------------------------------------


def trained_teacher(options: argparse.Namespace, data: Dataset) -> nn.Module:
    """Return the teacher, trained and measured once."""
    torch.manual_seed(100)
    network = slimcnn.build("resnet32", num_classes=len(data.classes))
    weights, epochs = options.state / "teacher.safetensors", options.teacher_epochs

    def row() -> dict:
        training = Training(epochs=epochs, seed=100, layout="nchw", precision="bf16-mixed", schedule="one_cycle")
        for _ in slimcnn.fit(network, data, training=training, folder=options.state / "teacher"):
            pass
        slimcnn.save(network, weights)
        top1 = slimcnn.evaluate(network, data.test, data.normalization).top1
        return {"kind": "teacher", "network": "resnet32", "epochs": epochs, "top1": top1}

    if weights.exists():
        return slimcnn.load(weights).eval()
    measured(options.raw / "teacher.json", row, "top1")
    return network.eval()


def taught(name: str, spec: str, network: nn.Module, seed: int, options: argparse.Namespace, data: Dataset) -> dict:
    """Train a student with one loss; teacher logits for `VIEWS` views per image are cached for all losses."""
    torch.manual_seed(seed)
    student = slimcnn.build("resnet8", num_classes=len(data.classes), in_channels=3)
    answers = options.state / f"answers_{seed}.npy"
    teacher = Teacher(network).cached(answers, images=len(data.train), views=VIEWS)
    objective = objective_named(spec, teacher) if "kd" in spec else cross_entropy()
    training = Training(epochs=options.epochs, seed=seed, layout="nchw", precision="bf16-mixed", views=VIEWS)
    folder = options.state / f"{slug(name)}_{seed}_{options.epochs}"
    history = [
        {"validation_top1": epoch.validation_metric, "seconds": epoch.seconds, "terms": epoch.terms, "gradients": epoch.gradients}
        for epoch in slimcnn.fit(student, data, training=training, objective=objective, folder=folder)
    ]  # fmt: skip
    slimcnn.save(student, folder.with_suffix(".safetensors"))
    return {
        "kind": "taught", "way": name, "loss": spec, "seed": seed, "epochs": options.epochs, "history": history,
        "top1": slimcnn.evaluate(student, data.test, data.normalization).top1,
    }  # fmt: skip


def slug(name: str) -> str:
    return name.lower().replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def matched_factor(raw: Path, epochs: int) -> float:
    """Return the weight at which KD's gradient is as large as that of KD and scale factor together, for seed 0."""
    history = json.loads((raw / f"kd_scale_factor_0_{epochs}.json").read_text())["history"]
    sizes = [epoch["gradients"] for epoch in history]
    return 0.9 * statistics.mean((one["kd"] + one["scale_factor"]) / one["kd"] for one in sizes)


def rows(options: argparse.Namespace) -> None:
    data = load_dataset(options.data)
    options.state.mkdir(parents=True, exist_ok=True)
    network = trained_teacher(options, data)
    order = sorted(CONTROLS, key=lambda name: name == "KD, larger step")
    for seed in range(options.seeds):
        for name in order:
            path = options.raw / f"{slug(name)}_{seed}_{options.epochs}.json"
            spec = CONTROLS[name]
            if "{factor}" in spec and not path.exists():
                spec = spec.format(factor=round(matched_factor(options.raw, options.epochs), 3))
            measured(path, partial(taught, name, spec, network, seed, options, data), "way", "seed", "top1")


def cost(raw: Path) -> None:
    """Measure the milliseconds of a step of 128 images: the student alone, and with each form of the teacher."""
    torch.set_num_threads(1)
    student, network = slimcnn.build("resnet20").train(), slimcnn.build("resnet56")
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    teacher = Teacher(network)
    plain, with_teacher = cross_entropy(), objective_named("kd+scale_factor", teacher)
    folder = tempfile.TemporaryDirectory()
    kept = Teacher(network).cached(Path(folder.name) / "answers.npy", 128, views=1)
    from_file = objective_named("kd+scale_factor", kept)

    def with_kept(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        kept.seeing(torch.arange(128), 0)
        return from_file(model, images, labels).total

    def naive(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return kd_loss(model(images), network.eval()(images), T)  # builds the teacher's autograd graph and discards it

    def step(loss: Callable[[], Tensor], bf16: bool) -> Callable[[], None]:
        def run() -> None:
            student.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss()
            value.backward()

        return run

    found = {}
    for precision, bf16 in (("32", False), ("bf16-mixed", True)):
        calls = {
            "student alone": step(lambda: plain(student, x, y).total, bf16),
            "teacher as a plain network": step(lambda: naive(student, x, y), bf16),
            "teacher as here, two terms": step(lambda: with_teacher(student, x, y).total, bf16),
            "its answers from the file": step(lambda: with_kept(student, x, y), bf16),
        }
        for call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(8):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                taken[name].append(1e3 * (time.perf_counter() - began))
        found[precision] = {name: statistics.median(times) for name, times in taken.items()}
    measured(raw / "cost.json", lambda: {"kind": "cost", "threads": 1, "batch": 128, "ms": found}, "top1", "ms")


# --- the page ---------------------------------------------------------------------------------------------------------


def table(raw: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]
    lines = ["# Distillation with a scale factor", "", INTRODUCTION, ""]
    for one in (one for one in found if one["kind"] == "teacher"):
        lines += [f"Teacher: {one['network']}, {one['epochs']} epochs, test top-1 {one['top1']:.2f} %.", ""]
    groups: dict[tuple[int, str], dict[int, dict]] = {}
    for one in found:
        if one["kind"] == "taught":
            groups.setdefault((one["epochs"], one["way"]), {})[one["seed"]] = one
    lines += [
        "| loss | terms | n | test top-1, % | minus KD, same seeds | gradient at the logits, last epoch |",
        "|---|---|---|---|---|---|",
    ]
    for (epochs, way), by_seed in sorted(groups.items(), key=lambda item: list(CONTROLS).index(item[0][1])):
        plain = groups.get((epochs, "KD"), {})
        gains = [one["top1"] - plain[seed]["top1"] for seed, one in by_seed.items() if seed in plain]
        size = ", ".join(f"{name} {value:.2f}" for name, value in by_seed[0]["history"][-1]["gradients"].items())
        gain = spread(gains) if gains and way != "KD" else "–"
        top1 = spread([one["top1"] for one in by_seed.values()])
        lines.append(f"| {way} | `{by_seed[0]['loss']}` | {len(by_seed)} | {top1} | {gain} | {size or '–'} |")
    lines += [""]
    for one in (one for one in found if one["kind"] == "cost"):
        lines += ["## Cost of the teacher", "", f"A step of {one['batch']} images, one thread, ms:", ""]
        lines += ["| | float32 | bf16 mixed |", "|---|---|---|"]
        lines += [
            f"| {name} | {ms:.0f} | {one['ms']['bf16-mixed'][name]:.0f} |" for name, ms in one["ms"]["32"].items()
        ]
        lines += [""]
    lines += environment_lines(found)
    notes = HERE / "scale_factor_notes.md"
    lines += [notes.read_text()] if notes.exists() else []
    write_text(HERE / "scale_factor.md", "\n".join(lines).rstrip() + "\n")


INTRODUCTION = """`python benchmarks/scale_factor.py --check` runs the checks without training. Below: a ResNet-8 student (81,140 parameters) from scratch on CIFAR-100, 10 epochs,
with a ResNet-32 teacher: SGD 0.1, batch 128, cosine, bf16 mixed precision, four fixed views per image (cached teacher logits), the same seeds
for every loss; test images read once at the end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--data", default="cifar100", help="a dataset's name, or name:PATH")
    parser.add_argument("--teacher-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path("runs/scale_factor"))
    parser.add_argument("--raw", type=Path, default=RAW)
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check() else 1)
    if options.cost:
        cost(options.raw)
    elif not options.table:
        rows(options)
    table(options.raw)


if __name__ == "__main__":
    main()
