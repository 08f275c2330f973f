"""Commands that look at a network or a run and change nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.reading import network_and_data, network_of, recipe_of
from slimcnn.cli.showing import print_json, print_tables, showing


@app.command()
def evaluate(
    weights: options.Weights = None,
    model: options.Model = "",
    data: options.DataName = "digits",
    arg: options.Arguments = [],  # noqa: B006
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    part: Annotated[str, typer.Option(help="Which images: test, validation or train.")] = "test",
    as_json: options.AsJson = False,
) -> None:
    """Measure top-1, top-5 and loss of a network on a dataset.

    Example: slimcnn evaluate --weights runs/r56/compressed.safetensors --data cifar10
    """
    from slimcnn.compress import prepare
    from slimcnn.errors import DataError
    from slimcnn.training import evaluate as measure_top1

    if part not in ("test", "validation", "train"):
        raise DataError(f"there is no part {part!r}: choose test, validation or train")
    recipe = recipe_of(network_and_data(model, weights, data, arg, image_size, limit, 0), [])
    with showing(as_json) as show:
        start = prepare(recipe, show)
        show.say(f"evaluating on {part} images")
        found = measure_top1(start.model, getattr(start.dataset, part), start.dataset.normalisation)
    if as_json:
        print_json({"top1": found.top1, "top5": found.top5, "loss": found.loss, "n": found.n, "part": part})
    else:
        typer.echo(
            f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f} on {found.n} {part} images"
        )
        typer.echo(f"normalisation: {start.normalisation}")


@app.command()
def inspect(
    model: options.Model = "",
    weights: options.Weights = None,
    arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    rewrite: options.Rewrite = "",
    inexact: Annotated[bool, typer.Option(help="As in compress: norms over channels lock nothing.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show which channels live and die together, what is locked, where and why.

    Example: slimcnn inspect --model torchvision:mobilenet_v2
    """
    from slimcnn.graph import trace
    from slimcnn.tables import describe_graph, graph_tables

    network, example = network_of(model, weights, arg, input_, rewrite)
    graph = trace(network, example, inexact)
    if as_json:
        print_json(describe_graph(graph))
    else:
        print_tables(graph_tables(graph))


@app.command()
def norms(
    model: options.Model = "",
    weights: options.Weights = None,
    arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    criteria: Annotated[str, typer.Option(help="Criteria to compare, separated by commas.")] = "fpdf,l2,fpgm",
    ratio: Annotated[float, typer.Option(help="Share of every layer's channels that goes.")] = 0.5,
    residual: Annotated[str, typer.Option(help="As in compress.")] = "inner",
    out: Annotated[Path, typer.Option(help="The page.")] = Path("norms.html"),
    as_json: options.AsJson = False,
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

    network, example = network_of(model, weights, arg, input_)
    target = Target(ratio=ratio, residual=residual)  # type: ignore[arg-type]
    network = scatter(network, example) if residual == "scatter" else network
    layers = norms_kept(network, trace(network, example), criteria.split(","), target)
    write_text(out, render_choices(model or str(weights), target.describe(), layers))
    if as_json:
        print_json([asdict(layer) for layer in layers])
    else:
        typer.echo(out)


@app.command()
def closeness(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints; first the teacher, then students.")],
    data: options.DataName = "digits",
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("closeness.html"),
    as_json: options.AsJson = False,
) -> None:
    """Draw how close networks find classes to each other, and the pairs that are taken for one another.

    Example: slimcnn closeness teacher.safetensors kd.safetensors scale_factor.safetensors --data cifar100
    """
    from slimcnn.checkpoints import is_checkpoint
    from slimcnn.closeness import closeness_of
    from slimcnn.compress import prepare
    from slimcnn.errors import ModelError
    from slimcnn.files import write_text
    from slimcnn.reporting.closeness import closest, render_closeness

    names = [path.stem for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in checkpoints]
    if len(set(names)) < len(names):
        raise ModelError(f"checkpoints of the same name, {', '.join(names)}: give each another, they name the maps")
    for path in checkpoints:
        if not is_checkpoint(path):
            raise ModelError(f"{path} is no checkpoint of slimcnn, which says the network: slimcnn train writes one")
    found = {}
    with showing(as_json) as show:
        for name, path in zip(names, checkpoints, strict=True):
            start = prepare(recipe_of(network_and_data("", path, data, [], image_size, limit, 0), []), show)
            classes = start.dataset.classes
            found[name] = closeness_of(start.model, start.dataset.validation, start.dataset.normalisation, classes)
    images = len(start.dataset.validation)
    write_text(out, render_closeness(start.dataset.name, classes, found, images))
    pairs = closest(classes, found)
    if as_json:
        print_json({"classes": list(classes), "images": images, "networks": found})
    else:
        for one, other, values in pairs:
            typer.echo(
                f"{one} is taken for {other}: "
                + ", ".join(f"{v:.2f} ({n})" for n, v in zip(names, values, strict=True))
            )
        typer.echo(out)


@app.command()
def measure(
    model: options.Model = "",
    weights: options.Weights = None,
    arg: options.Arguments = [],  # noqa: B006
    input_: options.Input = "",
    rewrite: options.Rewrite = "",
    layers: Annotated[bool, typer.Option(help="Also every layer.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Count parameters, MACs and bytes of a network, and time it.

    Example: slimcnn measure --model resnet56 --layers
    """
    from slimcnn.measuring import latency
    from slimcnn.measuring import measure as count
    from slimcnn.tables import describe_measurement, measurement_tables

    network, example = network_of(model, weights, arg, input_, rewrite)
    found = count(network, example)
    timed = latency({"network": network}, example)["network"]
    if as_json:
        print_json(describe_measurement(found, timed, layers))
    else:
        print_tables(measurement_tables(found, timed, layers))


@app.command()
def zoo(
    names: Annotated[
        list[str] | None, typer.Argument(help="Networks; default: the survey's six with their sizes.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All compact networks with published accuracy.")] = False,
    runtimes: Annotated[str, typer.Option(help="eager, onnxruntime, openvino; default: what is installed.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For timing, a runtime.")] = 20.0,
    out: Annotated[Path, typer.Option(help="The page with the pictures.")] = Path("zoo.html"),
    as_json: options.AsJson = False,
) -> None:
    """Compare compact networks: published accuracy against params, MACs and the time on this machine.

    Example: slimcnn zoo mobilenet_v2 shiftnet_a --threads 1
    """
    from slimcnn.files import write_text
    from slimcnn.reporting.zoo import ZooRow, render_zoo
    from slimcnn.tables import describe_zoo, zoo_tables
    from slimcnn.zoo import compare, rows_of

    rows = rows_of(names or [], every)
    with showing(as_json) as show:
        found = compare(rows, runtimes=[name for name in runtimes.split(",") if name], batch=batch, threads=threads,
                        seconds=seconds, show=show)  # fmt: skip
    timed = list(found[0].latencies.values())
    lines = [
        ZooRow(
            title=one.published.title, family=one.family, params=one.params, macs=one.macs,
            published=", ".join(filter(None, (one.published.params, one.published.macs))), top1=one.published.top1,
            source=one.published.source, note=one.published.note,
            milliseconds=tuple(time.median_ms for time in one.latencies.values()),
        )
        for one in found
    ]  # fmt: skip
    headline = f"{len(found)} compact networks: published accuracy, measured cost"
    cores = f"{timed[0].threads} thread{'s' * (timed[0].threads > 1)}"
    where = f"{timed[0].device}, {cores}, batch {timed[0].batch}."
    write_text(out, render_zoo(headline, [time.runtime for time in timed], lines, where))
    if as_json:
        print_json(describe_zoo(found))
    else:
        print_tables(zoo_tables(found))
        typer.echo(out)


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="networks, criteria, rewrites, losses, datasets; default: all.")] = "all",
    as_json: options.AsJson = False,
) -> None:
    """List the networks, criteria, rewrites, losses and datasets that there are, with their sources."""
    from slimcnn.tables import describe_names, names_tables

    if as_json:
        print_json(describe_names(kind))
    else:
        print_tables(names_tables(kind))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.")], as_json: options.AsJson = False
) -> None:
    """Show a finished run's numbers again, and render its report.html anew from report.json."""
    from slimcnn.reporting import read_report, summary_table, write_report

    found = read_report(folder)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    home = folder if folder.is_dir() else folder.parent
    print_tables([summary_table(found)])
    typer.echo(f"report: {write_report(found, home)[1]}")
