from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slimcnn.errors import RunError
from slimcnn.playground import served


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "show"
    (folder / "below").mkdir(parents=True)
    (folder / "index.html").write_text("the page")
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with served(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_the_folder_is_served_and_nothing_outside_of_it(port: int) -> None:
    assert ask(port, "/") == ask(port, "/index.html") == (200, b"the page")
    assert ask(port, "/", host="localhost")[0] == 200
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/below/../../secret.txt", "/link.txt"):
        status, body = ask(port, path)
        assert status == 404, path
        assert b"secret" not in body or b"a secret" not in body


def test_a_folder_without_a_page_is_not_listed(port: int) -> None:
    assert ask(port, "/below/")[0] == 404


def test_a_page_elsewhere_cannot_read_it_by_a_name_of_its_own(port: int) -> None:
    assert ask(port, "/", host="evil.example")[0] == 403


def test_only_this_machine_is_listened_to(port: int, tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with (
            pytest.raises(RunError, match=f"cannot serve on port {taken}: .*; leave out --port"),
            served(tmp_path, taken),
        ):
            pass
