"""An Optuna journal file that survives a power cut, a full disk and `kill -9` in the middle of a line."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from slimcnn.errors import RunError, SearchError

SEAL = "crc32"
"""Key of an entry's checksum."""


class Journal(JournalFileBackend):
    """A file with one JSON object per line; all processes of a search append to it under Optuna's lock file.

    An incomplete line is never read. It is removed before the next line is appended; otherwise both would become one
    unreadable line in the middle of the file. Both happen under the lock, so a line that another process is writing
    is never touched.

    Args:
        path: the file; created if it does not exist.
        say: called with a message if the last line of the file is incomplete.

    Raises:
        RunError: the file cannot be read or written, or the disk is full.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self._path = path
        self._mutex = JournalFileSymlinkLock(str(path))
        with self._one_line():
            super().__init__(str(path), self._mutex)
        with self._locked():
            torn = self._remove_torn_lines()
        if torn and say is not None:
            say(
                f"the last line of the search journal {path} was incomplete (power cut or full disk): "
                f"{torn} bytes were removed; the search continues"
            )

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Read the journal from a line number on; `SearchError` if a line in the middle is damaged."""
        try:
            with self._one_line():
                for log in super().read_logs(log_number_from):
                    yield _unsealed(log)
        except (ValueError, TypeError, RecursionError) as error:
            raise SearchError(
                f"the search journal {self._path} is damaged ({error}); delete it, and the search starts over"
            ) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line for each entry; none of them if the disk is full."""
        lines = "".join(json.dumps(_sealed(log), separators=(",", ":")) + "\n" for log in logs).encode()
        with self._locked():
            if not self._ends_with_a_line():
                self._remove_torn_lines()
            size = self._path.stat().st_size
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                while lines:  # on a nearly full disk, a write stores only the beginning, and the next one fails
                    lines = lines[os.write(file, lines) :]
                os.fsync(file)
            except OSError:
                os.truncate(file, size)
                raise
            finally:
                os.close(file)

    def _ends_with_a_line(self) -> bool:
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _remove_torn_lines(self) -> int:
        """Truncate the file after its last complete line; return the number of bytes removed."""
        content = self._path.read_bytes()
        end = len(content)
        while end and not _is_entry(content[content.rfind(b"\n", 0, end - 1) + 1 : end]):
            end = content.rfind(b"\n", 0, end - 1) + 1
        if end < len(content):
            os.truncate(self._path, end)
        return len(content) - end

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._one_line():
            self._mutex.acquire()
            try:
                yield
            finally:
                with suppress(RuntimeError):  # after a long time, another process may have broken the lock
                    self._mutex.release()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot use the search journal {self._path}: {error.strerror or error}; free some space or check the "
                "permissions of its folder, then run the same command to resume"
            ) from error


def _sealed(log: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with a checksum of its content."""
    return {**log, SEAL: _checksum(log)}


def _unsealed(log: Any) -> dict[str, Any]:
    """Return an entry without its checksum; `ValueError` if it has changed since it was written."""
    content = dict(log)
    if content.pop(SEAL, None) != _checksum(content):
        raise ValueError("an entry has changed since it was written")
    return content


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
