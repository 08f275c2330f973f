"""Put the exported files of the final network, and no others, at the top of the run folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slimcnn.exporting import PARITY, read_parity, record, source_digest
from slimcnn.running.folder import OLD
from slimcnn.running.step import State


def deliver(root: Path, state: State, folder: Path) -> None:
    """Link the artifacts of the final network into `folder`, with parity.json; move other artifacts to `old`.

    Artifacts of a network that a later step changed stay in the folder of their step.
    """
    source = source_digest(state.model)
    others = {name: entry for name, entry in read_parity(folder).items() if entry.get("source") != source}
    for entry in others.values():
        for name in entry.get("files", ()):
            _replace(folder / name, folder / OLD / name)
    if others:
        _replace(folder / PARITY, folder / OLD / PARITY)
    for artifact in state.artifacts:
        if artifact.facts.get("source") != source:
            continue
        home = (root / artifact.path).parent
        for name in artifact.facts["files"]:
            _link(home / name, folder / name)
        record(folder, artifact.name, artifact.facts)


def _replace(path: Path, to: Path) -> None:
    if not path.exists():
        return
    to.parent.mkdir(exist_ok=True)
    _remove(to)
    path.replace(to)


def _link(path: Path, to: Path) -> None:
    """Create a hard link; where the file system has none, copy the file."""
    _remove(to)
    if path.is_dir():
        shutil.copytree(path, to)
        return
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
