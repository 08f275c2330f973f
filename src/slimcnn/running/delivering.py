"""Files for runtimes at the top of a run's folder: those of the final network, and no others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slimcnn.exporting import PARITY, read_parity, record, source_digest
from slimcnn.running.folder import OLD
from slimcnn.running.step import State


def deliver(root: Path, state: State, folder: Path) -> None:
    """Link the artifacts of the final network into `folder`, with their parity.json; put others aside in `old`.

    An artifact that a step wrote before the network changed again stays in that step's folder.
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
    """Give a file a second name; where the file system has none, copy it."""
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
