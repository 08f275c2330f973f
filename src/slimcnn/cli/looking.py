"""Read-only commands: load a network or a run and print a view of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.help import Command
from slimcnn.cli.reading import arguments_of, given, reading, shapes_of
from slimcnn.cli.showing import print_json, print_tables, print_view
from slimcnn.show import watched

if TYPE_CHECKING:
    from slimcnn.running.loading import Loaded
    from slimcnn.show import Show


@app.command()
def evaluate(
    weights: options.Weights = None,
    verify: options.Verify = True,
    model: options.Model = "",
    data: options.DataName = "digits",
    model_arg: options.Arguments = [],  # noqa: B006 - typer copies it
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    limit: options.Limit = None,
    stream: options.Stream = None,
    skip_broken: options.SkipBroken = False,
    part: Annotated[str, typer.Option(help="Split: test, validation or train.")] = "test",
    as_json: options.AsJson = False,
) -> None:
    """Evaluate top-1, top-5 and loss of a network on a dataset, or the metric of its task.

    Example: slimcnn evaluate --weights runs/r56/compressed.safetensors --data cifar10
    """
    from slimcnn import views
    from slimcnn.errors import DataError

    if part not in ("test", "validation", "train"):
        raise DataError(f"unknown part {part!r}: choose test, validation or train")
    how = reading(stream, skip_broken, resize)
    with watched(as_json) as show:
        found = _loaded(model, weights, arguments_of(model_arg), data, image_size, limit, verify, show, **how)
        show.say(f"evaluating on {part} images")
        if found.data.task == "classification":
            view = views.evaluate(found.model, getattr(found.data, part), found.data.normalization, part)
        else:
            view = views.evaluate_task(found.model, found.data, part)
    print_view(view, as_json)
    if not as_json:
        typer.echo(f"normalization: {found.normalization}")


class InspectCommand(Command):
    """A command with an option --html whose value may be left out, which typer does not support."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default file after --html."""
        return super().parse_args(ctx, _with_value(args, "--html", "inspect.html"))


def _with_value(args: list[str], option: str, value: str) -> list[str]:
    """Insert a value after an option that has none.

    >>> _with_value(["--html", "--json"], "--html", "a.html"), _with_value(["--html", "b.html"], "--html", "a.html")
    (['--html', 'a.html', '--json'], ['--html', 'b.html'])
    """
    found = []
    for place, word in enumerate(args):
        found.append(word)
        if word == option and (place + 1 == len(args) or args[place + 1].startswith("-")):
            found.append(value)
    return found


@app.command(cls=InspectCommand)
def inspect(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    model_arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    rewrite: options.Rewrite = "",
    inexact: options.Inexact = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a picture of the channels as an HTML page too. Default: inspect.html.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the channel groups, and the channels that are locked, with the reasons.

    Example: slimcnn inspect --model torchvision:mobilenet_v2 --html
    """
    from slimcnn import views
    from slimcnn.graph import trace
    from slimcnn.running.loading import load_subject

    network, example = load_subject(model, weights, arguments_of(model_arg), rewrite, shapes_of(input_), verify)
    print_view(views.inspect(trace(network, example, inexact)), as_json, page=html)


@app.command()
def norms(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    model_arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    criteria: Annotated[str, typer.Option(help="Criteria to compare, separated by commas.")] = "fpdf,l2,fpgm",
    pruning_ratio: Annotated[float, typer.Option(help="Fraction of the channels to remove from every layer.")] = 0.5,
    residual: options.Residual = "inner",
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("norms.html"),
    as_json: options.AsJson = False,
) -> None:
    """Plot the distribution of filter norms before and after pruning by several criteria, with KS and W1 distances.

    Example: slimcnn norms --model resnet56 --weights resnet56.safetensors --criteria fpdf,l2,fpgm --pruning-ratio 0.5
    """
    from slimcnn import views
    from slimcnn.graph import trace
    from slimcnn.pruning import Target
    from slimcnn.rewriting import scatter
    from slimcnn.running.loading import load_subject

    network, example = load_subject(model, weights, arguments_of(model_arg), "", shapes_of(input_), verify)
    target = Target(pruning_ratio=pruning_ratio, residual=residual)  # type: ignore[arg-type]
    network = scatter(network, example) if residual == "scatter" else network
    view = views.norms(network, trace(network, example), criteria.split(","), target, model or str(weights))
    print_view(view, as_json, page=out)


@app.command()
def closeness(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints: first the teacher, then the students.")],
    verify: options.Verify = True,
    data: options.DataName = "digits",
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("closeness.html"),
    as_json: options.AsJson = False,
) -> None:
    """Plot the class closeness of several networks, and list the closest pairs.

    Example: slimcnn closeness teacher.safetensors kd.safetensors scale_factor.safetensors --data cifar100
    """
    from slimcnn import views

    names = _names_of(checkpoints)
    networks, expected = {}, {}
    with watched(as_json) as show:
        for name, path in zip(names, checkpoints, strict=True):
            found = _loaded("", path, {}, data, image_size, limit, verify, show)
            networks[name], expected[name] = found.model, found.data.normalization
        view = views.closeness(networks, found.data, expected)
    print_view(view, as_json, page=out)


@app.command()
def measure(
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    model_arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    rewrite: options.Rewrite = "",
    layers: Annotated[bool, typer.Option(help="List every layer too.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Count parameters, MACs and bytes of a network, and measure its latency.

    Example: slimcnn measure --model resnet56 --layers
    """
    from slimcnn import views
    from slimcnn.running.loading import load_subject

    network, example = load_subject(model, weights, arguments_of(model_arg), rewrite, shapes_of(input_), verify)
    print_view(views.measure(network, example, layers=layers), as_json)


@app.command()
def zoo(
    names: Annotated[
        list[str] | None, typer.Argument(help="Networks. Default: the six of the survey, with their size variants.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Compare all compact networks with published accuracy.")] = False,
    runtimes: Annotated[str, typer.Option(help="eager, onnxruntime, openvino. Default: all that are installed.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Timing budget per runtime.")] = 20.0,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("zoo.html"),
    as_json: options.AsJson = False,
) -> None:
    """Compare compact networks: published accuracy, params, MACs and latency on this machine.

    Example: slimcnn zoo mobilenet_v2 shiftnet_a --threads 1
    """
    from slimcnn import views
    from slimcnn.models.published import published_rows

    rows = published_rows(names or [], every)
    chosen = [name for name in runtimes.split(",") if name]
    with watched(as_json) as show:
        view = views.zoo(rows, runtimes=chosen, batch=batch, threads=threads, seconds=seconds, show=show)
    print_view(view, as_json, page=out)


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="What to list, such as networks or criteria.")] = "all",
    as_json: options.AsJson = False,
) -> None:
    """List all names (networks, criteria, losses, ...) with description and source.

    Example: slimcnn list criteria
    """
    from slimcnn import views
    from slimcnn.cli.showing import print_names

    view = views.names(kind)
    if as_json or kind not in ("all", *view.data):
        print_view(view, as_json)
    else:
        print_names(view.data, sources=kind != "all")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder, or its report.json.")], as_json: options.AsJson = False
) -> None:
    """Print the results of a finished run, and regenerate report.html from report.json if the folder is writable.

    Example: slimcnn report runs/r56
    """
    from slimcnn.errors import RunError
    from slimcnn.manifest import claim, is_as_claimed
    from slimcnn.reporting import read_report, summary, write_report
    from slimcnn.reporting.storing import DATA

    found = read_report(folder)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    home = folder if folder.is_dir() else folder.parent
    print_tables(summary(found))
    claimed = is_as_claimed(home / DATA)
    try:
        data, page = write_report(found, home)
    except RunError as error:  # a read-only folder
        typer.echo(f"the page was not regenerated: {error}", err=True)
        return
    if claimed:  # an edited report keeps its old digest, so that slimcnn verify detects the edit
        claim(data, page)
    typer.echo(f"report: {page}")


def _loaded(
    model: str, weights: Path | None, arguments: dict[str, Any], data: str, image_size: str | None, limit: int | None,
    verify: bool, show: Show, **how: Any,
) -> Loaded:  # fmt: skip
    """Load a network and its dataset."""
    from pydantic import ValidationError

    from slimcnn.errors import RecipeError
    from slimcnn.running.loading import load_with_data
    from slimcnn.running.settings import Data, Network, explain

    try:
        network = Network(model=model, weights=str(weights) if weights else None, verify=verify, arguments=arguments)
        images = Data(**given(name=data, image_size=image_size, limit=limit), **how)
    except ValidationError as error:
        raise RecipeError(explain(error)) from None
    return load_with_data(network, images, show)


def _names_of(checkpoints: list[Path]) -> list[str]:
    """Label checkpoints by file name, or by folder and file name if file names repeat."""
    from slimcnn.checkpoints import is_checkpoint
    from slimcnn.errors import ModelError

    names = [path.stem for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in checkpoints]
    if len(set(names)) < len(names):
        raise ModelError(f"two checkpoints have the same name ({', '.join(names)}), which labels the plots: rename one")
    for path in checkpoints:
        if not is_checkpoint(path):
            raise ModelError(
                f"{path} is not a slimcnn checkpoint, so its network is unknown: write one with slimcnn train"
            )
    return names


@app.command()
def doctor(as_json: options.AsJson = False) -> None:
    """Check this machine: versions, devices, extras, runtimes that work, free memory and disk, and what to install.

    Example: slimcnn doctor
    """
    from slimcnn import views

    with watched(as_json) as show:
        view = views.doctor(show)
    print_view(view, as_json)
