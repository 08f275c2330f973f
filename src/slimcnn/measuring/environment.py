"""The environment of a measurement: versions, processor, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch


def environment() -> dict[str, str]:
    """Return versions, processor, threads, GPU, operating system and commit of this package; never raises.

    Measurements mean little without these, so every report contains them.

    >>> environment()["torch"] == torch.__version__
    True
    """
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": _version("torchvision"),
        "slimcnn": _version("slimcnn"),
        "cpu": cpu_name(),
        "cores": str(_cores()),
        "threads": str(torch.get_num_threads()),
        "gpu": ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        "os": platform.platform(),
        "commit": _commit(),
    }
    return {key: value for key, value in found.items() if value}


def device_name(device: torch.device) -> str:
    """Return the product name of a device if it is known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else str(device)


@cache
def cpu_name() -> str:
    """Return the processor's name if the operating system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):  # not Linux
        pass
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _commit() -> str:
    """Return the commit of the checkout that this package is imported from, with "-dirty" if files were changed.

    An installed package has no commit, even if its virtual environment is inside a checkout.
    """
    package = Path(__file__).resolve().parents[1]
    root = _output("git", "-C", str(package), "rev-parse", "--show-toplevel")
    if not root or Path(root).resolve() / "src" / "slimcnn" != package:
        return ""
    return _output("git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _output(*command: str) -> str:
    """Return the output of a program, or an empty string if it is missing or fails."""
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=quiet)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()
