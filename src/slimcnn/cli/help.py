"""Help pages that fit a terminal of 80 x 40: an example first, the important options; --help-all prints all of them."""

from __future__ import annotations

import difflib
import inspect
import re
import shutil
import textwrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GROUPS = {
    "Make a network smaller": {
        "compress": "Prune to a target, prove the cut, recover accuracy, export.",
        "quantize": "Quantize to int8 within an accuracy limit.",
        "rewrite": "Replace structure with cheaper structure.",
        "distill": "Train a student network from a teacher.",
        "train": "Train or fine-tune a network.",
        "run": "Run a recipe, or a chain of steps.",
        "search": "Join the search of another process.",
        "study": "Compare settings over seeds, with statistics.",
    },
    "Ship it": {
        "export": "Write files for runtimes, and check them.",
        "benchmark": "Compare networks in their runtimes.",
        "verify": "Check what a finished run claims.",
        "show": "Try both networks on your images in the browser.",
    },
    "Look at a network or a run": {
        "inspect": "Which channels can go, which are locked, and why.",
        "measure": "Parameters, MACs, bytes and latency.",
        "evaluate": "Top-1, top-5 and loss on a dataset.",
        "report": "Print the results of a finished run.",
        "norms": "Filter norms before and after pruning.",
        "closeness": "How close networks find each pair of classes.",
        "zoo": "Compact networks: published accuracy, cost here.",
    },
    "Find your way": {
        "list": "Networks, criteria, losses, steps: all names.",
        "doctor": "Versions, devices and runtimes of this machine.",
    },
}
"""Every command once, with a summary that fits one line."""

ESSENTIAL = {
    "compress": "model weights data macs latency max_drop curve recover epochs to out dry_run help",
    "train": "model weights data epochs learning_rate keep out devices help",
    "rewrite": "model weights data rewrite init epochs out help",
    "distill": "teacher teacher_weights student student_weights data loss epochs teacher_cache out help",
    "run": "recipe steps model weights data out devices set_ help",
    "benchmark": "what runtime data images batch threads max_drop out as_json help",
    "export": "source to model weights data out bake_normalization dynamic_size help",
    "quantize": "source engine max_drop epochs data out help",
    "evaluate": "weights model data part as_json help",
    "inspect": "model weights input_ rewrite inexact html as_json help",
    "norms": "model weights criteria pruning_ratio out help",
    "study": "recipe out dry_run budget join table publish help",
}
"""The options that --help shows; commands that are not listed show all of theirs."""

VALUES = {
    "model": "NAME", "teacher": "NAME", "student": "NAME", "data": "NAME", "weights": "FILE", "macs": "0.5",
    "params": "0.5", "size": "500kB", "memory": "8MB", "latency": "1.2ms", "pruning_ratio": "0.5", "curve": "0.8,0.6",
    "out": "FOLDER", "plan": "FILE", "model_arg": "NAME=VALUE", "set_": "NAME=VALUE", "input_": "3x224x224",
    "max_drop": "POINTS", "epochs": "N", "pretrain": "N", "seed": "N", "batch_size": "N", "batch": "N", "threads": "N",
    "devices": "N", "limit": "N", "image_size": "N", "resize": "N", "budget": "2h", "steps": "CHAIN", "to": "FORMATS",
    "loss": "SUM",
    "teacher_weights": "FILE", "student_weights": "FILE", "join": "FOLDER", "storage": "URL", "seconds": "N",
    "html": "[FILE]",
}  # fmt: skip
"""What stands behind an option's name; VALUE for the others."""


class Command(TyperCommand):
    """A command whose --help fits one page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page for --help."""
        formatter.write(page_of(self, ctx))


class CommandGroup(TyperGroup):
    """The root command: its --help lists all commands by purpose, and it answers for the commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print a command's page before typer imports what it needs to read values."""
        asked = {"-h", "--help", "--help-all"} & set(args[1:])
        if asked and args[0] in self.commands:
            typer.echo(page_of(self.commands[args[0]], ctx, everything="--help-all" in asked), nl=False)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page for --help."""
        lines = [*_wrapped(self.help or "", 0), "", *_examples(self.epilog or ""), ""]
        for title, commands in GROUPS.items():
            lines += [title, *(f"  {name:11}{summary}" for name, summary in commands.items())]
        others = sorted(set(self.commands) - {name for commands in GROUPS.values() for name in commands})
        lines += ["Others", *(f"  {name}" for name in others)] if others else []
        options = [(label, _first_sentence(text).partition(", to ")[0]) for label, text in _described(self, ctx)]
        lines += ["Options", *_rows(options, 24), "", "slimcnn COMMAND --help: an example and the options of a command"]
        formatter.write("\n".join(lines) + "\n")


def page_of(command: Any, ctx: Any, *, everything: bool = False) -> str:
    """Return the help page of a command: summary, examples, usage, options."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    examples = [part for part in paragraphs if part.startswith("Example: ")]
    prose = [part for part in paragraphs if part not in examples]
    shown = None if everything or command.name not in ESSENTIAL else set(ESSENTIAL[command.name].split())
    lines = []
    for paragraph in prose if everything or shown is None else prose[:1]:
        lines += [*_wrapped(_plain(paragraph), 0), ""]
    for example in examples if everything else examples[:1]:
        lines += _examples(example)
    usage = " ".join(f"[{p.name}]" if not p.required else p.name for p in command.params if _is_argument(p))
    lines += ["", f"Usage: slimcnn {command.name} [OPTIONS] {usage.upper()}".rstrip(), ""]
    groups: dict[str, list[tuple[str, str]]] = {}
    for panel, name, label, text in _described_with_panels(command, ctx):
        if shown is None or name in shown:
            groups.setdefault(panel, []).append((label, text if everything else _first_sentence(text)))
    width = min(26, max(len(label) for rows in groups.values() for label, _ in rows) + 4)
    for panel, rows in groups.items():
        lines += [panel, *_rows(rows, width)]
    hidden = 0 if shown is None else sum(p.name not in shown for p in command.params)
    lines += ["", f"{hidden} more options: slimcnn {command.name} --help-all"] if hidden else []
    return "\n".join(lines) + "\n"


def nearest_option(error: Any) -> str:
    """Return one line for an option that does not exist, with the nearest one that does."""
    name = error.option_name
    known = [option for param in error.ctx.command.params for option in (*param.opts, *param.secondary_opts)]
    near = difflib.get_close_matches(name, [one for one in known if one.startswith("--")], n=1, cutoff=0.5)
    guess = f": did you mean {near[0]}?" if near else ""
    return f"no option {name}{guess} ({error.ctx.command_path} --help-all lists all)"


def _described_with_panels(command: Any, ctx: Any) -> list[tuple[str, str, str, str]]:
    found = []
    for param in command.get_params(ctx):
        if getattr(param, "hidden", False):
            continue
        panel = "Arguments" if _is_argument(param) else getattr(param, "rich_help_panel", None) or "Options"
        found.append((panel, param.name or "", _label(param), _plain(" ".join((param.help or "").split()))))
    return found


def _described(command: Any, ctx: Any) -> list[tuple[str, str]]:
    return [(label, text) for _, _, label, text in _described_with_panels(command, ctx)]


def _label(param: Any) -> str:
    """Return an option as one writes it: --macs 0.5, --no-verify, -h, --help."""
    if _is_argument(param):
        return str(param.name).upper()
    if getattr(param, "is_flag", False) or param.name == "help":
        if param.secondary_opts:
            return str(param.secondary_opts[0] if param.default else param.opts[0])
        return ", ".join(sorted(param.opts, key=len))
    return f"{param.opts[0]} {VALUES.get(param.name, 'VALUE')}"


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _examples(text: str) -> list[str]:
    """Return the lines of an example, indented."""
    line = text.removeprefix("Example: ").removeprefix("Start with: ")
    return textwrap.wrap(line, _width() - 2, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _rows(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Return two columns; a label that is too long has a line for itself."""
    lines = []
    for label, text in rows:
        told = _wrapped(text, width) or [""]
        if len(label) + 3 > width:
            lines += [f"  {label}", *(" " * width + line for line in told)]
        else:
            lines += [f"  {label}".ljust(width) + told[0], *(" " * width + line for line in told[1:])]
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, _width() - indent, break_on_hyphens=False, break_long_words=False)


def _width() -> int:
    return min(max(shutil.get_terminal_size((80, 40)).columns, 60), 100)


def _plain(text: str) -> str:
    """Remove the emphasis around commands.

    >>> _plain("A name (*slimcnn list networks*).")
    'A name (slimcnn list networks).'
    """
    return re.sub(r"\*(slimcnn[^*]+)\*", r"\1", text)


def _first_sentence(text: str) -> str:
    """Return the first sentence, up to the first colon or semicolon if it is long.

    >>> _first_sentence("Resize all images to this many pixels. Default: no resizing.")
    'Resize all images to this many pixels.'
    """
    sentence = re.split(r"(?<=[^.]\.) (?=[A-Z])", text)[0]
    if len(sentence) > 104:
        sentence = re.split(r"[;:] ", sentence)[0].rstrip(".") + "."
    return sentence
