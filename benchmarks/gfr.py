"""GFR: exactness, pruning without fine-tuning against slimming, relations alone and L1, and the cost of a search.

    python benchmarks/gfr.py --check                     # under a minute, no training; exit code 1 if a figure misses its target
    python benchmarks/gfr_training.py --way product ...  # sparsity training, once for every way (see there)
    python benchmarks/gfr.py --state DIR                 # the tables; JSON in gfr/, one file per row, measured once
    python benchmarks/gfr.py --state DIR --fine-tune 6   # also remove 61.7 % of the MACs and fine-tune (networks with weights)
    python benchmarks/gfr.py --table                     # gfr.md from the JSON files

DIR holds the output of gfr_training.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rows import environment_lines, measured, meets_target
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Dataset, Normalization, batches, load_dataset
from slimcnn.distillation import cross_entropy, kd
from slimcnn.files import write_text
from slimcnn.layers.relating import relating_of, relations_in
from slimcnn.models import load_weights
from slimcnn.pruning import Plan, verify
from slimcnn.searching import Evaluator, Outcome, Search, StudyStorage, join, search
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "gfr"
EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RATIOS = (0.4, 0.6, 0.7)
RELATED = ("gfr", "gfr:a=1", "gfr:a=0", "l1")
CRITERIA = {
    "related": RELATED, "random": RELATED, "sample": ("gfr", "gfr:a=1", "gfr:a=0"), "product": ("gfr", "gfr:a=1"),
    "l1": ("bn_scale", "l1"),
}  # fmt: skip
NAMES = {"gfr": "GFR, a = 0.5", "gfr:a=1": "a = 1: scale alone", "gfr:a=0": "a = 0: relation alone", "l1": "L1 of filters",
         "bn_scale": "slimming"}  # fmt: skip


# --- checks without training ------------------------------------------------------------------------------------------


def check() -> bool:
    began = time.perf_counter()
    good = [
        *(meets_target(f"{name}: folded against with relations, float64, relative", fold_error(name), 1e-6)
          for name in ("vgg16", "resnet56")),
        meets_target("ResNet-56, 61.7 % of the MACs: channels in which a = 1 and slimming differ", slimming_difference(), 0),
        meets_target("ResNet-56, relations inside: error of prune against mask, float64", law_error(), 1e-9),
        meets_target("search by two processes against one: points and winner that differ", search_difference(), 0),
    ]  # fmt: skip
    print(f"{time.perf_counter() - began:.0f} s")
    return all(good)


def taught(name: str) -> nn.Module:
    """Build a network with relations and with varied weights, statistics and relations."""
    torch.manual_seed(0)
    model = slimcnn.insert_relations(slimcnn.build(name).eval(), EXAMPLE).double()
    with torch.no_grad():
        for _, norm in relations_in(model):
            for tensor, low, high in (
                (norm.weight, 0.05, 1.5), (norm.bias, -0.3, 0.3), (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 1.5), (norm.sr, 0.1, 0.9),
            ):  # fmt: skip
                tensor.uniform_(low, high)
    return model


def fold_error(name: str) -> float:
    model = taught(name)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        return float((slimcnn.fold_relations(model)(x) - expected).abs().max() / expected.abs().max())


def slimming_difference() -> int:
    model = taught("resnet56")
    graph = slimcnn.trace(model, EXAMPLE.double())
    target = slimcnn.Target(macs=1 - 0.617, scope="global", residual="inner")
    ours, theirs = (
        slimcnn.allocate(graph, slimcnn.score(model, graph, criterion), target) for criterion in ("gfr:a=1", "bn_scale")
    )
    return sum(len(set(ours.removed.get(g.name, ())) ^ set(theirs.removed.get(g.name, ()))) for g in graph.groups)


def law_error() -> float:
    model = taught("resnet56")
    graph = slimcnn.trace(model, EXAMPLE.double())
    target = slimcnn.Target(pruning_ratio=0.4, scope="global", residual="inner")
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "gfr"), target)
    small = slimcnn.prune(model, graph, plan, verify=False)
    verdict = verify(slimcnn.mask(model, graph, plan), small, graph, plan)
    return verdict.error if verdict.equal else float("inf")


SETTINGS = Search(max_drop=60, pruning_ratios=(0.1, 0.3, 0.5), options={"a": (0.5, 1)}, refine=0.05)


def digits() -> Evaluator:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = load_dataset("digits").limit(300)
    model = slimcnn.insert_relations(slimcnn.build("resnet8"), torch.zeros(1, 1, 8, 8))
    for _ in slimcnn.fit(model, data, training=slimcnn.Training(epochs=4, layout="nchw", precision="32")):
        pass
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    return Evaluator(model, graph, data.validation, data.normalization, batch=32)


def search_difference() -> int:
    evaluator = digits()
    with tempfile.TemporaryDirectory() as folder:
        alone = search(evaluator, SETTINGS, StudyStorage.open(Path(folder) / "alone.log", "one", SETTINGS))
        shared = str(Path(folder) / "shared.log")
        storage = StudyStorage.open(shared, "one", SETTINGS)
        storage.set_attr("base", alone.base)
        helper = subprocess.Popen([sys.executable, __file__, "--help-search", shared])
        together = search(evaluator, SETTINGS, storage)
        helper.wait()
    points = [[one.point for one in found.outcomes] for found in (alone, together)]
    same = (alone.best.point, alone.best.macs, alone.best.metric) == (
        together.best.point,
        together.best.macs,
        together.best.metric,
    )
    return sum(a != b for a, b in zip(*points, strict=False)) + abs(len(points[0]) - len(points[1])) + (not same)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def rows(state: Path, raw: Path, fine_tune: int, rate: float, parts: str) -> None:
    data = replace(load_dataset("cifar10"), normalization=IMAGENET)
    for path in sorted(state.glob("*.json")):
        facts = json.loads(path.read_text())
        model = slimcnn.load(path.with_suffix(".safetensors"))
        graph = slimcnn.trace(model, EXAMPLE)
        measured(raw / f"{path.stem}.json", partial(about, facts, model, data), "macs", "top1", "best")
        for criterion in CRITERIA.get(facts["way"], ()) if "rows" in parts else ():
            for ratio in RATIOS:
                name = f"{path.stem}_{criterion.replace(':', '-').replace('=', '')}_{ratio:g}.json"
                measured(raw / name, partial(row, facts, model, graph, criterion, ratio, data), "macs", "top1", "best")
        if "gfr" in CRITERIA.get(facts["way"], ()) and "search" in parts:
            measured(
                raw / f"{path.stem}_search.json", partial(searched, facts, model, graph, data), "macs", "top1", "best"
            )
        if "border" in parts and CRITERIA.get(facts["way"]):
            found = partial(border, facts, model, graph, CRITERIA[facts["way"]][0], data)
            measured(raw / f"{path.stem}_border.json", found, "top1")
        if fine_tune and facts["weights"]:
            name = f"{path.stem}_tuned_{fine_tune}" + (f"_{rate:g}" if rate != 0.02 else "")
            run = partial(tuned, facts, model, graph, CRITERIA[facts["way"]][0], data, fine_tune, rate, state / name)
            measured(raw / f"{name}.json", run, "macs", "top1")


def about(facts: dict, model: nn.Module, data: Dataset) -> dict:
    return {
        "kind": "network", **common(facts), "epochs": facts["epochs"], "strength": facts["strength"],
        "history": facts["history"], "top1": test(model, data),
    }  # fmt: skip


def common(facts: dict) -> dict:
    return {name: facts[name] for name in ("network", "width", "way", "seed")}


def row(
    facts: dict, model: nn.Module, graph: slimcnn.ChannelGraph, criterion: str, ratio: float, data: Dataset
) -> dict:
    target = slimcnn.Target(pruning_ratio=ratio, scope="global", residual="inner", min_channels=2, min_share=0.05)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, criterion), target)
    small = slimcnn.prune(model, graph, plan)
    top1 = {"cut": test(small, data)}
    slimcnn.fold_constants(small, model, graph, plan)
    top1["constants"] = test(small, data)
    small = slimcnn.prune(model, graph, plan)
    if relating_of(small):
        small = slimcnn.fold_relations(small)
    slimcnn.recalibrate(small, images(data))
    top1["bn"] = test(small, data)
    return {
        "kind": "row", **common(facts), "criterion": criterion, "ratio": ratio,
        "macs": graph.macs(plan.counts(graph)) / graph.macs(), "top1": top1,
    }  # fmt: skip


def border(facts: dict, model: nn.Module, graph: slimcnn.ChannelGraph, criterion: str, data: Dataset) -> dict:
    """Separate the causes of lost accuracy: scales that were not exactly zero, and the border, where zeros are padded.

    With their scales set to zero, removed channels are constants. Folding the constants into the next layers differs
    from that only at the border.
    """
    found = {}
    for ratio in RATIOS:
        target = slimcnn.Target(pruning_ratio=ratio, scope="global", residual="inner", min_channels=2, min_share=0.05)
        plan = slimcnn.allocate(graph, slimcnn.score(model, graph, criterion), target)
        silent = copy.deepcopy(model)
        scales = dict(silent.named_parameters())
        with torch.no_grad():
            for name, channels in plan.removed.items():
                for axis in graph[name].norms:
                    scales[axis.parameter][axis.positions[list(channels)].flatten()] = 0
        small = slimcnn.prune(model, graph, plan)
        cut = test(small, data)
        slimcnn.fold_constants(small, model, graph, plan)
        found[f"{ratio:g}"] = {"scales zero": test(silent, data), "constants folded": test(small, data), "cut": cut}
    return {"kind": "border", **common(facts), "criterion": criterion, "base": test(model, data), "top1": found}


def searched(facts: dict, model: nn.Module, graph: slimcnn.ChannelGraph, data: Dataset) -> dict:
    """Run the search of `compress --method gfr`; then time single points, masked and pruned."""
    target = slimcnn.Target(pruning_ratio=0.5, scope="global", residual="inner", min_channels=2, min_share=0.05)

    def constants(small: nn.Module, plan: Plan) -> None:
        slimcnn.fold_constants(small, model, graph, plan)

    evaluator = Evaluator(model, graph, data.validation, IMAGENET, "gfr", target, recover=constants)
    settings = Search(max_drop=0.5, options={"a": (0.25, 0.5, 0.75, 1)})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = search(evaluator, settings, StudyStorage.open(Path(folder) / "points.log", "one", settings))
        seconds = time.perf_counter() - began
    plan = evaluator.plan(found.best.point)
    small = slimcnn.prune(model, graph, plan)
    slimcnn.fold_constants(small, model, graph, plan)
    a_point = {way: seconds_of(replace(evaluator, recover=None, way=way)) for way in ("mask", "cut")}
    evaluated = [one for one in found.outcomes if one.metric is not None]
    return {
        "kind": "search", **common(facts), "base": found.base, "best": _outcome(found.best), "test": test(small, data),
        "test_base": test(model, data), "points": len(found.outcomes), "evaluated_whole": len(evaluated),
        "search_seconds": seconds, "seconds_of_a_point": a_point, "tried": [_outcome(one) for one in found.outcomes],
    }  # fmt: skip


def _outcome(found: Outcome) -> dict:
    """Return an outcome as a row; its metric is top-1."""
    return {"top1" if name == "metric" else name: value for name, value in vars(found).items()}


def tuned(
    facts: dict, model: nn.Module, graph: slimcnn.ChannelGraph, criterion: str, data: Dataset, epochs: int, rate: float,
    folder: Path,
) -> dict:  # fmt: skip
    """Remove 61.7 % of the MACs, the authors' figure, and distill from the published network."""
    target = slimcnn.Target(macs=1 - 0.617, scope="global", residual="inner", min_channels=2, min_share=0.05)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, criterion), target)
    small = slimcnn.prune(model, graph, plan)
    slimcnn.fold_constants(small, model, graph, plan)
    if relating_of(small):
        small = slimcnn.fold_relations(small)
    teacher = slimcnn.build(facts["network"]).eval()
    load_weights(teacher, Path(facts["weights"]))
    found = {"published": test(teacher, data), "sparse": test(model, data), "cut": test(small, data)}
    slimcnn.recalibrate(small, images(data))
    found["bn"] = test(small, data)
    training = Training(epochs=epochs, learning_rate=rate, layout="channels_last", precision="bf16-mixed")
    validation = [
        epoch.validation_metric
        for epoch in slimcnn.fit(
            small, data, training=training, objective=0.1 * cross_entropy() + 0.9 * kd(teacher), folder=folder
        )
    ]
    found["tuned"] = test(small, data)
    return {
        "kind": "tuned", **common(facts), "criterion": criterion, "sparse_epochs": facts["epochs"], "epochs": epochs, "rate": rate,
        "macs": graph.macs(plan.counts(graph)) / graph.macs(), "top1": found, "validation": validation,
    }  # fmt: skip


def seconds_of(evaluator: Evaluator) -> dict[str, float]:
    found = {}
    for ratio in (0.2, 0.5, 0.8):
        began = time.perf_counter()
        evaluator.attempt({"pruning_ratio": ratio, "a": 0.5}, 0.0, 1.0)
        found[f"{ratio:g}"] = time.perf_counter() - began
    return found


def images(data: Dataset) -> Iterator[Tensor]:
    feed = batches(data.train, 128, normalization=data.normalization, seed=0)
    return (x for x, _ in islice(feed, 200))


def test(model: nn.Module, data: Dataset) -> float:
    return slimcnn.evaluate(model, data.test, data.normalization).top1


# --- the page ---------------------------------------------------------------------------------------------------------


def table(raw: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]
    lines = ["# GFR: pruning without fine-tuning", "", INTRODUCTION, ""]
    lines += pictures(found)
    for network in (one for one in found if one["kind"] == "network"):
        key = common(network)
        lines += head(network)
        cuts = [one for one in found if one["kind"] == "row" and common(one) == key]
        if cuts:
            lines += [
                "| criterion | channels removed | MACs left | cut | constants folded | bn re-estimated |",
                "|---|---|---|---|---|---|",
            ]
        for one in cuts:
            top1 = one["top1"]
            lines.append(
                f"| {NAMES[one['criterion']]} | {one['ratio']:.0%} | {one['macs']:.3f} | {top1['cut']:.2f} | "
                f"{top1['constants']:.2f} | {top1['bn']:.2f} |"
            )
        lines += [""]
        for one in found:
            if one["kind"] == "search" and common(one) == key:
                lines += search_lines(one)
            elif one["kind"] == "border" and common(one) == key:
                lines += border_lines(one)
            elif one["kind"] == "tuned" and common(one) == key:
                lines += tuned_lines(one)
    lines += environment_lines(found)
    notes = HERE / "gfr_notes.md"
    lines += [notes.read_text()] if notes.exists() else []
    write_text(HERE / "gfr.md", "\n".join(lines).rstrip() + "\n")


INTRODUCTION = """CIFAR-10, test top-1 in %, without fine-tuning. All channels of the network are ranked together; every layer
keeps at least 5 % of its channels. `constants folded`: the constant outputs of channels with scale 0 are folded into the next
layers, in closed form. `bn re-estimated`: batch norm recalibration on 200 batches of training images. Repeat: see the docstrings of gfr.py and gfr_training.py."""


WAYS = {
    "related": "relations, penalty |γ|", "product": "relations, penalty |γ| sr", "l1": "no relations, penalty |γ|",
    "random": "relations that begin at random, penalty |γ|", "sample": "relations of mode sample, penalty |γ|",
    "none": "no penalty",
}  # fmt: skip


def title_of(network: dict) -> str:
    return network["network"] + (f", width {network['width']:g}" if network["width"] else "")


def head(network: dict) -> list[str]:
    last, name = network["history"][-1], title_of(network)
    way = WAYS[network["way"]]
    relations = f"; sr {last['sr_mean']:.2f} ± {last['sr_std']:.2f}" if last["sr_mean"] == last["sr_mean"] else ""
    return [
        f"## {name}: {way}",
        "",
        f"{network['epochs']} epochs, strength {network['strength']:g}, seed {network['seed']}: {network['top1']:.2f} % on the "
        f"test images before the cut; {last['small']:.1%} of the scales below 1 % of the largest{relations}.",
        "",
    ]


def border_lines(one: dict) -> list[str]:
    rows = [
        f"| {float(ratio):.0%} | {one['base']:.2f} | {top1['scales zero']:.2f} | {top1['constants folded']:.2f} | {top1['cut']:.2f} |"
        for ratio, top1 in one["top1"].items()
    ]
    return [
        f"Cost of pruning ({NAMES[one['criterion']]}), by column: second to third, scales that were not exactly zero; third to fourth, "
        "the border; fourth to fifth, lost constants.", "",
        "| channels removed | before | their scales set to zero | cut, constants folded | cut |", "|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip


def tuned_lines(one: dict) -> list[str]:
    top1 = one["top1"]
    return [
        f"**{1 - one['macs']:.1%} of the MACs removed, then {one['epochs']} epochs** of distillation from the published network "
        f"({NAMES[one['criterion']]}; learning rate {one.get('rate', 0.02):g}, bf16): {top1['published']:.2f} % published, {top1['sparse']:.2f} % after "
        f"{one['sparse_epochs']} epochs of sparsity training, {top1['cut']:.2f} % pruned (constants folded), {top1['bn']:.2f} % after batch norm "
        f"recalibration, **{top1['tuned']:.2f} %** after distillation ({top1['tuned'] - top1['published']:+.2f}).",
        "",
    ]


def pictures(found: list[dict]) -> list[str]:
    """Plot top-1 against the share of removed channels for every network, with a line per way and criterion."""
    from matplotlib.figure import Figure

    lines = []
    for title in dict.fromkeys(title_of(one) for one in found if one["kind"] == "row"):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        rows = [one for one in found if one["kind"] == "row" and title_of(one) == title]
        for way, criterion in dict.fromkeys((one["way"], one["criterion"]) for one in rows):
            same = sorted((one["ratio"], one["top1"]["constants"]) for one in rows
                          if (one["way"], one["criterion"], one["seed"]) == (way, criterion, 0))  # fmt: skip
            style = {"gfr": "-", "bn_scale": "-", "gfr:a=1": "--", "gfr:a=0": ":", "l1": "-."}[criterion]
            color = dict(zip(WAYS, ("C0", "C1", "C2", "C3", "C4", "C5"), strict=True))[way]
            axes.plot(
                *zip(*same, strict=True),
                style,
                color=color,
                marker="o",
                ms=3,
                label=f"{NAMES[criterion]} ({WAYS[way]})",
            )
        axes.set(
            xlabel="share of the channels removed",
            ylabel="test top-1, %",
            title=f"{title}: cut, constants folded, no fine-tuning",
        )
        axes.set_xticks(RATIOS)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        name = f"gfr_{title.replace(', width ', '_w')}.svg"
        figure.savefig(HERE / name, metadata={"Date": None})
        lines += [f"![{title}: top-1 without fine-tuning against the share of channels removed]({name})", ""]
    return lines


def search_lines(one: dict) -> list[str]:
    best, points = one["best"], one["seconds_of_a_point"]
    spent = "; ".join(
        f"{way} " + ", ".join(f"{seconds:.1f} s at {ratio}" for ratio, seconds in at.items())
        for way, at in points.items()
    )
    return [
        f"**Search** (at most 0.5 points of validation top-1 may be lost): {best['point']} keeps {best['macs']:.3f} of the MACs; "
        f"validation {best['top1']:.2f} of {one['base']:.2f} %, test {one['test']:.2f} of {one['test_base']:.2f} %. "
        f"{one['points']} points in {one['search_seconds']:.0f} s, {one['evaluated_whole']} of them evaluated completely. "
        f"One point without early stopping, by pruning ratio: {spent}.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--state", type=Path, default=Path("runs/gfr"))
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument("--fine-tune", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of fine-tuning")
    parser.add_argument(
        "--parts", default="rows,search", help="what to measure for every network: rows, search, border"
    )
    parser.add_argument("--help-search", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.help_search:
        join(digits(), SETTINGS, StudyStorage.open(options.help_search, "one", SETTINGS, join=True), patience=20)
        return
    if options.check:
        sys.exit(0 if check() else 1)
    if not options.table:
        rows(options.state, options.raw, options.fine_tune, options.rate, options.parts)
    table(options.raw)


if __name__ == "__main__":
    main()
