"""The command line: one small function per command; everything heavy is imported inside it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from slimcnn.errors import SlimcnnError

if TYPE_CHECKING:
    from slimcnn.recipes import Recipe
    from slimcnn.start import Show

app = typer.Typer(
    name="slimcnn",
    help="Make trained convolutional networks smaller and faster, and prove that nothing broke.",
    epilog="Start with: slimcnn compress --model resnet8 --data digits --pretrain 20 --macs 0.5 --out runs/first",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

WHICH, HOW_SMALL, BACK, RUN = "Which network and images", "How small", "Winning the accuracy back", "The run"

Model = Annotated[
    str,
    typer.Option(
        help="A name (*slimcnn list networks*), timm:NAME, torchvision:NAME or package.module:function. "
        "May be left out when --weights is a checkpoint of slimcnn.",
        rich_help_panel=WHICH,
    ),
]
Weights = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation
    typer.Option(help="Trained weights: .safetensors, a .pt that weights-only reading accepts, or a checkpoint.",
                 rich_help_panel=WHICH),
]  # fmt: skip
DataName = Annotated[
    str,
    typer.Option("--data", help="A name (*slimcnn list datasets*), NAME:PATH for files that you already have, "
                 "or a folder of images per class.", rich_help_panel=WHICH),
]  # fmt: skip
Arguments = Annotated[
    list[str],
    typer.Option("--arg", help="An argument of the network, name=value; may be repeated.", rich_help_panel=WHICH),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Scale all images to this many pixels. Default: as they are; for a folder, what the network "
                 "was made for.", rich_help_panel=WHICH),
]  # fmt: skip
Limit = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Use at most so many images of each part, for a quick try.", rich_help_panel=WHICH),
]
Epochs = Annotated[Optional[int], typer.Option(help="Passes over the training images.", rich_help_panel=BACK)]  # noqa: UP045
LearningRate = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="The highest learning rate of the schedule.", rich_help_panel=BACK),
]
BatchSize = Annotated[Optional[int], typer.Option(help="Images per step.", rich_help_panel=BACK)]  # noqa: UP045
Settings = Annotated[
    list[str],
    typer.Option("--set", help="Any other setting of the recipe, such as recover.training.schedule=step; "
                 "may be repeated.", rich_help_panel=RUN),
]  # fmt: skip
Out = Annotated[Path, typer.Option(help="The run's folder. The same command goes on where it was interrupted.",
                                   rich_help_panel=RUN)]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Decides splits, order, augmentation, random scores.", rich_help_panel=RUN)]
Devices = Annotated[int, typer.Option(help="Processes on this machine.", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.", rich_help_panel=RUN)]


@app.command()
def compress(
    model: Model = "",
    weights: Weights = None,
    data: DataName = "digits",
    arg: Arguments = [],  # noqa: B006 - typer copies it
    image_size: ImageSize = None,
    limit: Limit = None,
    criterion: Annotated[
        str, typer.Option(help="Which channels matter (*slimcnn list criteria*), options as fpdf:bins=4.",
                          rich_help_panel=HOW_SMALL)
    ] = "fpdf",
    macs: Annotated[
        Optional[float], typer.Option(help="At most this share of the MACs stays. Default 0.5.",  # noqa: UP045
                                      rich_help_panel=HOW_SMALL)
    ] = None,
    params: Annotated[
        Optional[float], typer.Option(help="At most this share of the parameters stays.",  # noqa: UP045
                                      rich_help_panel=HOW_SMALL)
    ] = None,
    ratio: Annotated[
        Optional[float], typer.Option(help="This share of the channels goes.", rich_help_panel=HOW_SMALL)  # noqa: UP045
    ] = None,
    scope: Annotated[
        str, typer.Option(help="local: the same share of every layer; global: rank all channels together; sensitivity: "
                          "what costs the output least, measured on images.",
                          rich_help_panel=HOW_SMALL)
    ] = "local",
    residual: Annotated[
        str, typer.Option(help="Channels between residual blocks: auto (cut last), inner (not cut), cut, or scatter "
                          "(blocks add into them at the places that they keep).",
                          rich_help_panel=HOW_SMALL)
    ] = "auto",
    round_to: Annotated[
        int, typer.Option(help="Keep multiples of this many channels; 8 or 16 suit most hardware.",
                          rich_help_panel=HOW_SMALL)
    ] = 1,
    min_channels: Annotated[
        int, typer.Option(help="No layer keeps fewer channels than this; 0: residual branches may vanish.",
                          rich_help_panel=HOW_SMALL)
    ] = 1,
    inexact: Annotated[
        bool, typer.Option(help="Let channels go that a layer or group norm normalises together (ConvNeXt).",
                           rich_help_panel=HOW_SMALL)
    ] = False,
    protect: Annotated[
        list[str], typer.Option(help="Layers that keep all channels, as layer1.*; may be repeated.",
                                rich_help_panel=HOW_SMALL)
    ] = [],  # noqa: B006
    plan: Annotated[
        Optional[Path], typer.Option(help="Follow this plan (see --dry-run), as you edited it.",  # noqa: UP045
                                     rich_help_panel=HOW_SMALL)
    ] = None,
    recover: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="none; bn (recalibrate batch norm); least_squares (re-solve layers, no labels); data_free "
                     "(the same without any image); finetune; "
                     "distill (from the original); or several: least_squares+distill. Default: least_squares, and "
                     "with --epochs least_squares+distill.", rich_help_panel=BACK),
    ] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    pretrain: Annotated[
        Optional[int], typer.Option(help="Train the network for so many epochs first (without --weights).",  # noqa: UP045
                                    rich_help_panel=BACK)
    ] = None,
    soft: Annotated[
        Optional[int], typer.Option(help="Train softly for so many epochs before the cut: filters that will go are "  # noqa: UP045
                                    "chosen anew after every epoch.", rich_help_panel=BACK)
    ] = None,
    out: Out = Path("runs/compressed"),
    seed: Seed = 0,
    devices: Devices = 1,
    set_: Settings = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option(help="Show the plan and write it to OUT/plan.json, to edit and pass back with --plan.",
                           rich_help_panel=RUN)
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Cut a trained network down to a target, prove the cut, win the accuracy back, and report.

    Example: slimcnn compress --model resnet56 --weights resnet56.safetensors --data cifar10 --macs 0.5 --out runs/r56
    """
    target: dict[str, Any] = {
        "macs": macs, "params": params, "ratio": ratio, "scope": scope, "residual": residual,
        "round_to": round_to, "min_channels": min_channels, "protect": protect,
    }  # fmt: skip
    if macs is None and params is None and ratio is None:
        target["macs"] = 0.5
    training = _given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = _network_and_data(model, weights, data, arg, image_size, limit, seed)
    plain |= {
        "prune": {"criterion": criterion, "target": target, "inexact": inexact}
        | _given(plan=str(plan) if plan else None),
        "recover": {"how": _how(recover, training), "training": {"epochs": 10, "learning_rate": 0.01} | training},
        "out": str(out),
    }
    if pretrain is not None:
        plain["pretrain"] = {"epochs": pretrain, "seed": seed}
    if soft is not None:
        plain["prune"]["soft"] = {"epochs": soft, "learning_rate": 0.01, "seed": seed}
    recipe = _recipe(plain, set_)
    if dry_run:
        _dry_run(recipe, as_json)
    else:
        _compress(recipe, devices, as_json)


@app.command()
def train(
    model: Model = "",
    data: DataName = "digits",
    arg: Arguments = [],  # noqa: B006
    image_size: ImageSize = None,
    limit: Limit = None,
    epochs: Epochs = 30,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    out: Out = Path("runs/trained"),
    seed: Seed = 0,
    devices: Devices = 1,
    set_: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Train a network from scratch; the checkpoint is OUT/original.safetensors.

    Example: slimcnn train --model resnet20 --data cifar10 --epochs 100 --out runs/r20
    """
    training = _given(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    plain = _network_and_data(model, None, data, arg, image_size, limit, seed)
    recipe = _recipe(plain | {"pretrain": training, "prune": None, "out": str(out)}, set_)
    _compress(recipe, devices, as_json)


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML); a run's folder holds its own.")],
    out: Annotated[Optional[Path], typer.Option(help="Another folder than the recipe's.")] = None,  # noqa: UP045
    devices: Devices = 1,
    set_: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says; in the same folder, go on where it was interrupted.

    Example: slimcnn run recipes/demo.toml --out runs/demo
    """
    from slimcnn.recipes import read_recipe

    found = read_recipe(recipe).model_dump(mode="json")
    if out is not None:
        found["out"] = str(out)
    _compress(_recipe(found, set_), devices, as_json)


@app.command()
def evaluate(
    weights: Weights = None,
    model: Model = "",
    data: DataName = "digits",
    arg: Arguments = [],  # noqa: B006
    image_size: ImageSize = None,
    limit: Limit = None,
    part: Annotated[str, typer.Option(help="Which images: test, validation or train.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Measure top-1, top-5 and loss of a network on a dataset.

    Example: slimcnn evaluate --weights runs/r56/compressed.safetensors --data cifar10
    """
    from slimcnn.compress import prepare
    from slimcnn.errors import DataError
    from slimcnn.training import evaluate as measure_top1

    if part not in ("test", "validation", "train"):
        raise DataError(f"there is no part {part!r}: choose test, validation or train")
    recipe = _recipe(_network_and_data(model, weights, data, arg, image_size, limit, 0), [])
    with _showing(as_json) as show:
        start = prepare(recipe, show)
        show.say(f"evaluating on {part} images")
        found = measure_top1(start.model, getattr(start.dataset, part), start.dataset.normalisation)
    if as_json:
        _print_json({"top1": found.top1, "top5": found.top5, "loss": found.loss, "n": found.n, "part": part})
    else:
        typer.echo(
            f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f} on {found.n} {part} images"
        )
        typer.echo(f"normalisation: {start.normalisation}")


Input = Annotated[
    str, typer.Option("--input", help="Shape of one image, as 3x224x224. Default: what the network was made for.")
]


@app.command()
def inspect(
    model: Model = "",
    weights: Weights = None,
    arg: Arguments = [],  # noqa: B006
    input_: Input = "",
    inexact: Annotated[bool, typer.Option(help="As in compress: norms over channels lock nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which channels live and die together, what is locked, where and why.

    Example: slimcnn inspect --model torchvision:mobilenet_v2
    """
    from slimcnn.graph import trace
    from slimcnn.tables import describe_graph, graph_tables

    network, example = _network(model, weights, arg, input_)
    graph = trace(network, example, inexact)
    if as_json:
        _print_json(describe_graph(graph))
    else:
        _print_tables(graph_tables(graph))


@app.command()
def norms(
    model: Model = "",
    weights: Weights = None,
    arg: Arguments = [],  # noqa: B006
    input_: Input = "",
    criteria: Annotated[str, typer.Option(help="Criteria to compare, separated by commas.")] = "fpdf,l2,fpgm",
    ratio: Annotated[float, typer.Option(help="Share of every layer's channels that goes.")] = 0.5,
    residual: Annotated[str, typer.Option(help="As in compress.")] = "inner",
    out: Annotated[Path, typer.Option(help="The page.")] = Path("norms.html"),
    as_json: AsJson = False,
) -> None:
    """Draw what criteria do to the distribution of the filter norms of every layer, with KS and W1.

    Example: slimcnn norms --model resnet56 --weights resnet56.safetensors --criteria fpdf,l2,fpgm --ratio 0.5
    """
    from slimcnn.distributions import norms_kept
    from slimcnn.files import write_text
    from slimcnn.graph import trace
    from slimcnn.pruning import Target
    from slimcnn.reporting.choices import render_choices
    from slimcnn.rewriting import scatter

    network, example = _network(model, weights, arg, input_)
    target = Target(ratio=ratio, residual=residual)  # type: ignore[arg-type]
    network = scatter(network, example) if residual == "scatter" else network
    layers = norms_kept(network, trace(network, example), criteria.split(","), target)
    write_text(out, render_choices(model or str(weights), target.describe(), layers))
    if as_json:
        _print_json([asdict(layer) for layer in layers])
    else:
        typer.echo(out)


@app.command()
def measure(
    model: Model = "",
    weights: Weights = None,
    arg: Arguments = [],  # noqa: B006
    input_: Input = "",
    layers: Annotated[bool, typer.Option(help="Also every layer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count parameters, MACs and bytes of a network, and time it.

    Example: slimcnn measure --model resnet56 --layers
    """
    from slimcnn.measuring import latency
    from slimcnn.measuring import measure as count
    from slimcnn.tables import describe_measurement, measurement_tables

    network, example = _network(model, weights, arg, input_)
    found = count(network, example)
    timed = latency({"network": network}, example)["network"]
    if as_json:
        _print_json(describe_measurement(found, timed, layers))
    else:
        _print_tables(measurement_tables(found, timed, layers))


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="networks, criteria or datasets; all of them by default.")] = "all",
    as_json: AsJson = False,
) -> None:
    """List the networks, criteria and datasets that there are, with their sources."""
    from slimcnn.tables import describe_names, names_tables

    if as_json:
        _print_json(describe_names(kind))
    else:
        _print_tables(names_tables(kind))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.")], as_json: AsJson = False
) -> None:
    """Show a finished run's numbers again, and render its report.html anew from report.json."""
    from slimcnn.reporting import read_report, summary_table, write_report

    found = read_report(folder)
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    home = folder if folder.is_dir() else folder.parent
    _print_tables([summary_table(found)])
    typer.echo(f"report: {write_report(found, home)[1]}")


class _Interrupted(Exception):
    """Ctrl-C during a run; the command-line library would swallow a KeyboardInterrupt."""


# --- what the commands share --------------------------------------------------------------------------------------


def _how(recover: str | None, training: dict[str, Any]) -> str:
    """Refuse settings of a training that would not take place; choose one where they are given alone."""
    from slimcnn.errors import RecipeError
    from slimcnn.recipes import trains

    asked = [name for name in ("epochs", "learning_rate", "batch_size") if name in training]
    if recover is None:
        return "least_squares+distill" if asked else "least_squares"
    if asked and not trains(recover):
        option = asked[0].replace("_", "-")
        raise RecipeError(f"--{option} is for training, and --recover {recover} does not train: add +distill")
    return recover


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _network_and_data(
    model: str, weights: Path | None, data: str, arguments: list[str], image_size: int | None, limit: int | None,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "network": {"model": model, "arguments": dict(_assignment(text, "--arg") for text in arguments)}
        | _given(weights=str(weights) if weights else None),
        "data": {"name": data, "seed": seed} | _given(image_size=image_size, limit=limit),
    }


def _assignment(text: str, option: str) -> tuple[str, Any]:
    """Read name=value; a value that is JSON counts as such, anything else as text.

    >>> _assignment("shortcut=B", "--arg"), _assignment("width=0.5", "--arg")
    (('shortcut', 'B'), ('width', 0.5))
    """
    from slimcnn.errors import RecipeError

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RecipeError(f"{option} {text!r}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _recipe(plain: dict[str, Any], settings: list[str]) -> Recipe:
    """Apply --set to plain data and check it."""
    from slimcnn.errors import RecipeError
    from slimcnn.recipes import recipe_from

    for text in settings:
        path, value = _assignment(text, "--set")
        *sections, name = path.split(".")
        place = plain
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {text!r}: {section} is no section of the recipe")
        place[name] = value
    return recipe_from(plain)


def _network(model: str, weights: Path | None, arguments: list[str], shape: str) -> tuple[Any, Any]:
    """Build a network and one input for it, without a dataset."""
    import torch

    from slimcnn.checkpoints import is_checkpoint, load, read_information
    from slimcnn.errors import ModelError
    from slimcnn.models import load_weights, preprocessing, resolve

    options = dict(_assignment(text, "--arg") for text in arguments)
    size: tuple[int, ...] | None = None
    if weights is not None and is_checkpoint(weights):
        network = load(weights, resolve(model, **options) if ":" in model else None)
        size = tuple(read_information(weights).get("input", ())) or None
    elif not model:
        raise ModelError("which network? give --model NAME (see slimcnn list networks), or --weights CHECKPOINT")
    else:
        network = resolve(model, **options).eval()
        if weights is not None:
            load_weights(network, weights)
    if shape:
        try:
            size = tuple(int(n) for n in shape.lower().split("x"))
        except ValueError:
            raise ModelError(f"--input {shape!r}: expected a shape like 3x224x224") from None
    size = size or preprocessing(network).input
    if size is None:
        raise ModelError("what does the network expect? give --input, for example --input 3x224x224")
    return network, torch.zeros(1, *size)


def _compress(recipe: Recipe, devices: int, as_json: bool) -> None:
    from slimcnn.compress import run
    from slimcnn.reporting import summary_table
    from slimcnn.runs import COMPRESSED, ORIGINAL

    fabric = None
    if devices > 1:
        from lightning_fabric import Fabric

        fabric = Fabric(devices=devices, strategy="ddp")
    try:
        with _showing(as_json) as show:
            found = run(recipe, show=show, fabric=fabric, command=shlex.join(["slimcnn", *sys.argv[1:]]))
    except KeyboardInterrupt:
        raise _Interrupted from None
    folder = Path(recipe.out)
    if found is None:
        if recipe.prune is None and (fabric is None or fabric.is_global_zero):
            _print_json({"checkpoint": str(folder / ORIGINAL)}) if as_json else typer.echo(
                f"checkpoint: {folder / ORIGINAL}"
            )
        return
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    _print_tables([summary_table(found)])
    typer.echo(found.verdict.text)
    typer.echo(f"report:     {folder / 'report.html'}\n            {folder / 'report.json'}")
    typer.echo(f"checkpoint: {folder / COMPRESSED}")


def _dry_run(recipe: Recipe, as_json: bool) -> None:
    from slimcnn.compress import make_plan, prepare, rewritten
    from slimcnn.runs import PLAN
    from slimcnn.tables import describe_plan, plan_tables

    assert recipe.prune is not None
    with _showing(as_json) as show:
        start = prepare(recipe.model_copy(update={"pretrain": None}), show, trained=False)
        graph, plan = make_plan(recipe.prune, rewritten(recipe.prune, start), show)
    path = Path(recipe.out) / PLAN
    plan.save(path, graph)
    if as_json:
        _print_json(describe_plan(graph, plan) | {"plan": str(path)})
        return
    _print_tables(plan_tables(graph, plan))
    typer.echo(f"plan: {path}   edit it and pass it back with --plan {path}")


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=1))


def _print_tables(tables: list[Any]) -> None:
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


@contextmanager
def _showing(quiet: bool) -> Iterator[Show]:
    """Say what happens on stderr; a bar moves all the while, and counts where there is something to count."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from slimcnn.start import Show

    console = Console(stderr=True, quiet=quiet, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as bars:
        working = bars.add_task("working", total=None)
        counting = bars.add_task("", total=1, visible=False)

        def say(text: str) -> None:
            console.print(text, markup=False)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(counting, description=what, completed=done, total=total, visible=done < total)
            bars.update(working, visible=done == total)

        yield Show(say=say, progress=progress)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except SlimcnnError as error:
        typer.echo(f"slimcnn: {error}", err=True)
        sys.exit(2)
    except _Interrupted:
        typer.echo("slimcnn: interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
