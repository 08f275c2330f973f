"""Commands that run a recipe: compress, train, run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.reading import (
    assignment,
    given,
    how_to_recover,
    network_and_data,
    network_of,
    recipe_of,
    sparsify_and_search,
)
from slimcnn.cli.showing import print_json, print_tables, showing

if TYPE_CHECKING:
    from slimcnn.recipes import Recipe


@app.command()
def compress(
    model: options.Model = "",
    weights: options.Weights = None,
    data: options.DataName = "digits",
    arg: options.Arguments = [],  # noqa: B006 - typer copies it
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    criterion: options.Criterion = "fpdf",
    macs: options.Macs = None,
    params: options.Params = None,
    ratio: options.Ratio = None,
    scope: options.Scope = "local",
    residual: options.Residual = "auto",
    round_to: options.RoundTo = 1,
    min_channels: options.MinChannels = 1,
    inexact: options.Inexact = False,
    protect: options.Protect = [],  # noqa: B006
    plan: options.Plan = None,
    recover: options.Recover = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    pretrain: options.Pretrain = None,
    soft: options.Soft = None,
    method: options.Method = None,
    sparse: options.Sparse = None,
    drop: options.Drop = None,
    storage: options.Storage = None,
    out: options.Out = Path("runs/compressed"),
    seed: options.Seed = 0,
    devices: options.Devices = 1,
    set_: options.Settings = [],  # noqa: B006
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Cut a trained network down to a target, prove the cut, win the accuracy back, and report.

    Example: slimcnn compress --model resnet56 --weights resnet56.safetensors --data cifar10 --macs 0.5 --out runs/r56
    """
    from slimcnn.errors import RecipeError

    target: dict[str, Any] = {
        "macs": macs, "params": params, "ratio": ratio, "scope": scope, "residual": residual,
        "round_to": round_to, "min_channels": min_channels, "protect": protect,
    }  # fmt: skip
    if macs is None and params is None and ratio is None:
        target["macs"] = 0.5
    elif drop is not None:
        raise RecipeError("--drop searches for how small the network can be: leave --macs, --params and --ratio out")
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = network_and_data(model, weights, data, arg, image_size, limit, seed)
    plain |= {
        "prune": {"criterion": criterion, "target": target, "inexact": inexact}
        | given(plan=str(plan) if plan else None),
        "recover": {
            "how": how_to_recover(recover, training),
            "training": {"epochs": 10, "learning_rate": 0.01} | training,
        },
        "out": str(out),
    }
    if pretrain is not None:
        plain["pretrain"] = {"epochs": pretrain, "seed": seed}
    if soft is not None:
        plain["prune"]["soft"] = {"epochs": soft, "learning_rate": 0.01, "seed": seed}
    sparsify_and_search(plain, method, sparse, drop, storage, seed)
    recipe = recipe_of(plain, set_)
    if dry_run:
        _dry_run(recipe, as_json)
    else:
        _compress(recipe, devices, as_json)


@app.command()
def train(
    model: options.Model = "",
    data: options.DataName = "digits",
    arg: options.Arguments = [],  # noqa: B006
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    epochs: options.Epochs = 30,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    rewrite: options.Rewrite = "",
    out: options.Out = Path("runs/trained"),
    seed: options.Seed = 0,
    devices: options.Devices = 1,
    set_: options.Settings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Train a network from scratch; the checkpoint is OUT/original.safetensors.

    Example: slimcnn train --model resnet20 --data cifar10 --epochs 100 --out runs/r20
    """
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = network_and_data(model, None, data, arg, image_size, limit, seed, rewrite)
    recipe = recipe_of(plain | {"pretrain": training, "prune": None, "out": str(out)}, set_)
    _compress(recipe, devices, as_json)


@app.command()
def rewrite(
    model: options.Model = "",
    weights: options.Weights = None,
    data: options.DataName = "",
    arg: options.Arguments = [],  # noqa: B006
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    rewrite: options.Rewrite = "feature_reuse",
    init: options.Init = "reuse",
    recover: options.Recover = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    pretrain: options.Pretrain = None,
    out: options.Out = Path("runs/rewritten"),
    seed: options.Seed = 0,
    devices: options.Devices = 1,
    set_: options.Settings = [],  # noqa: B006
    input_: options.Input = "",
    as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Replace the structure of a network by a cheaper one, begin from its features, train, and report.

    Without --data: show what becomes of every layer, and write the rewritten network to OUT.

    Example: slimcnn rewrite --model resnet20 --weights resnet20.safetensors --data cifar10 --epochs 10 --out runs/fr20
    """
    if not data:
        _show_rewrite(network_of(model, weights, arg, input_), rewrite, out, as_json)
        return
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = network_and_data(model, weights, data, arg, image_size, limit, seed)
    how = recover or (("distill" if init == "reuse" else "finetune") if epochs else "none")
    plain |= {
        "rewrite": {"rule": rewrite, "init": init},
        "recover": {
            "how": how_to_recover(how, training),
            "training": {"epochs": 10, "learning_rate": 0.01 if init == "reuse" else 0.1} | training,
        },
        "out": str(out),
    }
    if pretrain is not None:
        plain["pretrain"] = {"epochs": pretrain, "seed": seed}
    _compress(recipe_of(plain, set_), devices, as_json)


@app.command()
def distill(
    teacher: options.Teacher = "",
    teacher_weights: options.TeacherWeights = None,
    teacher_arg: options.TeacherArguments = [],  # noqa: B006
    student: options.Student = "",
    student_weights: options.StudentWeights = None,
    student_arg: options.StudentArguments = [],  # noqa: B006
    also: options.Also = [],  # noqa: B006
    data: options.DataName = "digits",
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    rewrite: options.Rewrite = "",
    loss: options.LossTerms = "kd+scale_factor",
    teacher_cache: options.TeacherCache = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    pretrain: options.Pretrain = None,
    out: options.Out = Path("runs/distilled"),
    seed: options.Seed = 0,
    devices: options.Devices = 1,
    set_: options.Settings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Let a student learn what a trained network knows; any network may teach, any may learn.

    Example: slimcnn distill --teacher resnet56 --teacher-weights r56.safetensors --student resnet20 --data cifar100
    """
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = network_and_data(teacher, teacher_weights, data, teacher_arg, image_size, limit, seed)
    arguments = dict(assignment(text, "--student-arg") for text in student_arg)
    learns = {"model": student, "arguments": arguments} | given(
        weights=str(student_weights) if student_weights else None
    )
    plain |= {
        "distill": {
            "student": learns | given(rewrite=rewrite or None),
            "teachers": [{"weights": str(path)} for path in also],
            "loss": loss,
            "teacher_cache": teacher_cache,
            "training": {"epochs": 240, "learning_rate": 0.05, "batch_size": 64} | training,
        },
        "out": str(out),
    }
    if pretrain is not None:
        plain["pretrain"] = {"epochs": pretrain, "seed": seed}
    _compress(recipe_of(plain, set_), devices, as_json)


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML); a run's folder holds its own.")],
    out: Annotated[Optional[Path], typer.Option(help="Another folder than the recipe's.")] = None,  # noqa: UP045
    devices: options.Devices = 1,
    set_: options.Settings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Do what a recipe says; in the same folder, go on where it was interrupted.

    Example: slimcnn run recipes/demo.toml --out runs/demo
    """
    from slimcnn.recipes import read_recipe

    found = read_recipe(recipe).model_dump(mode="json")
    if out is not None:
        found["out"] = str(out)
    _compress(recipe_of(found, set_), devices, as_json)


@app.command()
def search(
    join: Annotated[Path, typer.Option(help="The folder of a run that is searching (compress --drop).")],
    as_json: options.AsJson = False,
) -> None:
    """Help another process with its search: the same storage, any number of helpers, each may be killed.

    Example: slimcnn search --join runs/gfr
    """
    from slimcnn.choosing import help_search, scattered
    from slimcnn.compress import prepare, sparsified
    from slimcnn.errors import SearchError
    from slimcnn.recipes import read_recipe
    from slimcnn.runs import ORIGINAL, RECIPE, SPARSE, RunFolder
    from slimcnn.training.processes import launched

    recipe = read_recipe(join / RECIPE).model_copy(update={"out": str(join)})
    if recipe.prune is None or recipe.prune.search is None:
        raise SearchError(f"{join} is a run that does not search: begin one with slimcnn compress --drop")
    needed = [SPARSE] if recipe.sparsify else [ORIGINAL] if recipe.pretrain else []
    if any(not (join / name).exists() for name in needed):
        raise SearchError(f"{join} is still training: its search has not begun; join it later")
    with showing(as_json) as show:
        folder = RunFolder(join, writing=False)
        start, _ = sparsified(recipe, prepare(recipe, show, folder), folder, show, launched(None))
        tried = help_search(recipe, recipe.prune.search, scattered(recipe.prune, start), join, show)
    if as_json:
        print_json({"tried": tried})
    else:
        typer.echo(f"{tried} points tried here; the search has ended")


class Interrupted(Exception):
    """Ctrl-C during a run; the command-line library would swallow a KeyboardInterrupt."""


def _compress(recipe: Recipe, devices: int, as_json: bool) -> None:
    from slimcnn.compress import run
    from slimcnn.reporting import summary_table
    from slimcnn.runs import COMPRESSED, ORIGINAL

    fabric = None
    if devices > 1:
        from lightning_fabric import Fabric

        fabric = Fabric(devices=devices, strategy="ddp")
    try:
        with showing(as_json) as show:
            found = run(recipe, show=show, fabric=fabric, command=shlex.join(["slimcnn", *sys.argv[1:]]))
    except KeyboardInterrupt:
        raise Interrupted from None
    folder = Path(recipe.out)
    if found is None:
        if recipe.prune is None and (fabric is None or fabric.is_global_zero):
            print_json({"checkpoint": str(folder / ORIGINAL)}) if as_json else typer.echo(
                f"checkpoint: {folder / ORIGINAL}"
            )
        return
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_tables([summary_table(found)])
    if found.verdict is not None:
        typer.echo(found.verdict.text)
    typer.echo(f"report:     {folder / 'report.html'}\n            {folder / 'report.json'}")
    typer.echo(f"checkpoint: {folder / COMPRESSED}")


def _show_rewrite(subject: tuple[Any, Any], rule: str, out: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from slimcnn.checkpoints import save
    from slimcnn.measuring import measure
    from slimcnn.rewriting import rewritten
    from slimcnn.runs import REWRITTEN
    from slimcnn.tables import rewrite_tables

    model, example = subject
    found = rewritten(model, rule, example)
    before, after = measure(model, example), measure(found.model, example)
    path = save(found.model, out / REWRITTEN, information={"input": list(example.shape[1:])})
    if as_json:
        changes = [asdict(change) for change in found.changes]
        costs = {name: {"before": getattr(before, name), "after": getattr(after, name)} for name in ("macs", "params")}
        print_json({"changes": changes, "checkpoint": str(path)} | costs)
        return
    print_tables(rewrite_tables(found, before, after))
    typer.echo(f"checkpoint: {path}   (its new layers have random weights: train them with --data)")


def _dry_run(recipe: Recipe, as_json: bool) -> None:
    from slimcnn.choosing import make_plan, scattered
    from slimcnn.compress import prepare
    from slimcnn.errors import RecipeError
    from slimcnn.runs import PLAN
    from slimcnn.tables import describe_plan, plan_tables

    assert recipe.prune is not None
    if recipe.sparsify is not None or recipe.prune.search is not None:
        raise RecipeError("--dry-run shows a plan at once: it goes with neither sparse training nor a search")
    with showing(as_json) as show:
        start = prepare(recipe.model_copy(update={"pretrain": None}), show, trained=False)
        graph, plan = make_plan(recipe.prune, scattered(recipe.prune, start), show)
    path = Path(recipe.out) / PLAN
    plan.save(path, graph)
    if as_json:
        print_json(describe_plan(graph, plan) | {"plan": str(path)})
        return
    print_tables(plan_tables(graph, plan))
    typer.echo(f"plan: {path}   edit it and pass it back with --plan {path}")
