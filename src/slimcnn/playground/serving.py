"""Serve one folder on this machine only, for browsers that cannot open files and for tunnels."""

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
    """Serves the files of one folder for requests to 127.0.0.1 or localhost, without logging.

    Another website could point its own host name at 127.0.0.1 and read the served files (DNS rebinding). Requests with
    any other host name are therefore refused.
    """

    def send_head(self) -> Any:
        """Refuse other host names and paths outside the folder; otherwise open the file."""
        name = self.headers.get("Host", "").rsplit(":", 1)[0]
        if name not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "use 127.0.0.1")
            return None
        root = Path(self.directory).resolve()
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """Refuse directory listings."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Yield a server for `folder` on 127.0.0.1; `serve_forever()` runs it, and the end of the block closes it.

    Args:
        folder: the folder to serve.
        port: port number; 0: a free port, see `server_port`.

    Raises:
        RunError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(FolderServer, directory=str(folder)))
    except OSError as error:
        raise RunError(f"cannot serve on port {port}: {error.strerror}; leave out --port to use a free one") from error
    with server:
        yield server
