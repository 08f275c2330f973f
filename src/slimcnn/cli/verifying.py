"""The command that checks a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.showing import print_view
from slimcnn.show import watched


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run, or of exported files.")],
    data: Annotated[str, typer.Option(help="The test images; default: those of the recipe.")] = "auto",
    no_data: Annotated[bool, typer.Option("--no-data", help="Do not evaluate; the certificate says so.")] = False,
    model: Annotated[
        str, typer.Option(help="For a network of your own, package.module:function as in the recipe; it is run.")
    ] = "",
    source: Annotated[
        Optional[Path], typer.Option(help="The checkpoint that exported files came from, if it lies elsewhere.")  # noqa: UP045
    ] = None,
    manifest: Annotated[
        str, typer.Option(help="SHA-256 of manifest.json, noted when the run ended, to compare with.")
    ] = "",
    out: Annotated[Optional[Path], typer.Option(help="Folder for certificate.json; default: the run's.")] = None,  # noqa: UP045
    page: Annotated[Optional[Path], typer.Option(help="Write the certificate as an HTML page too.")] = None,  # noqa: UP045
    as_json: options.AsJson = False,
) -> None:
    """Check again what a run claimed, from its files alone: digests, prune == mask, sizes, accuracy.

    Writes certificate.json; exit code 1 if a claim is not true.

    Example: slimcnn verify runs/r56
    """
    from slimcnn.manifest import CERTIFICATE
    from slimcnn.verifying import verify as verify_folder
    from slimcnn.views import View

    with watched(as_json) as show:
        found = verify_folder(
            folder, data=None if no_data else data, model=model or None, source=source, manifest=manifest, out=out,
            show=show,
        )  # fmt: skip
    view = View(found.title, found.headline, (found.section,), found.model_dump(mode="json"))
    print_view(view, as_json, page=page)
    if not as_json:
        typer.echo(f"certificate: {(out or folder) / CERTIFICATE}")
    if found.failed:
        raise typer.Exit(1)
