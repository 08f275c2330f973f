"""The command line's root."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="slimcnn",
    help="Make trained convolutional networks smaller and faster, and prove that nothing broke.",
    epilog="Start with: slimcnn compress --model resnet8 --data digits --pretrain 20 --macs 0.5 --out runs/first",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
