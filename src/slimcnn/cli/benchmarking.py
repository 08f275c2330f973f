"""The `benchmark` command: compare networks in their target runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.reading import arguments_of, given, shape_of
from slimcnn.cli.showing import print_view
from slimcnn.show import watched

if TYPE_CHECKING:
    from slimcnn.benchmarking import Benchmark

MEASURED = "Measurement"
PAGE, DATA = "benchmark.html", "benchmark.json"


@app.command()
def benchmark(
    what: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, checkpoints or exported files (model.onnx, model.xml ...)."),
    ] = None,
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    model_arg: options.Arguments = [],  # noqa: B006 - typer copies it
    data: Annotated[
        str, typer.Option(help="Dataset for the metric. Default: that of the run.", rich_help_panel=options.NETWORK)
    ] = "",
    image_size: options.ImageSize = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of images for it.", rich_help_panel=options.NETWORK),
    ] = None,
    part: Annotated[
        str, typer.Option(help="Split: test, validation or train.", rich_help_panel=options.NETWORK)
    ] = "test",
    input_: options.Input = "",
    runtime: Annotated[
        str,
        typer.Option(
            help="torch, torch_compile, onnxruntime, openvino, executorch, ncnn, separated by commas. Default: torch "
            "(eager) and all that are installed.",
            rich_help_panel=MEASURED,
        ),
    ] = "",
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,64.", rich_help_panel=MEASURED)] = "1",
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads, such as 1,2.", rich_help_panel=MEASURED)] = "1",
    seconds: Annotated[
        float,
        typer.Option(min=0, help="Timing budget per runtime, batch size and thread count.", rich_help_panel=MEASURED),
    ] = 4.0,
    processes: Annotated[
        int,
        typer.Option(
            min=0, help="Number of fresh processes that measure memory; 0: do not measure it.", rich_help_panel=MEASURED
        ),
    ] = 3,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Maximum gap between the recommended network and the best, in points or units of the metric. "
            "Default: 1 point, or 1 % of a metric that is no percentage.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for benchmark.html and benchmark.json. Default: the run folder.", rich_help_panel=options.RUN
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare latency, accuracy, file size, memory and energy of networks in several runtimes; recommend one.

    Example: slimcnn benchmark runs/r56 --runtime torch,onnxruntime,openvino --batch 1,64
    """
    from slimcnn import views
    from slimcnn.benchmarking import check, subjects_of
    from slimcnn.errors import DataError

    if part not in ("test", "validation", "train"):
        raise DataError(f"unknown part {part!r}: choose test, validation or train")
    batches, counts = numbers_of(batch, "--batch"), numbers_of(threads, "--threads")
    runtimes = [name for name in runtime.split(",") if name]
    refuse_unusable(runtimes)
    network, settings = _network_and_data(model, weights, verify, model_arg, data, image_size)
    paths = what or []
    folder = out or next((path for path in paths if path.is_dir()), Path())
    with watched(as_json) as show:
        found = subjects_of(
            paths,
            network,
            data=settings,
            input_shape=shape_of(input_),
            images=images,
            part=part,
            verify=verify,
            show=show,
        )
        check(found.candidates, found.example, runtimes, batches, counts, processes)
        last = _measured(
            folder, found, runtimes=runtimes, batches=batches, threads=counts, part=part, seconds=seconds,
            processes=processes, max_drop=max_drop, show=show,
        )  # fmt: skip
    print_view(views.benchmark(last), as_json)
    if not as_json:
        typer.echo(f"page: {folder / PAGE}\n      {folder / DATA}")


def _measured(folder: Path, subjects: Any, **settings: Any) -> Benchmark:
    """Run the benchmark; page and JSON are written after every setting, so that Ctrl-C loses no results."""
    from dataclasses import replace

    from slimcnn.benchmarking import compare

    last = None
    try:
        for found in compare(
            subjects.candidates, subjects.example, images=subjects.images, task=subjects.task,
            classes=subjects.classes, **settings,
        ):  # fmt: skip
            last = replace(found, notes=subjects.notes, metric=subjects.metric)
            write_benchmark(last, folder)
    except KeyboardInterrupt:
        kept = f"; {len(last.rows)} rows saved in {folder / PAGE} and {DATA}" if last else ""
        typer.echo(f"slimcnn: interrupted{kept}", err=True)
        raise typer.Exit(130) from None
    assert last is not None
    return last


def write_benchmark(found: Benchmark, folder: Path) -> None:
    """Write benchmark.html and benchmark.json; in a run folder, add them to the manifest."""
    import json

    from slimcnn import views
    from slimcnn.files import write_text
    from slimcnn.manifest import claim
    from slimcnn.reporting import render_page

    view = views.benchmark(found)
    write_text(folder / DATA, json.dumps(view.data, indent=1) + "\n")
    write_text(folder / PAGE, render_page(view.title, view.headline, view.sections))
    claim(folder / DATA, folder / PAGE)


def numbers_of(text: str, option: str) -> list[int]:
    """Parse positive integers separated by commas.

    >>> numbers_of("1,64", "--batch")
    [1, 64]
    """
    from slimcnn.errors import ModelError

    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ModelError(f"{option} {text!r}: expected positive integers separated by commas, such as 1,64")
    return list(dict.fromkeys(int(part) for part in parts))


def refuse_unusable(runtimes: list[str]) -> None:
    """Raise an error for unknown or missing runtimes, before anything is loaded."""
    from slimcnn.benchmarking import TITLES
    from slimcnn.errors import ExportError, UnknownName
    from slimcnn.exporting import why_not

    for name in runtimes:
        if name not in TITLES:
            raise UnknownName("runtime", name, TITLES)
        if name != "torch_compile" and (why := why_not(name)):
            raise ExportError(why)


def _network_and_data(
    model: str, weights: Path | None, verify: bool, model_arg: list[str], data: str, image_size: str | None
) -> tuple[Any, Any]:
    from pydantic import ValidationError

    from slimcnn.errors import RecipeError
    from slimcnn.running.settings import Data, Network, explain

    try:
        network = None
        if model or weights:
            plain = given(weights=str(weights) if weights else None)
            network = Network(model=model, verify=verify, arguments=arguments_of(model_arg), **plain)
        return network, Data(**given(name=data, image_size=image_size)) if data else None
    except ValidationError as error:
        raise RecipeError(explain(error)) from None
