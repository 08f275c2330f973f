"""The `verify` command: check a finished run again."""

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
    folder: Annotated[Path, typer.Argument(help="Run folder, or folder of exported files.")],
    data: Annotated[str, typer.Option(help="Dataset of the test images. Default: that of the recipe.")] = "auto",
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Skip the evaluation; the certificate records this.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="For a custom network: package.module:function as in the recipe. This code is run.")
    ] = "",
    source: Annotated[
        Optional[Path], typer.Option(help="Checkpoint from which the files were exported, if it is in another folder.")  # noqa: UP045
    ] = None,
    manifest: Annotated[
        str, typer.Option(help="Expected SHA-256 of manifest.json, as recorded when the run ended.")
    ] = "",
    out: Annotated[Optional[Path], typer.Option(help="Folder for certificate.json. Default: the run folder.")] = None,  # noqa: UP045
    page: Annotated[Optional[Path], typer.Option(help="Also write the certificate as an HTML page.")] = None,  # noqa: UP045
    as_json: options.AsJson = False,
) -> None:
    """Verify the claims of a run from its files alone: digests, prune == mask, sizes, accuracy.

    Writes certificate.json. The exit code is 1 if a claim is false.

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
