"""Commands that run a chain of steps: compress, train, rewrite, distill are presets; run takes any chain."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.presets import beginning, delivering, keeping, pruning, recovering
from slimcnn.cli.reading import arguments_of, given, network_and_data, reading, recipe_of, shapes_of
from slimcnn.cli.showing import print_json, print_tables, print_view
from slimcnn.show import watched

if TYPE_CHECKING:
    from slimcnn.running import Recipe, Step


@app.command()
def compress(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    data: options.DataName = "digits",
    model_arg: options.Arguments = [],  # noqa: B006 - typer copies it
    task: options.TaskName = None,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    criterion: options.Criterion = None,
    macs: options.Macs = None,
    params: options.Params = None,
    size: options.Size = None,
    memory: options.Memory = None,
    latency: options.Latency = None,
    runtime: options.Runtime = None,
    batch: options.LatencyBatch = None,
    threads: options.Threads = None,
    pruning_ratio: options.PruningRatio = None,
    curve: options.Curve = "",
    scope: options.Scope = None,
    residual: options.Residual = None,
    round_to: options.RoundTo = None,
    min_channels: options.MinChannels = None,
    inexact: options.Inexact = False,
    protect: options.Protect = [],  # noqa: B006
    plan: options.Plan = None,
    recover: options.Recover = None,
    minutes: options.Minutes = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    keep: options.Keep = None,
    pretrain: options.Pretrain = None,
    soft_epochs: options.SoftEpochs = None,
    method: options.Method = None,
    sparsity_epochs: options.SparsityEpochs = None,
    max_drop: options.MaxDrop = None,
    storage: options.Storage = None,
    to: options.To = None,
    out: options.Out = Path("runs/compressed"),
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    tensorboard: options.TensorBoard = None,
    devices: options.Devices = 1,
    set_: options.SetSettings = [],  # noqa: B006
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Prune a trained network to a target, prove the cut exact, recover accuracy, export model.onnx, and report.

    Example: slimcnn compress --model resnet56 --weights resnet56.safetensors --data cifar10 --macs 0.5 --out runs/r56
    """
    from slimcnn.running.recipe import with_seed

    target = given(
        criterion=criterion, macs=macs, params=params, size=size, memory=memory, latency=latency,
        runtime=runtime, batch=batch, threads=threads, pruning_ratio=pruning_ratio, scope=scope, residual=residual,
        round_to=round_to, min_channels=min_channels, inexact=inexact or None, protect=protect or None,
        plan=str(plan) if plan else None,
        soft={"epochs": soft_epochs, "learning_rate": 0.01, "seed": seed} if soft_epochs is not None else None,
    )  # fmt: skip
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    if minutes is None and (method == "gfr" or (weights is None and pretrain is None)):
        minutes = 0  # GFR promises a cut without fine-tuning; an untrained network has no answers to imitate
    recovery = recovering(recover, training, "fold_constants" if method == "gfr" else "least_squares", minutes)
    rows = pruning(target, recovery, method, sparsity_epochs, max_drop, storage, seed) + delivering(to, curve)
    plain = network_and_data(
        model, weights, data, model_arg, image_size, limit, seed, verify=verify, task=task,
        **reading(stream, skip_broken, resize),
    )  # fmt: skip
    plain |= {"steps": keeping([*beginning(pretrain, seed), *with_seed(rows, seed)], keep), "out": str(out)}
    if curve:
        plain["curve"] = sizes_of(curve)
    recipe = recipe_of(plain | {"deterministic": deterministic}, set_)
    if dry_run:
        _dry_run(recipe, as_json)
        return
    transfer = None
    if epochs is not None and pretrain is None:
        from slimcnn.steps.train import Train

        transfer = Train.model_validate(given(epochs=epochs, batch_size=batch_size, keep=keep, seed=seed))
    _run(recipe, devices, as_json, tensorboard, transfer)


@app.command()
def train(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    data: options.DataName = "digits",
    model_arg: options.Arguments = [],  # noqa: B006
    task: options.TaskName = None,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    epochs: options.Epochs = 30,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    keep: options.Keep = None,
    rewrite: options.Rewrite = "",
    out: options.Out = Path("runs/trained"),
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    tensorboard: options.TensorBoard = None,
    devices: options.Devices = 1,
    set_: options.SetSettings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Train or fine-tune a network; the checkpoint is OUT/compressed.safetensors.

    Example: slimcnn train --model resnet20 --data cifar10 --epochs 100 --out runs/r20
    """
    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = network_and_data(
        model,
        weights,
        data,
        model_arg,
        image_size,
        limit,
        seed,
        rewrite,
        verify=verify,
        task=task,
        **reading(stream, skip_broken, resize),
    )
    plain |= {"steps": keeping([{"step": "train"} | training], keep), "out": str(out), "deterministic": deterministic}
    _run(recipe_of(plain, set_), devices, as_json, tensorboard)


@app.command()
def rewrite(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    data: options.DataName = "",
    model_arg: options.Arguments = [],  # noqa: B006
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    rewrite: options.Rewrite = "feature_reuse",
    init: options.Init = "reuse",
    recover: options.Recover = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    keep: options.Keep = None,
    pretrain: options.Pretrain = None,
    out: options.Out = Path("runs/rewritten"),
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    tensorboard: options.TensorBoard = None,
    devices: options.Devices = 1,
    set_: options.SetSettings = [],  # noqa: B006
    input_: options.Input = "",
    as_json: options.AsJson = False,
) -> None:
    """Replace the structure of a network with a cheaper one, fit it to the original's features, train, and report.

    Without --data: only show the change of every layer, and write the rewritten network to OUT.

    Example: slimcnn rewrite --model resnet20 --weights resnet20.safetensors --data cifar10 --epochs 10 --out runs/fr20
    """
    if not data:
        _show_rewrite(model, weights, verify, model_arg, input_, rewrite, out, as_json)
        return
    from slimcnn.running.recipe import with_seed

    training = given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    if init == "random" and epochs and recover is None:
        recover, training = "train", {"learning_rate": 0.1} | training
    recovery = recovering(recover, training, "")
    rows = [{"step": "rewrite", "rule": rewrite, "init": init}, *recovery]
    plain = network_and_data(
        model, weights, data, model_arg, image_size, limit, seed, verify=verify, **reading(stream, skip_broken, resize)
    )
    plain |= {"steps": keeping([*beginning(pretrain, seed), *with_seed(rows, seed)], keep), "out": str(out)}
    _run(recipe_of(plain | {"deterministic": deterministic}, set_), devices, as_json, tensorboard)


@app.command()
def distill(
    teacher: options.Teacher = "",
    teacher_weights: options.TeacherWeights = None,
    teacher_arg: options.TeacherArguments = [],  # noqa: B006
    student: options.Student = "",
    student_weights: options.StudentWeights = None,
    student_arg: options.StudentArguments = [],  # noqa: B006
    extra_teacher: options.ExtraTeacher = [],  # noqa: B006
    verify: options.Verify = True,
    data: options.DataName = "digits",
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    rewrite: options.Rewrite = "",
    loss: options.LossTerms = "kd+scale_factor",
    teacher_cache: options.TeacherCache = None,
    epochs: options.Epochs = 240,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = 64,
    keep: options.Keep = None,
    pretrain: options.Pretrain = None,
    out: options.Out = Path("runs/distilled"),
    seed: options.Seed = 0,
    deterministic: options.Deterministic = False,
    tensorboard: options.TensorBoard = None,
    devices: options.Devices = 1,
    set_: options.SetSettings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Train a student network by distillation; teacher and student can be any networks.

    Example: slimcnn distill --teacher resnet56 --teacher-weights r56.safetensors --student resnet20 --data cifar100
    """
    learns = {"model": student, "arguments": arguments_of(student_arg, "--student-arg"), "verify": verify} | given(
        weights=str(student_weights) if student_weights else None, rewrite=rewrite or None
    )
    step = {
        "step": "distill", "student": learns,
        "teachers": [{"weights": str(path), "verify": verify} for path in extra_teacher],
        "loss": loss, "epochs": epochs, "batch_size": batch_size, "seed": seed,
    } | given(learning_rate=learning_rate, teacher_cache=teacher_cache)  # fmt: skip
    plain = network_and_data(
        teacher,
        teacher_weights,
        data,
        teacher_arg,
        image_size,
        limit,
        seed,
        option="--teacher-arg",
        verify=verify,
        **reading(stream, skip_broken, resize),
    )
    plain |= {
        "steps": keeping([*beginning(pretrain, seed), step], keep),
        "out": str(out),
        "deterministic": deterministic,
    }
    _run(recipe_of(plain, set_), devices, as_json, tensorboard)


@app.command("run")
def run_recipe(
    recipe: Annotated[Optional[Path], typer.Argument(help="Recipe (TOML); every run folder has one.")] = None,  # noqa: UP045
    steps: options.Steps = "",
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    data: options.DataName = "",
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    out: Annotated[Optional[Path], typer.Option(help="Run folder. Default: the recipe's.")] = None,  # noqa: UP045
    deterministic: options.Deterministic = False,
    tensorboard: options.TensorBoard = None,
    devices: options.Devices = 1,
    set_: options.SetSettings = [],  # noqa: B006
    as_json: options.AsJson = False,
) -> None:
    """Run a recipe, or a chain of steps given with --steps; an interrupted run resumes in the same folder.

    Example: slimcnn run recipes/demo.toml --out runs/demo

    Example: slimcnn run --model resnet20 --weights r20.safetensors --data cifar10 --out runs/r20
    --steps 'prune:macs=0.5 + least_squares + distill:epochs=10'
    """
    from slimcnn.errors import RecipeError
    from slimcnn.running.recipe import read_recipe, steps_from_line

    if recipe is None and not steps:
        raise RecipeError("nothing to run: pass a recipe, or --steps 'prune:macs=0.5 + least_squares'")
    plain: dict[str, Any] = read_recipe(recipe).plain() if recipe is not None else {"network": {}, "data": {}}
    plain["network"] |= given(
        model=model or None, weights=str(weights) if weights else None, verify=None if verify else False
    )
    plain["data"] |= given(name=data or None) | reading(stream, skip_broken)
    if steps:
        plain["steps"] = steps_from_line(steps)
    plain |= given(out=str(out) if out else None, deterministic=deterministic or None)
    _run(recipe_of(plain, set_), devices, as_json, tensorboard)


@app.command()
def search(
    join: Annotated[Path, typer.Option(help="Folder of a run that is searching (compress --max-drop).")],
    as_json: options.AsJson = False,
) -> None:
    """Join the search of another process. Any number of processes can join; each can be killed at any time.

    Example: slimcnn search --join runs/gfr
    """
    from slimcnn.steps.prune.search import help_search

    with watched(as_json) as show:
        tried = help_search(join, show)
    if as_json:
        print_json({"tried": tried})
    else:
        typer.echo(f"{tried} configurations tried here; the search has ended")


class Interrupted(Exception):
    """Ctrl-C during a run; typer would swallow a KeyboardInterrupt."""


def sizes_of(text: str) -> list[float]:
    """Parse sizes such as 0.8,0.6,0.4."""
    from slimcnn.errors import RecipeError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"--curve {text!r}: expected fractions of the MACs, such as 0.8,0.6,0.4") from None


def _run(recipe: Recipe, devices: int, as_json: bool, tensorboard: Path | None, transfer: Step | None = None) -> None:
    from slimcnn.reporting import summary
    from slimcnn.running import run
    from slimcnn.running.folder import COMPRESSED

    fabric = None
    if devices > 1:
        from lightning_fabric import Fabric

        fabric = Fabric(devices=devices, strategy="ddp")
    on_epoch = None
    if tensorboard:
        from slimcnn.running.logging import tensorboard as writer_in

        on_epoch = writer_in(tensorboard)
    try:
        with watched(as_json) as show:
            command = shlex.join(["slimcnn", *sys.argv[1:]])
            found = run(recipe, show=show, fabric=fabric, command=command, on_epoch=on_epoch, transfer=transfer)
    except KeyboardInterrupt:
        raise Interrupted from None
    if fabric is not None and not fabric.is_global_zero:
        return
    if as_json:
        print_json(found.report.model_dump(mode="json"))
        return
    print_tables(summary(found.report))
    typer.echo(f"report:     {found.folder / 'report.html'}\n            {found.folder / 'report.json'}")
    if not recipe.curve:
        typer.echo(f"checkpoint: {found.folder / COMPRESSED}")
        _print_files(found.folder)


def _print_files(folder: Path) -> None:
    """Print the exported files, and the two lines of Python that run the first one without slimcnn."""
    from slimcnn.exporting import how_to_run, read_parity

    known = read_parity(folder)
    for name, entry in known.items():
        path = folder / next(iter(entry["files"]))
        why = entry.get("why", "")
        if entry["max_error"] is not None:
            why = f"largest relative error {entry['max_error']:.1e} on {entry['images']} images"
        typer.echo(f"{name + ':':11} {path}   ({entry['status']}{': ' + why if why else ''})")
    for name, entry in list(known.items())[:1]:
        for line in how_to_run(name, folder / next(iter(entry["files"])), entry):
            typer.echo(f"            {line}")


def _show_rewrite(
    model: str,
    weights: Path | None,
    verify: bool,
    arguments: list[str],
    shape: str,
    rule: str,
    out: Path,
    as_json: bool,
) -> None:
    from slimcnn import views
    from slimcnn.checkpoints import save
    from slimcnn.measuring import measure
    from slimcnn.rewriting import rewritten
    from slimcnn.running.loading import load_subject

    network, example = load_subject(
        model, weights, arguments_of(arguments, "--model-arg"), "", shapes_of(shape), verify
    )
    before = measure(network, example)  # first: it refuses an example that the network does not accept
    found = rewritten(network, rule, example)
    path = save(found.model, out / "rewritten.safetensors", information=_stated(example))
    view = views.rewrite(found, before, measure(found.model, example))
    if as_json:
        print_json(view.data | {"checkpoint": str(path)})
        return
    print_view(view, as_json)
    typer.echo(f"checkpoint: {path}   (new layers have random weights: train them with --data)")


def _stated(example: Any) -> dict[str, Any]:
    """Return the input shape that a checkpoint states; of several inputs none."""
    return {} if isinstance(example, dict) else {"input": list(example.shape[1:])}


def _dry_run(recipe: Recipe, as_json: bool) -> None:
    from slimcnn import views
    from slimcnn.running.folder import PLAN
    from slimcnn.steps.prune.dry_run import planned

    with watched(as_json) as show:
        graph, plan = planned(recipe, show)
    path = Path(recipe.out) / PLAN
    plan.save(path, graph)
    view = views.plan(graph, plan)
    if as_json:
        print_json(view.data | {"plan": str(path)})
        return
    print_view(view, as_json)
    typer.echo(f"plan: {path}   edit it and pass it back with --plan {path}")
