"""What works on this machine: versions, devices, extras, runtimes, memory, disk and cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from slimcnn.errors import SlimcnnError
from slimcnn.exporting import RUNTIMES, export, formats, why_not
from slimcnn.files import cache_folder
from slimcnn.measuring import environment
from slimcnn.reporting.sections import Section, Text
from slimcnn.show import SILENT, Show
from slimcnn.views.view import View, table

EXTRAS = {
    "timm": ("timm", "networks of timm (timm:NAME)"),
    "export": ("onnxruntime", "ONNX files, and ONNX Runtime"),
    "openvino": ("openvino", "OpenVINO files, and int8 by NNCF"),
    "mobile": ("executorch", "ExecuTorch, ncnn and Core ML files"),
    "postgresql": ("psycopg", "studies and searches on PostgreSQL"),
}
"""Extra → a package of it, and what it is for."""

LITTLE = 2e9
"""Bytes of free memory or disk below which a warning is shown."""


def doctor(show: Show = SILENT, runtimes: Collection[str] | None = None) -> View:
    """Check this machine: every installed runtime, or those named, exports and runs a tiny network.

    Data: `versions`, `devices`, `extras`, `runtimes` (each with `works` and `why`), `memory` and `disk` (free bytes),
    `cache`.

    >>> found = doctor(runtimes=["torch"]).data
    >>> found["versions"]["torch"] == torch.__version__, found["runtimes"]["torch"]["works"]
    (True, True)
    """
    asked = [name for name in RUNTIMES if runtimes is None or name in runtimes]
    tried = {name: _tried(name, show.counting("trying runtimes"), i, len(asked)) for i, name in enumerate(asked, 1)}
    known = environment()
    data: dict[str, Any] = {
        "versions": {name: known[name] for name in ("slimcnn", "python", "torch", "torchvision")},
        "devices": _devices(),
        "extras": {name: _installed(package) for name, (package, _) in EXTRAS.items()},
        "runtimes": {name: {"works": not why, "why": why} for name, why in tried.items()},
        "memory": _free_memory(),
        "disk": shutil.disk_usage(Path.cwd()).free,
        "cache": str(cache_folder()),
    }
    working = [RUNTIMES[name].title for name, why in tried.items() if not why]
    return View(
        title="Doctor",
        headline=f"slimcnn {data['versions']['slimcnn']} with PyTorch {data['versions']['torch']}; "
        f"runtimes that work: {', '.join(working)}",
        sections=(_machine(data, known), _extras(data), _runtimes(tried), *_advice(data)),
        data=data,
    )


def _machine(data: dict[str, Any], known: dict[str, str]) -> Section:
    rows = [
        ("Python", known["python"]),
        ("processor", f"{known['cpu']}, {known['cores']} cores, PyTorch uses {known['threads']} threads"),
        *(("device", device) for device in data["devices"]),
        ("free memory", "unknown" if data["memory"] is None else _gigabytes(data["memory"])),
        ("free disk here", _gigabytes(data["disk"])),
        ("cache", data["cache"]),
    ]
    return Section(title="This machine", blocks=(table({"what": "text", "found": "name"}, rows),))


def _extras(data: dict[str, Any]) -> Section:
    rows = [
        (name, what, data["extras"][name] or f"pip install 'slimcnn[{name}]'") for name, (_, what) in EXTRAS.items()
    ]
    columns = table({"extra": "name", "for": "text", "installed, or how to install": "name"}, rows)
    return Section(title="Extras", blocks=(columns,))


def _runtimes(found: dict[str, str]) -> Section:
    rows = [(RUNTIMES[name].title, "works" if not why else "no", why) for name, why in found.items()]
    return Section(title="Runtimes", blocks=(table({"runtime": "text", "here": "text", "why not": "text"}, rows),))


def _advice(data: dict[str, Any]) -> list[Section]:
    said = []
    if data["memory"] is not None and data["memory"] < LITTLE:
        said.append(f"Only {_gigabytes(data['memory'])} of memory are free: use --limit and small batches.")
    if data["disk"] < LITTLE:
        said.append(f"Only {_gigabytes(data['disk'])} of disk are free here: choose another --out.")
    if not any(device.startswith(("cuda", "mps")) for device in data["devices"]):
        said.append("No GPU was found: recovery without training takes minutes, training takes hours.")
    return [Section(title="Advice", blocks=tuple(Text(text=one, tone="note") for one in said))] if said else []


def _tried(runtime: str, progress: Callable[[int, int], None], number: int, count: int) -> str:
    """Return why a runtime does not work here; empty if it exports and runs a tiny network."""
    progress(number, count)
    if runtime == "torch":
        return ""
    if why := why_not(runtime):
        return why
    written = next((entry.name for entry in formats if entry.value.runtime == runtime), None)
    if written is None:
        return ""
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    try:
        with TemporaryDirectory(prefix="slimcnn-") as folder, torch.random.fork_rng([]):
            export(tiny, torch.randn(1, 3, 8, 8), to=[written], out=Path(folder))
    except SlimcnnError as error:
        return str(error)
    except Exception as error:  # a broken installation may raise anything
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return ""


def _devices() -> list[str]:
    found = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _free_memory() -> int | None:
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
