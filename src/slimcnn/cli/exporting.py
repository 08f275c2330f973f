"""The `export` command: write model files for runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.reading import arguments_of, shapes_of
from slimcnn.cli.showing import print_json
from slimcnn.show import watched


@app.command()
def export(
    source: Annotated[Optional[Path], typer.Argument(help="Run folder, or a checkpoint.")] = None,  # noqa: UP045
    to: Annotated[
        str, typer.Option(help="Export formats (*slimcnn list formats*), separated by commas.", rich_help_panel="Files")
    ] = "onnx",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Output folder. Default: the run folder, or exported.", rich_help_panel="Files"),
    ] = None,
    model: options.Model = "",
    weights: options.Weights = None,
    verify: options.Verify = True,
    model_arg: options.Arguments = [],  # noqa: B006 - typer copies it
    data: options.DataName = "",
    input_: options.Input = "",
    images: Annotated[
        int, typer.Option(min=1, help="Number of test images for the comparison.", rich_help_panel="Files")
    ] = 256,
    bake_normalization: Annotated[
        bool,
        typer.Option(
            help="Include the normalization in the file, which then takes uint8 pixels.", rich_help_panel="Files"
        ),
    ] = False,
    fixed_batch: Annotated[
        bool, typer.Option(help="Fix the batch size to 1, even if the format supports any.", rich_help_panel="Files")
    ] = False,
    dynamic_size: Annotated[
        bool, typer.Option(help="Accept images of any height and width.", rich_help_panel="Files")
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset version.", rich_help_panel="Files")] = 18,
    force: Annotated[bool, typer.Option(help="Overwrite files of another network.", rich_help_panel="Files")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Export a network to one or more formats, and check that the outputs of each file match the network's.

    A fresh process without slimcnn runs each file on test images. The results are in OUT/parity.json.

    Example: slimcnn export runs/r56 --to onnx,openvino
    """
    from slimcnn.exporting import PARITY, how_to_run, read_parity
    from slimcnn.exporting import export as write
    from slimcnn.manifest import claim
    from slimcnn.running.exporting import subject_of

    with watched(as_json) as show:
        subject = subject_of(
            source,
            model,
            weights,
            arguments_of(model_arg),
            data,
            shapes_of(input_),
            images=images,
            verify=verify,
            show=show,
        )
        folder = out or subject.home
        written = write(
            subject.model, subject.example, [name for name in to.split(",") if name], out=folder, images=subject.images,
            compared_on=subject.compared_on, classes=subject.classes, normalization=subject.normalization,
            scaling=subject.scaling,
            bake_normalization=bake_normalization, dynamic_batch=not fixed_batch, dynamic_size=dynamic_size,
            opset=opset, classifies=subject.classifies, force=force, say=show.say,
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
