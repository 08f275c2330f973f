"""The command that writes files for runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.reading import arguments_of, shape_of
from slimcnn.cli.showing import print_json
from slimcnn.show import watched

if TYPE_CHECKING:
    pass


@app.command()
def export(
    source: Annotated[Optional[Path], typer.Argument(help="A run's folder, or a checkpoint.")] = None,  # noqa: UP045
    to: Annotated[
        str, typer.Option(help="Formats (*slimcnn list formats*), separated by commas.", rich_help_panel="Files")
    ] = "onnx",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where to. Default: the run's folder, or exported.", rich_help_panel="Files"),
    ] = None,
    model: options.Model = "",
    weights: options.Weights = None,
    model_arg: options.Arguments = [],  # noqa: B006 - typer copies it
    data: options.DataName = "",
    input_: options.Input = "",
    images: Annotated[int, typer.Option(min=1, help="Test images to compare on.", rich_help_panel="Files")] = 256,
    bake_normalization: Annotated[
        bool,
        typer.Option(help="Make the normalization part of the file: it takes uint8 pixels.", rich_help_panel="Files"),
    ] = False,
    fixed_batch: Annotated[
        bool, typer.Option(help="One image at once, also where the runtime takes any number.", rich_help_panel="Files")
    ] = False,
    dynamic_size: Annotated[
        bool, typer.Option(help="Images of any height and width.", rich_help_panel="Files")
    ] = False,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators.", rich_help_panel="Files")] = 18,
    force: Annotated[
        bool, typer.Option(help="Replace the export of another network.", rich_help_panel="Files")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a network for runtimes, and prove that each file answers as the network does.

    A fresh process without slimcnn opens each file and predicts on test images; OUT/parity.json holds what it found.

    Example: slimcnn export runs/r56 --to onnx,openvino
    """
    from slimcnn.exporting import PARITY, how_to_run, read_parity
    from slimcnn.exporting import export as write
    from slimcnn.manifest import claim
    from slimcnn.running.exporting import subject_of

    with watched(as_json) as show:
        subject = subject_of(
            source, model, weights, arguments_of(model_arg), data, shape_of(input_), images=images, show=show
        )
        folder = out or subject.home
        written = write(
            subject.model, subject.example, [name for name in to.split(",") if name], out=folder, images=subject.images,
            compared_on=subject.compared_on, classes=subject.classes, normalization=subject.normalization,
            bake_normalization=bake_normalization, dynamic_batch=not fixed_batch, dynamic_size=dynamic_size,
            opset=opset, force=force, say=show.say,
        )  # fmt: skip
    claim(folder / PARITY, *(path for file in written for path in file.files))
    known = read_parity(folder)
    if as_json:
        print_json({file.format: known[file.format] | {"path": str(file.path)} for file in written})
        return
    for file in written:
        typer.echo(f"{file.format}: {file}")
    for line in how_to_run(written[0].format, written[0].path, known[written[0].format]):
        typer.echo(f"    {line}")
