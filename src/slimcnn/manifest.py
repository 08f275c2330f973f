"""The manifest of a run's folder: the SHA-256 of every file of the run.

It is written last, after all other files, and withdrawn before any of them changes. Code that rewrites or adds a file
of a finished run must call `claim`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimcnn.digests import json_digest
from slimcnn.errors import RunError
from slimcnn.files import kind_of, write_text

MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
RUN = "run.json"
"""The file that marks a run's folder."""
DEEPEST = 4
"""Number of parent folders of a file that are searched for its run."""
FORMAT = 1


@dataclass(frozen=True)
class Claim:
    """Size and digest of a file when it was claimed."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Claims about a run's files and about the test images it used."""

    files: Mapping[str, Claim]
    """Claims by path relative to the folder, with slashes."""
    images: Mapping[str, Any]
    """dataset, part, n, and sha256 of pixels and labels; empty if no images were used."""

    def to_json(self) -> str:
        """Return the manifest as JSON, with a digest of its own content."""
        content = {
            "format": FORMAT,
            "images": dict(self.images),
            "files": {name: vars(self.files[name]) for name in sorted(self.files)},
        }
        return json.dumps({"sha256": json_digest(content)} | content, indent=1) + "\n"


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
    """Return the files that a manifest claims: sorted paths relative to the folder, with slashes."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(
        path.as_posix()
        for path in found
        if not any(part.startswith(".") for part in path.parts) and path.as_posix() not in (MANIFEST, CERTIFICATE)
    )


def claim(*paths: Path) -> None:
    """Add new or rewritten files, or all files of folders, to the manifest of their finished run, if any."""
    for folder in {run for path in paths if (run := _run_of(path)) is not None}:
        known = read_manifest(folder)
        mine = [path for path in paths if _run_of(path) == folder]
        found = [file for path in mine for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        names = [file.relative_to(folder).as_posix() for file in found]
        files = dict(known.files) | {name: _claim_of(folder / name) for name in names}
        write_text(folder / MANIFEST, Manifest(files, known.images).to_json())


def is_as_claimed(path: Path) -> bool:
    """Return whether a file in the folder of a finished run is unchanged since it was claimed."""
    folder = _run_of(path)
    if folder is None or kind_of(path) != "file":
        return False
    return read_manifest(folder).files.get(path.relative_to(folder).as_posix()) == _claim_of(path)


def _run_of(path: Path) -> Path | None:
    """Return the folder of the finished run that a file belongs to; other tools write manifest.json too."""
    around = list(path.parents)[:DEEPEST]
    return next((one for one in around if (one / MANIFEST).exists() and (one / RUN).exists()), None)


def withdraw(folder: Path) -> None:
    """Remove the manifest before a claimed file changes."""
    (folder / MANIFEST).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        RunError: the manifest is missing, has changed since it was written, or names files outside the folder.
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
        raise RunError(f"{MANIFEST} has changed since it was written (its digest does not match): restore it")
    for name in files:
        inside(folder, name)
    return found


def differences(folder: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """Compare every file with its claim; return the files that differ, with "is missing" or "has changed".

    A log (`*.log`) may have grown: worker processes of a search write to it after the run has ended.
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
    """Return the path of a file that is named in a folder's own files.

    Raises:
        RunError: the name leads out of the folder: it is absolute, has "..", or follows a link to outside.

    >>> inside(Path("runs/x"), "../y/model.safetensors")
    Traceback (most recent call last):
    slimcnn.errors.RunError: '../y/model.safetensors' leads out of runs/x: files of a run must be in its folder
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{name!r} leads out of {folder}: files of a run must be in its folder")
    return path


def digest_of_file(path: Path, length: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `length` bytes, in hexadecimal."""
    found = hashlib.sha256()
    try:
        left = path.stat().st_size if length is None else length
        with path.open("rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                found.update(block)
                left -= len(block)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    return found.hexdigest()


def _claim_of(path: Path, length: int | None = None) -> Claim:
    """Return the claim for a file; with `length`, for its first bytes, as other processes may append to logs."""
    size = path.stat().st_size
    return Claim(size if length is None else min(size, length), digest_of_file(path, length))
