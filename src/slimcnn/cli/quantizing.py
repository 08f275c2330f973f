"""The `quantize` command: write int8 files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.showing import print_json, print_tables
from slimcnn.show import watched

if TYPE_CHECKING:
    from slimcnn.running.step import State
    from slimcnn.show import Show


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="Run folder, or a checkpoint.")],
    engine: Annotated[str, typer.Option(help="Quantization engine (*slimcnn list engines*).")] = "nncf",
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0,
            help="Maximum loss of top-1, mean IoU, mAP@50 ... in the metric's unit. Default: 0.5 percentage points.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images for calibration; labels are not used.")] = 300,
    epochs: Annotated[
        int,
        typer.Option(min=0, help="Epochs of fine-tuning with simulated int8 if accuracy drops more; engine nncf only."),
    ] = 0,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Peak learning rate of fine-tuning.")] = 0.001,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for measuring latency.")] = 1,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Output folder. Default: the run folder, or exported."),
    ] = None,
    verify: options.Verify = True,
    data: options.DataName = "",
    force: Annotated[bool, typer.Option(help="Overwrite files of another network.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Quantize a network to int8 within an accuracy limit, and report whether it is faster on this machine.

    As few layers as needed stay in float: those that lose the most in int8. The float file is written beside it.

    Example: slimcnn quantize runs/r56 --engine nncf --max-drop 0.5
    """
    from tempfile import TemporaryDirectory

    from pydantic import ValidationError

    from slimcnn.errors import RecipeError
    from slimcnn.exporting import PARITY
    from slimcnn.manifest import claim
    from slimcnn.reporting import tables
    from slimcnn.running.settings import explain
    from slimcnn.running.step import Context
    from slimcnn.steps.quantize import Quantize, about_quantized
    from slimcnn.training.processes import launched

    try:
        settings = Quantize(
            engine=engine, max_drop=max_drop, images=images, epochs=epochs, learning_rate=learning_rate, threads=threads
        )
    except ValidationError as error:
        raise RecipeError(explain(error)) from None
    folder = out or (source if source.is_dir() else Path("exported"))
    with watched(as_json) as show, TemporaryDirectory(prefix="slimcnn-") as training:
        state = _state_of(source, data, verify, show)
        settings.rehearse(state)
        at = Context(Path(training), launched(None), show)
        found = settings.quantized(state, at, folder, [], force)
    claim(folder / PARITY, *found.files, *(path for path in found.float_files if path.exists()))
    if as_json:
        print_json(dict(found.entry) | {"path": str(found.path)})
        return
    print_tables(tables([about_quantized(found)]))
    typer.echo(f"{found}")
    typer.echo(found.advice if found.within else f"NOT REACHED: {found.advice}")


def _state_of(source: Path, data: str, verify: bool, show: Show) -> State:
    """Load the final state of a run, or a checkpoint with its dataset."""
    from slimcnn.errors import ExportError
    from slimcnn.running.loading import load_subject
    from slimcnn.running.opening import images_of, open_run
    from slimcnn.running.step import State

    if source.is_dir():
        if data:
            raise ExportError(f"--data {data} is only for checkpoints, and {source} is a run folder: remove --data")
        return open_run(source, show)
    model, _ = load_subject("", source, verify=verify)
    show.say(f"loading {data or 'the dataset of the checkpoint'}")
    return State(model, model, images_of(source, data))
