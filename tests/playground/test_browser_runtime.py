"""The runtime is fetched once, checked byte for byte, and kept; no network is asked here."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from slimcnn.errors import DataError
from slimcnn.playground import browser_runtime, runtime

CONTENT = {runtime.SCRIPT: b"export default 1;", runtime.BINARY: b"\0asm"}


def archive(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Shelf:
    """A registry of this test's own; counts how often it is asked."""

    def __init__(self, content: bytes | None) -> None:
        self.content, self.asked = content, 0

    def __str__(self) -> str:
        return "the shelf"

    def fetch(self, folder: Path) -> None:
        self.asked += 1
        if self.content is None:
            raise DataError("the shelf: it is empty")
        (folder / f"{runtime.PACKAGE}.tgz").write_bytes(self.content)


@pytest.fixture(autouse=True)
def _tiny_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "DIGESTS", {name: sha256(data).hexdigest() for name, data in CONTENT.items()})


def test_it_is_fetched_once_and_then_kept(tmp_path: Path) -> None:
    shelf = Shelf(archive(CONTENT))
    for _ in range(2):
        assert browser_runtime(tmp_path, (shelf,)) == CONTENT
    assert shelf.asked == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([runtime.PACKAGE, *CONTENT])


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    shelf = Shelf(archive(CONTENT))
    browser_runtime(tmp_path, (shelf,))
    (tmp_path / runtime.PACKAGE / runtime.BINARY).write_bytes(b"damaged")
    assert browser_runtime(tmp_path, (shelf,)) == CONTENT
    assert shelf.asked == 2


def test_a_package_that_the_user_put_into_the_cache_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / f"{runtime.PACKAGE}.tgz").write_bytes(archive(CONTENT))
    assert browser_runtime(tmp_path, ()) == CONTENT


def test_the_second_origin_is_asked_where_the_first_fails(tmp_path: Path) -> None:
    assert browser_runtime(tmp_path, (Shelf(None), Shelf(archive(CONTENT)))) == CONTENT


def test_no_origin_at_hand_says_what_to_put_where(tmp_path: Path) -> None:
    message = (
        rf"cannot be downloaded \(the shelf: it is empty\): put {runtime.PACKAGE}.tgz into {tmp_path} and try again"
    )
    with pytest.raises(DataError, match=message):
        browser_runtime(tmp_path, (Shelf(None),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(CONTENT | {runtime.BINARY: b"evil"}), "has SHA-256 .* expected .*: the file was changed"),
        (archive({runtime.SCRIPT: CONTENT[runtime.SCRIPT]}), "damaged or incomplete"),
        (archive(CONTENT)[:40], "damaged or incomplete"),
        (b"no archive", "damaged or incomplete"),
    ],
    ids=["changed", "incomplete", "truncated", "no archive"],
)
def test_anything_but_the_published_files_is_refused_and_not_kept(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        browser_runtime(tmp_path, (Shelf(content),))
    assert not list(tmp_path.iterdir())
