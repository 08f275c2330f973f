"""What slimcnn costs before it does anything: CPU time of imports and of --help, and the size of the installation.

    python benchmarks/package.py           # measures; writes package.json and package.md
    python benchmarks/package.py --check   # measures times only; exits with 1 if a goal is missed
    python benchmarks/package.py --table   # the table again from the rows

CPU time (user and system of the child process), because other work on the machine does not change it. The smallest of n runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from slimcnn.measuring.environment import environment

HERE = Path(__file__).parent
COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import slimcnn": ([sys.executable, "-c", "import slimcnn"], 0.1),
    "slimcnn --help": ([sys.executable, "-m", "slimcnn.cli", "--help"], 0.3),
    "slimcnn compress --help": ([sys.executable, "-m", "slimcnn.cli", "compress", "--help"], 0.3),
    "slimcnn list": ([sys.executable, "-m", "slimcnn.cli", "list"], None),
}
"""What is run, and the goal in seconds; the start of Python itself counts."""


def seconds_of(command: list[str], runs: int) -> list[float]:
    """CPU seconds of each run of a command."""
    found = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 4))
    return found


def needed(requirements: list[str]) -> set[str]:
    """The installed distributions that these requirements need, with themselves; extras are left out."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        line = waiting.pop()
        name = re.split(r"[\s\[<>=!~;(]", line)[0].lower().replace("_", "-")
        if name in found or "extra ==" in line or re.search(r"platform == ['\"](win|Windows)", line):
            continue
        try:
            waiting += distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
    return found


def megabytes(name: str) -> float:
    """Size of a distribution's files, without compiled bytecode."""
    files = distribution(name).files or []
    paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def measured(runs: int) -> dict[str, object]:
    """All rows."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    core = needed(project["dependencies"])
    sizes = {name: round(megabytes(name), 1) for name in sorted(core)}
    own = (HERE.parent / "src" / "slimcnn").rglob("*")
    sizes["slimcnn"] = round(
        sum(path.stat().st_size for path in own if path.is_file() and path.suffix != ".pyc") / 1e6, 1
    )
    extras = {
        extra: round(sum(megabytes(name) for name in needed(project["optional-dependencies"][extra]) - core), 1)
        for extra in ("export", "openvino", "timm")
    }
    times = {name: seconds_of(command, runs) for name, (command, _) in COMMANDS.items()}
    known = environment() | {"slimcnn": project["version"]}
    return {"seconds": times, "megabytes": sizes, "extras": extras, "environment": known}


def table(rows: dict) -> str:
    """The page."""
    lines = [
        "# What slimcnn costs before it does anything",
        "",
        "Script: `benchmarks/package.py`; rows: `package.json`.",
        "",
    ]
    lines += ["CPU seconds of a new process, the start of Python included; the smallest of n runs.", ""]
    lines += ["| command | CPU seconds | largest | n | goal |", "|---|---|---|---|---|"]
    for name, found in rows["seconds"].items():
        goal = COMMANDS[name][1]
        lines.append(f"| `{name}` | {min(found):.3f} | {max(found):.3f} | {len(found)} | {goal or ''} |")
    sizes = rows["megabytes"]
    torch = {
        name: size for name, size in sizes.items() if name == "torch" or name.startswith(("nvidia", "triton", "cuda"))
    }
    rest = sum(sizes.values()) - sum(torch.values())
    lines += ["", "## Size of an installation", ""]
    lines.append(
        f"torch with what its build brings: {sum(torch.values()):,.0f} MB here. All other packages: {rest:,.0f} MB:"
    )
    lines += ["", "| package | MB | why |", "|---|---|---|"]
    for name, size in sorted(sizes.items(), key=lambda row: -row[1]):
        if name not in torch and (size >= 5 or name in WHY):
            lines.append(f"| {name} | {size:.1f} | {WHY.get(name, 'needed by another package')} |")
    small = sum(size for name, size in sizes.items() if name not in torch and size < 5 and name not in WHY)
    lines.append(f"| all smaller ones | {small:.1f} | |")
    told = ", ".join(f"`{name}` {size:,.0f} MB" for name, size in rows["extras"].items())
    lines += ["", f"Extras, in addition: {told}.", ""]
    lines.append(f"Measured on: `{json.dumps(rows['environment'])}`")
    return "\n".join(lines) + "\n"


WHY = {
    "scipy": "connected components of channel ids; bootstrap and t-test of studies; assignment in feature reuse",
    "matplotlib": "figures of reports, as SVG",
    "optuna": "storages and samplers of searches and studies",
    "sqlalchemy": "by optuna: SQLite and PostgreSQL storages; journals do without",
    "lightning-fabric": "several devices and precisions in training",
    "pydantic-core": "by pydantic: settings with messages",
    "numpy": "arrays",
    "pillow": "decoding images",
    "torchvision": "networks by name, reading JPEG",
    "slimcnn": "",
}
"""Why a package is installed."""


def main() -> None:
    """Measure, check or print."""
    options = argparse.ArgumentParser()
    options.add_argument("--check", action="store_true")
    options.add_argument("--table", action="store_true")
    options.add_argument("--runs", type=int, default=10)
    given = options.parse_args()
    if given.check:
        missed = []
        for name, (command, goal) in COMMANDS.items():
            least = min(seconds_of(command, given.runs))
            missed += [name] if goal is not None and least > goal else []
            print(f"{name}: {least:.3f} s" + (f", goal {goal}" if goal else ""))
        sys.exit(1 if missed else 0)
    if not given.table:
        (HERE / "package.json").write_text(json.dumps(measured(given.runs), indent=1) + "\n")
    (HERE / "package.md").write_text(table(json.loads((HERE / "package.json").read_text())))


if __name__ == "__main__":
    main()
