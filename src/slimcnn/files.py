"""Atomic file writes, and path checks with one-line errors."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from slimcnn.errors import RunError, SlimcnnError
from slimcnn.process_ids import PATTERN, is_running, this_process

if TYPE_CHECKING:
    from pydantic import BaseModel

Decided = TypeVar("Decided", bound="BaseModel")

ABANDONED = 24 * 3600.0
"""Seconds after which an unchanged temporary file of another host counts as a leftover; its process is not visible."""

FileKind: TypeAlias = Literal["file", "folder", "special", "nothing"]
"""What a path is; special: a pipe, a socket or a device, which may block for ever when it is read."""

_PART = re.compile(rf"\.?(?P<target>.+)\.(?P<process>{PATTERN})\.part")


def cache_folder(root: str | Path | None = None) -> Path:
    """Return the folder for downloads and measurements.

    This is `root`, else the environment variable SLIMCNN_CACHE, else the user's cache folder.

    >>> cache_folder("~/data") == Path.home() / "data"
    True
    """
    chosen = root or os.environ.get("SLIMCNN_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    from platformdirs import user_cache_path

    return user_cache_path("slimcnn", appauthor=False)


@contextmanager
def replacing(path: Path, *, parents: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` only if the block succeeds.

    The data is synced to disk before the rename. A crash, `kill -9` or a full disk at any moment leaves either the
    old file or the new one. Temporary files that killed processes left for the same path are removed first (see
    `remove_leftovers`).

    Args:
        path: the file to write.
        parents: create missing folders; if False, a missing folder is an error.

    Raises:
        RunError: the folder is missing or cannot be written to, or the disk is full.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "number.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("42")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('42', 1)
    """
    if not parents:
        require_folder(path.parent)
    temporary = part_of(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, parents: bool = True) -> None:
    """Write a text file atomically (see `replacing`)."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        found = error.object[max(error.start - 40, 0) : error.end].rpartition("\n")[2]
        raise RunError(f"cannot write {path}: {found!a} is not UTF-8; rename what it names") from error
    with replacing(path, parents=parents) as temporary:
        temporary.write_bytes(content)


def part_of(path: Path) -> Path:
    """Return the path of the temporary file or folder that this process uses while writing `path`."""
    return path.with_name(f".{path.name}.{this_process()}.part")


def remove_leftovers(folder: Path, target: str = "") -> list[Path]:
    """Remove temporary files and folders left by killed processes; return their paths.

    Files of running processes stay. Processes of other hosts are not visible, so their files are removed after a day
    without changes.

    Args:
        folder: searched with all its subfolders.
        target: the name of one file; only leftovers of this file, directly in `folder`, are removed.
    """
    found = [part for part in (folder.iterdir() if target else folder.rglob(".*.part")) if _is_leftover(part, target)]
    for part in found:
        _remove(part)
    return found


def temporary_folder(name: str) -> Path:
    """Create a folder for temporary files of this process, in the system's folder for them (TMPDIR).

    The caller deletes it. Folders of the same name that killed processes left are removed first.

    Raises:
        RunError: the folder cannot be created.
    """
    home = Path(tempfile.gettempdir())
    try:
        for left in home.glob(f"slimcnn-{name}-*.part"):
            if _is_leftover(left, ""):
                _remove(left)
        return Path(tempfile.mkdtemp(prefix=f"slimcnn-{name}-", suffix=f".{this_process()}.part", dir=home))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write to {home}: {reason}; free some space or set TMPDIR to another folder") from error


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _is_leftover(part: Path, target: str) -> bool:
    found = _PART.fullmatch(part.name)
    if found is None or target not in ("", found["target"]):
        return False
    running = is_running(found["process"])
    if running is not None:
        return not running
    try:
        return time() - part.stat().st_mtime > ABANDONED
    except OSError:
        return False


def require_folder(folder: Path, holding: str = "") -> None:
    """Check that the folder of a run still exists.

    Args:
        folder: the folder of a run.
        holding: a file that the run wrote into the folder at the start. If it is missing, the folder was deleted and
            a later write created it again.

    Raises:
        RunError: the folder or the file no longer exists.
    """
    if kind_of(folder) != "folder" or (holding and kind_of(folder / holding) == "nothing"):
        raise RunError(
            f"the folder {folder} was deleted while the run was writing to it; "
            "run the same command again to start over, or choose another folder"
        )


def kind_of(path: Path, error: type[SlimcnnError] = RunError) -> FileKind:
    """Return what a path is; handles the PermissionError of `Path.is_file`.

    Args:
        path: the path.
        error: raised if a parent folder is not accessible, or a name is not UTF-8: no file of a run could hold it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> kind_of(folder), kind_of(folder / "no such file")
    ('folder', 'nothing')
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise error(f"cannot use {str(path)!a}: its name is not UTF-8; rename it") from None
    try:
        if path.is_dir():
            return "folder"
        return "file" if path.is_file() else "special" if path.exists() else "nothing"
    except OSError as reason:
        raise error(f"cannot access {path}: {reason.strerror}; check the permissions of its folder") from reason


def require_readable(path: Path, error: type[SlimcnnError], what: str = "file") -> None:
    """Check that a regular file exists and is readable; libraries report a permission error as a missing file.

    Args:
        path: the file.
        error: raised if it does not exist or is not readable.
        what: the kind of file, for the message.
    """
    refuse_special(path, error)
    kind = kind_of(path, error)
    if kind != "file":
        raise error(f"no {what} {path}" + (": it is a folder" if kind == "folder" else ""))
    try:
        path.open("rb").close()
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror}; check its permissions") from reason


def refuse_special(path: Path, error: type[SlimcnnError]) -> None:
    """Raise `error` if a path is a pipe, a socket or a device."""
    if kind_of(path, error) == "special":
        raise error(f"{path} is not a regular file but a pipe or a device: save its content to a file")


def read_text(path: Path, error: type[SlimcnnError], what: str = "file") -> str:
    """Read a text file in UTF-8.

    Args:
        path: the file.
        error: raised if the file does not exist, cannot be read or is not text.
        what: the kind of file, for the message.
    """
    refuse_special(path, error)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"cannot read the {what} {path}: {getattr(reason, 'strerror', None) or reason}") from reason


def read_decision(path: Path, kind: type[Decided], purpose: str) -> Decided | None:
    """Read what an earlier start of a run has decided; None if nothing was stored.

    Raises:
        RunError: the file cannot be read, or is damaged; `purpose` says what happens if it is deleted.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}".partition("\n")[0]
        raise RunError(f"cannot use {path}: {reason}; delete it to {purpose}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"cannot use {path}: {reason}; delete it to {purpose}") from error
