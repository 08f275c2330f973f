"""The run folder: its files, its lock, and results of earlier calls.

::

    runs/x/
      recipe.toml              the recipe, to repeat the run
      run.json                 digest of the inputs of the run
      decision.json            training layout and precision, chosen by timing at the first start
      0-start/                 the network before the first step
      1-prune/ 2-distill/ ...  one folder per step: step.json (digest), model.safetensors, done.json, other files
      model.onnx parity.json   exported files of the final network (step `export`), and their output errors
      old/                     results of earlier settings; used again if the settings return
      report.html report.json original.safetensors compressed.safetensors plan.json
      manifest.json            digests of all these files, written last; slimcnn verify adds certificate.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from slimcnn.digests import json_digest
from slimcnn.errors import FolderInUse, RunError
from slimcnn.files import remove_leftovers, require_folder, write_text
from slimcnn.manifest import RUN as RUN  # re-exported: this module holds all file names of a run
from slimcnn.running.recipe import Recipe, read_recipe, write_recipe
from slimcnn.running.settings import Data

RECIPE, LOCK, HOLDER, OLD = "recipe.toml", ".lock", ".holder.json", "old"
DECISION = "decision.json"
START, STEP, DONE, MODEL = "0-start", "step.json", "done.json", "model.safetensors"
ORIGINAL, COMPRESSED, PLAN = "original.safetensors", "compressed.safetensors", "plan.json"
REPORTS = ("report.json", "report.html")
SEAL = "seal"
"""Key of the digest of all other entries, in run.json, step.json and done.json."""
RENAMED = {"top1": "metric", "reference_top1": "reference_metric"}
"""Keys of done.json in earlier versions → keys now."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a run folder; the lock ends with the process.

    Raises:
        FolderInUse: another process, named in the message, uses the folder.
        RunError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_json(path / HOLDER) if (path / HOLDER).exists() else {}
        known = {"process", "host"} <= holder.keys()
        who = f"process {holder['process']} on {holder['host']}" if known else "another process"
        raise FolderInUse(f"{path} is in use by {who}: wait until it ends, or choose another --out") from None
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror or error}; choose another --out") from error
    try:
        remove_leftovers(path)
        write_text(path / HOLDER, json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        yield
    finally:
        with suppress(OSError):
            (path / HOLDER).unlink(missing_ok=True)
        lock.release()


def read_as_before(path: Path, data: Data) -> Data:
    """Return the settings of the data, streamed if the run in the folder streams.

    The free memory has changed since then, and a stream measures its normalization on some images only.
    """
    if data.stream is not None or not (path / RUN).exists():
        return data
    return data.model_copy(update={"stream": read_sealed(path / RUN).get("streamed")})


def root_of(path: Path) -> Path:
    """Return the folder of the run that a folder belongs to: itself, or the parent of one size of a curve."""
    is_size = not (path / RUN).exists() and (path / COMPRESSED).exists() and (path.parent / RUN).exists()
    return path.parent if is_size else path


def begin(recipe: Recipe, path: Path, base: str, streamed: bool = False) -> None:
    """Start or resume a run in its folder, which must be locked.

    Raises:
        RunError: the folder holds a run of another network or dataset, or other files.
    """
    held = {item.name for item in path.iterdir() if not item.name.startswith(".")}
    if (path / RUN).exists():
        known = read_sealed(path / RUN).get("base")
        if known != base:
            raise RunError(f"{path} holds another run ({_difference(path, recipe)}); {_remedy(path, recipe)}")
    elif held - {RECIPE, PLAN}:
        raise RunError(f"{path} is not empty and not a run folder; choose another --out")
    else:
        write_sealed(path / RUN, {"base": base, "streamed": streamed})
    write_recipe(recipe, path / RECIPE)


def _remedy(path: Path, recipe: Recipe) -> str:
    weights = recipe.network.weights
    if weights is not None and Path(weights).is_relative_to(path.resolve()):
        return "choose another --out for these weights, or repeat the earlier command's network and training to go on"
    return "choose another --out, or delete the folder"


def trained_before(path: Path) -> str:
    """Say how to go on if a run folder holds a network that its first step trained; else return an empty string."""
    done = path / f"1-train/{DONE}"
    if not ((path / RUN).exists() and done.exists()):
        return ""
    try:
        first = read_recipe(path / RECIPE).steps[0]
    except (RunError, IndexError):
        return ""
    again = f"--pretrain {getattr(first, 'epochs', 'N')}" if first.name == "train" else "training"
    return f"{path} holds a network that an earlier command trained: repeat its {again} to go on from there"


def _difference(path: Path, recipe: Recipe) -> str:
    """Describe the first two input settings (network, data, deterministic) that differ from the earlier run."""
    try:
        old = read_recipe(path / RECIPE)
    except RunError:
        return "its recipe cannot be read"
    was, now = (_flat({k: one.plain().get(k) for k in ("network", "data", "deterministic")}) for one in (old, recipe))
    names = [n for n in dict.fromkeys([*was, *now]) if was.get(n) != now.get(n)]
    found = "; ".join(f"{name} was {was.get(name)}, now {now.get(name)}" for name in names[:2])
    return found or "the weights file has changed"


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def remember(path: Path, **facts: Any) -> None:
    """Add facts to run.json."""
    write_sealed(path / RUN, read_sealed(path / RUN) | facts)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON table of the run; raises `RunError` if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds a JSON {type(found).__name__}")
    return found


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON table with a digest of its content, by which `read_sealed` detects any damage."""
    write_text(path, json.dumps({**content, SEAL: json_digest(content)}, indent=1) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a table that `write_sealed` wrote; raises `RunError` if anything in it has changed.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "step.json"
    >>> write_sealed(path, {"macs": 640})
    >>> read_sealed(path)
    {'macs': 640}
    """
    found = read_json(path)
    if found.pop(SEAL, None) != json_digest(found):
        raise _damaged(path, "it has changed since it was written")
    return found


def read_done(path: Path) -> dict[str, Any]:
    """Read the results of a step, also those of earlier versions; raises `RunError` if anything in them has changed."""
    return {RENAMED.get(name, name): value for name, value in read_sealed(path).items()}


def _damaged(path: Path, reason: str) -> RunError:
    # Without run.json nothing proves that the other files belong to the same inputs.
    remedy = "choose another --out, or delete the folder" if path.name == RUN else "delete it: the run writes it again"
    return RunError(f"{path} is damaged ({reason}); {remedy}")


@dataclass(frozen=True)
class StepPlace:
    """The folder of a step, and the digest that identifies its results."""

    folder: Path
    digest: str

    @property
    def done(self) -> dict[str, Any] | None:
        """Results of the step, if it finished with the same settings on the same input; else None."""
        found = read_done(self.folder / DONE) if (self.folder / DONE).exists() else None
        return found if found is not None and found["digest"] == self.digest else None


def settle(root: Path, places: list[StepPlace]) -> list[str]:
    """Move results of other settings to `old`, restore those of the current ones; return the names of moved steps."""
    wanted = {place.folder.name: place.digest for place in places}
    aside = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not (folder.is_dir() and re.fullmatch(r"[1-9]\d*-\w+", folder.name)):
            continue
        digest = read_sealed(folder / STEP)["digest"] if (folder / STEP).exists() else ""
        if wanted.get(folder.name) != digest:
            _move(folder, root / OLD / f"{folder.name}-{digest[:8] or 'unknown'}")
            aside.append(folder.name)
    if aside and (root / REPORTS[0]).exists():
        for name in REPORTS:
            if (root / name).exists():
                _move(root / name, root / OLD / name)
    for place in places:
        kept = root / OLD / f"{place.folder.name}-{place.digest[:8]}"
        if kept.is_dir() and not place.folder.exists():
            kept.rename(place.folder)
    return aside


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    if to.is_dir():
        shutil.rmtree(to)
    path.replace(to)


def require(path: Path) -> None:
    """Raise `RunError` if the run folder was deleted: its earlier files are lost."""
    require_folder(path, RUN)
