"""The manifest of a run's folder: the SHA-256 of every file that the run claims.

It is written last, when everything else is on the disk, and withdrawn before any of it changes. Whoever rewrites a
file of a finished run, or adds one, calls `claim`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimcnn.errors import RunError
from slimcnn.files import kind_of, write_text

MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
RUN = "run.json"
"""The file by which a run's folder is known."""
DEEPEST = 4
"""Folders above a file in which its run is looked for."""
FORMAT = 1


@dataclass(frozen=True)
class Claim:
    """What a file was when it was claimed."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a run says of its files, and of the test images that it read."""

    files: Mapping[str, Claim]
    """By path relative to the folder, with slashes."""
    images: Mapping[str, Any]
    """dataset, part, n, and sha256 of pixels and labels; empty where no images were read."""

    def to_json(self) -> str:
        """Write it, with a digest of its own content."""
        content = {
            "format": FORMAT,
            "images": dict(self.images),
            "files": {name: vars(self.files[name]) for name in sorted(self.files)},
        }
        return json.dumps({"sha256": _digest_of(content)} | content, indent=1) + "\n"


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, images: Mapping[str, Any]) -> Manifest:
    """Claim every file in a folder, except hidden ones, links, the manifest itself and certificates.

    Raises:
        RunError: a file cannot be read, or the manifest cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_text(folder / "plan.json", "{}")
    >>> _ = write_manifest(folder, {})
    >>> differences(folder), (folder / "plan.json").write_text("{ }") and differences(folder)
    ({}, {'plan.json': 'has changed'})
    """
    found = Manifest({name: _claim_of(folder / name) for name in files_in(folder)}, images)
    write_text(folder / MANIFEST, found.to_json())
    return found


def files_in(folder: Path) -> list[str]:
    """List what a manifest claims: paths relative to the folder, with slashes, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(
        path.as_posix()
        for path in found
        if not any(part.startswith(".") for part in path.parts) and path.as_posix() not in (MANIFEST, CERTIFICATE)
    )


def claim(*paths: Path) -> None:
    """Claim files (of a folder: all in it) that were just written, where they lie in the folder of a finished run."""
    for folder in {run for path in paths if (run := _run_of(path)) is not None}:
        known = read_manifest(folder)
        mine = [path for path in paths if _run_of(path) == folder]
        found = [file for path in mine for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        names = [file.relative_to(folder).as_posix() for file in found]
        files = dict(known.files) | {name: _claim_of(folder / name) for name in names}
        write_text(folder / MANIFEST, Manifest(files, known.images).to_json())


def is_as_claimed(path: Path) -> bool:
    """Ask whether a file in the folder of a finished run is what it was when it was claimed."""
    folder = _run_of(path)
    if folder is None or kind_of(path) != "file":
        return False
    return read_manifest(folder).files.get(path.relative_to(folder).as_posix()) == _claim_of(path)


def _run_of(path: Path) -> Path | None:
    """Find the finished run that a file belongs to: a manifest.json alone may be anybody's."""
    around = list(path.parents)[:DEEPEST]
    return next((one for one in around if (one / MANIFEST).exists() and (one / RUN).exists()), None)


def withdraw(folder: Path) -> None:
    """Remove the manifest before a claimed file changes."""
    (folder / MANIFEST).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        RunError: there is none; or a byte of it has changed since it was written; or it names files outside the folder.
    """
    path = folder / MANIFEST
    if kind_of(path) != "file":
        raise RunError(f"{path} is missing: the run is not finished; run the same command again to finish it")
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        files = {str(name): Claim(int(one["bytes"]), str(one["sha256"])) for name, one in content["files"].items()}
        found = Manifest(files, content["images"])
        whole = found.to_json() == text
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{MANIFEST} is damaged ({reason}): restore it, or delete it and run again") from error
    if not whole:
        raise RunError(f"{MANIFEST} has changed since it was written: its own digest does not fit it; restore it")
    for name in files:
        inside(folder, name)
    return found


def differences(folder: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """Compare every claimed file with its claim; gives the files that differ, with "is missing" or "has changed".

    A log (`*.log`) may have grown: processes that help a search write to its log after the run has ended.
    """
    manifest = manifest or read_manifest(folder)
    found = {}
    for name, claimed in manifest.files.items():
        path = inside(folder, name)
        if kind_of(path) != "file":
            found[name] = "is missing"
        elif _claim_of(path, claimed.bytes if name.endswith(".log") else None) != claimed:
            found[name] = "has changed"
    return found


def inside(folder: Path, name: str) -> Path:
    """Give the path of a file that is named in a folder's own files.

    Raises:
        RunError: the name leads out of the folder: it is absolute, has "..", or passes through a link to outside.

    >>> inside(Path("runs/x"), "../y/model.safetensors")
    Traceback (most recent call last):
    slimcnn.errors.RunError: '../y/model.safetensors' leads out of runs/x: files of a run lie in its folder
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{name!r} leads out of {folder}: files of a run lie in its folder")
    return path


def digest_of_file(path: Path, length: int | None = None) -> str:
    """Give the SHA-256 of a file, or of its first `length` bytes, in hexadecimal."""
    found = hashlib.sha256()
    try:
        left = path.stat().st_size if length is None else length
        with path.open("rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                found.update(block)
                left -= len(block)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; check its rights") from error
    return found.hexdigest()


def _claim_of(path: Path, length: int | None = None) -> Claim:
    """What a file is now; of a log, to which other processes may have added since, what its first bytes are."""
    size = path.stat().st_size
    return Claim(size if length is None else min(size, length), digest_of_file(path, length))
