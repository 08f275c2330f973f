"""The command line: one function per command. Slow imports happen inside the functions."""

from __future__ import annotations

import os
import sys
import warnings
from io import TextIOWrapper
from typing import NoReturn, TextIO

import typer

from slimcnn.cli import running  # first: its commands come first in --help

# isort: split
from slimcnn.cli import benchmarking, exporting, looking, playing, quantizing, studying, verifying
from slimcnn.cli.app import app
from slimcnn.cli.help import nearest_option
from slimcnn.cli.running import Interrupted
from slimcnn.errors import Note, SlimcnnError

USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of all errors in a command line; typer has it without a public name."""

__all__ = ["benchmarking", "exporting", "looking", "main", "playing", "quantizing", "running", "studying", "verifying"]


def main() -> None:
    """Run the command line; user errors print one line and exit with code 2."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal in ASCII, or a file name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = app(args=imports_first(sys.argv[1:]), standalone_mode=False)
        finally:
            sys.stdout.flush()  # a full device would else be noticed after the last handler
        sys.exit(code if isinstance(code, int) else 0)  # an int: a command that ended with typer.Exit
    except SlimcnnError as error:
        _stop(str(error), 2)
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            sys.exit(0)
        _stop(usage_in_words(error), 2)
    except typer.Abort:
        _stop("interrupted", 130)
    except Interrupted:
        _stop("interrupted; run the same command to resume", 130)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = str(error).splitlines()[0] if str(error) else "none is left"
        _stop(f"not enough memory ({what}): use smaller images, smaller batches or fewer images (--limit)", 2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        what = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        _stop(f"{what}: {error.strerror}; check the path, its permissions and the free space", 2)


def usage_in_words(error: Exception) -> str:
    """Say in one line what is wrong with a command line."""
    if hasattr(error, "option_name") and getattr(error, "ctx", None) is not None and hasattr(error, "possibilities"):
        return nearest_option(error)
    text = " ".join(error.format_message().split()) if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    text = text[:1].lower() + text[1:].rstrip(".")
    return f"{text} ({context.command_path} --help)" if context is not None else text


def _stop(text: str, code: int) -> NoReturn:
    """Print one line on stderr and exit; on a full device nothing is printed, and the exit code is the same."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is sys.stderr:
                typer.echo(f"slimcnn: {text}", err=True)
            stream.flush()
        except OSError:  # the interpreter would flush it again at exit, and change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


_show_any_warning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """Print a `Note` as one line, any other warning as Python does."""
    if issubclass(category, Note):
        typer.echo(f"slimcnn: note: {message}", err=True)
    else:
        _show_any_warning(message, category, filename, lineno, file, line)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: on the CPU, PyTorch raises a plain `RuntimeError`.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)


def imports_first(arguments: list[str]) -> list[str]:
    """Move --import, which users may write anywhere, in front of the command.

    >>> imports_first(["run", "r.toml", "--import", "mine", "--json"])
    ['--import', 'mine', 'run', 'r.toml', '--json']
    """
    found: list[str] = []
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument == "--import":
            found += [argument, next(given, "")]
        elif argument.startswith("--import="):
            found.append(argument)
        else:
            rest.append(argument)
    return [*found, *rest]
