"""The `show` command: a web page that runs the networks of a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.showing import print_json
from slimcnn.show import watched

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the page. Default: RUN/show.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Number of test images on the page.")] = 12,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    serve: Annotated[
        bool, typer.Option(help="Serve the page on 127.0.0.1 until Ctrl-C, for browsers on other machines.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve. Default: a free port.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Build a page that classifies your images with the original and the compressed network side by side.

    The page is one file that works offline, without a server; it contains both networks and ONNX Runtime.

    Example: slimcnn show runs/r56
    """
    from slimcnn.playground import browser_runtime, playground_of, served, write_playground

    with watched(as_json) as progress:
        what = playground_of(run, samples=samples, show=progress)
        page = write_playground(what, browser_runtime(), out or run / "show")
    if as_json:
        print_json({"page": str(page), "networks": [network.title for network in what.networks]})
    else:
        typer.echo(f"page: {page}")
    if serve:
        with served(page.parent, port) as server:
            _serve(server, open_)
    elif open_:
        _open(page.resolve().as_uri())


def _serve(server: ThreadingHTTPServer, open_: bool) -> None:
    address = f"http://127.0.0.1:{server.server_port}/"
    typer.echo(f"{address}   press Ctrl-C to stop", err=True)
    if open_:
        _open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


def _open(address: str) -> None:
    import webbrowser

    if not webbrowser.open(address):
        typer.echo("no browser found: copy the page to a machine with a browser, or pass --serve", err=True)
