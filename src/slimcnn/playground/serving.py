"""Serve one folder on this machine alone, for browsers that do not open files and for tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from slimcnn.errors import RunError

LOOPBACK = "127.0.0.1"


class FolderServer(SimpleHTTPRequestHandler):
    """Gives the files of one folder to browsers that ask for this machine by name, silently.

    A page elsewhere may point a name of its own at 127.0.0.1 and so read what is served here. Requests under any other
    name are therefore refused.
    """

    def send_head(self) -> Any:
        """Refuse foreign host names and everything that leads out of the folder; else find the file."""
        name = self.headers.get("Host", "").rsplit(":", 1)[0]
        if name not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "ask for 127.0.0.1")
            return None
        root = Path(self.directory).resolve()
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """List nothing."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Give a server of `folder` on 127.0.0.1; `serve_forever()` runs it, and the block's end closes it.

    Args:
        folder: what is served.
        port: 0 takes a free one, see `server_port`.

    Raises:
        RunError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(FolderServer, directory=str(folder)))
    except OSError as error:
        raise RunError(f"cannot serve on port {port}: {error.strerror}; leave --port out to take a free one") from error
    with server:
        yield server
