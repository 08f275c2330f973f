from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slimcnn.datasets import fetching
from slimcnn.datasets.fetching import DebianPackage, Download, NpmPackage
from slimcnn.errors import DataError

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


class Site(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.path == "/missing.bin":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if body:
            self.wfile.write(CONTENT[:5000] if self.path == "/short.bin" else CONTENT)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_download_is_the_file(site: str, tmp_path: Path) -> None:
    Download(((f"{site}/a.bin", MD5), (f"{site}/b.bin", MD5))).fetch(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": CONTENT, "b.bin": CONTENT}


@pytest.mark.parametrize(
    ("path", "md5", "message"),
    [
        ("a.bin", "0" * 32, f"a.bin has MD5 {MD5}, expected 0000"),
        ("missing.bin", MD5, "missing.bin: Not Found"),
        ("short.bin", MD5, "ended after 5000 of 10240 bytes"),
    ],
)
def test_a_download_that_is_not_the_file_is_refused(
    site: str, tmp_path: Path, path: str, md5: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Download(((f"{site}/{path}", md5),)).fetch(tmp_path)


def test_nobody_at_the_address_is_said(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.bin"
        with pytest.raises(DataError, match="refused"):
            Download(((address, MD5),)).fetch(tmp_path)
    with pytest.raises(DataError, match="unknown url type"):
        Download((("gopher:/a.bin", MD5),)).fetch(tmp_path)


def test_a_site_that_never_answers_is_left_after_the_first_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(DataError, match="timed out"):
            Download(((f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin", MD5),)).fetch(tmp_path)
    assert time.monotonic() - began < 3


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first in the search path; tests write their own npm into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_npm_packs_into_the_folder(programs: Path, tmp_path: Path) -> None:
    program(programs / "npm", 'echo "$@" > said; touch tiny-1.0.0.tgz')
    (tmp_path / "out").mkdir()
    NpmPackage("tiny", "1.0.0").fetch(tmp_path / "out")
    assert (tmp_path / "out" / "tiny-1.0.0.tgz").is_file()
    assert (tmp_path / "out" / "said").read_text().startswith("pack tiny@1.0.0 --ignore-scripts ")


def test_a_debian_package_is_fetched_and_unpacked(programs: Path, tmp_path: Path) -> None:
    program(programs / "apt-get", 'test "$*" = "download tiny-data" && echo content > tiny-data_1_all.deb')
    program(programs / "dpkg-deb", 'test "$1 $3" = "-x ." && mkdir -p usr/share && cp "$2" usr/share/data')
    (tmp_path / "out").mkdir()
    DebianPackage("tiny-data").fetch(tmp_path / "out")
    assert (tmp_path / "out" / "usr" / "share" / "data").read_text() == "content\n"


def test_what_a_program_says_when_it_fails_is_passed_on_in_one_line(programs: Path, tmp_path: Path) -> None:
    program(programs / "npm", "echo 'code E404' >&2; echo >&2; echo 'Not Found' >&2; exit 1")
    with pytest.raises(DataError, match=r"\Anpm pack tiny@1.0.0: code E404; Not Found\Z"):
        NpmPackage("tiny", "1.0.0").fetch(tmp_path)
    program(programs / "npm", "exit 3")
    with pytest.raises(DataError, match=r"npm pack tiny@1\.0\.0: exit status 3"):
        NpmPackage("tiny", "1.0.0").fetch(tmp_path)


def test_a_missing_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"npm pack tiny@1\.0\.0: npm is not installed"):
        NpmPackage("tiny", "1.0.0").fetch(tmp_path)
    with pytest.raises(DataError, match="apt-get download tiny: apt-get is not installed"):
        DebianPackage("tiny").fetch(tmp_path)


def test_a_program_that_hangs_is_stopped(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.2)
    program(programs / "npm", "echo $$ > pid; exec sleep 60")
    with pytest.raises(DataError, match="stopped"):
        NpmPackage("tiny", "1.0.0").fetch(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
