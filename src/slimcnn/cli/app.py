"""The root command and its global option --import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from slimcnn.cli.help import Command, CommandGroup


class App(typer.Typer):
    """Commands whose help fits one page."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(name, **({"cls": Command} | settings))


app = App(
    cls=CommandGroup,
    name="slimcnn",
    help="Make trained convolutional networks smaller and faster, and prove that nothing broke.",
    epilog="Start with: slimcnn compress --model resnet8 --data digits --pretrain 20 --macs 0.5 --out runs/first",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from slimcnn import __version__

        typer.echo(f"slimcnn {__version__}")
        raise typer.Exit


@app.callback()
def root(
    import_: Annotated[
        list[str],
        typer.Option(
            "--import", help="A Python module that registers steps, criteria, losses ... (docs/extending.md)."
        ),
    ] = [],  # noqa: B006 - typer copies it
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make trained convolutional networks smaller and faster, and prove that nothing broke."""
    if import_:
        from slimcnn.registry import import_plugin

        for name in import_:
            import_plugin(name)
