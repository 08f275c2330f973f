"""The command that writes int8 files."""

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
    source: Annotated[Path, typer.Argument(help="A finished run's folder, or a checkpoint.")],
    engine: Annotated[str, typer.Option(help="What quantizes (*slimcnn list engines*).")] = "nncf",
    max_drop: Annotated[float, typer.Option(min=0, help="Points of top-1 that int8 may lose.")] = 0.5,
    images: Annotated[int, typer.Option(min=1, help="Training images for calibration, without labels.")] = 300,
    epochs: Annotated[
        int, typer.Option(min=0, help="Fine-tune with simulated int8 where more is lost; engine nncf.")
    ] = 0,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Of fine-tuning, the peak.")] = 0.001,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads on which both files are timed.")] = 1,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where to. Default: the run's folder, or exported."),
    ] = None,
    data: options.DataName = "",
    force: Annotated[bool, typer.Option(help="Replace files of another network.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a network in int8, as accurate as asked in its runtime, and say whether it is faster here.

    Layers that int8 hurts most stay in float, as few as are needed. The float file lies beside it.

    Example: slimcnn quantize runs/r56 --engine nncf --max-drop 0.5
    """
    from tempfile import TemporaryDirectory

    from slimcnn.exporting import PARITY
    from slimcnn.manifest import claim
    from slimcnn.reporting import tables
    from slimcnn.running.step import Context
    from slimcnn.steps.quantize import Quantize, about_quantized
    from slimcnn.training.processes import launched

    settings = Quantize(
        engine=engine, max_drop=max_drop, images=images, epochs=epochs, learning_rate=learning_rate, threads=threads
    )
    folder = out or (source if source.is_dir() else Path("exported"))
    with watched(as_json) as show, TemporaryDirectory(prefix="slimcnn-") as training:
        state = _state_of(source, data, show)
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


def _state_of(source: Path, data: str, show: Show) -> State:
    """A finished run as it ended, or a checkpoint with the images that it names."""
    from slimcnn.errors import ExportError
    from slimcnn.running.loading import load_subject
    from slimcnn.running.opening import images_of, open_run
    from slimcnn.running.step import State

    if source.is_dir():
        if data:
            raise ExportError(f"--data {data} is for checkpoints: {source} knows its images; leave it out")
        return open_run(source, show)
    model, _ = load_subject("", source)
    show.say(f"loading {data or 'the images of the checkpoint'}")
    return State(model, model, images_of(source, data))
