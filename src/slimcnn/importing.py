"""Import users' Python modules, also from the current directory, with one-line errors."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from slimcnn.errors import SlimcnnError


def import_module(name: str, purpose: str, refusal: type[SlimcnnError]) -> ModuleType:
    """Import an installed module, or one in the current directory, by name; this runs its code.

    Args:
        name: the module, such as "my_package.module".
        purpose: what the import is for, as the user wrote it; part of the error message.
        refusal: the class of the error to raise.

    >>> import_module("json", "--import json", SlimcnnError).__name__
    'json'
    >>> import_module("no_such_module", "--import no_such_module", SlimcnnError)
    Traceback (most recent call last):
    slimcnn.errors.SlimcnnError: no module 'no_such_module' for '--import no_such_module': it is neither installed nor
    in the current directory
    """
    importlib.invalidate_caches()
    try:
        with working_directory_on_path():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise refusal(
                f"no module {error.name!r} for {purpose!r}: it is neither installed nor in the current directory"
            ) from error
        raise refusal(f"importing {name!r} for {purpose!r} failed: {one_line(error)}") from error
    except SlimcnnError:
        raise
    except (Exception, SystemExit) as error:
        raise refusal(f"importing {name!r} for {purpose!r} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Describe an error raised by user code in one line: type, first line of the message, file and line number."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{where}"


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Put the current directory on `sys.path` within the block, as `python -m` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the imported code may have removed it
            sys.path.remove(folder)
