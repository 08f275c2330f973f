"""What the runs of a study have in common: steps that several of them begin with run once, in one of their folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from slimcnn.digests import json_digest
from slimcnn.errors import RunError
from slimcnn.files import part_of, write_text
from slimcnn.running import folder as disk
from slimcnn.running.folder import StepPlace
from slimcnn.running.settings import Network

PATIENCE = 2.0
"""Seconds of waiting for another run's step before a message says so."""

RECENT = 12
"""Maximum number of graphs, scores and times that stay in memory between runs."""


class StepPool:
    """Finished steps by digest, shared by all runs whose folders are in one folder, and by several processes.

    The digest of a step covers the network, the data and all steps before it, so equal digests mean equal results.
    Files are hard links where the file system has them: they need no space of their own, and every run folder stays
    complete.

    Args:
        home: the folder of the pool.
        root: the folder that contains the run folders.
    """

    def __init__(self, home: Path, root: Path) -> None:
        self._home, self._root = home, root

    @contextmanager
    def hold(self, place: StepPlace, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Hold a step, so that no other run works on it; copy its results if another run has finished it.

        If the process of another run died during the step, its unfinished folder moves to `place`, so that training
        goes on. When the block ends and the step is finished, other runs can copy its results.

        Raises:
            RunError: the folder of the pool cannot be written to.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._home / f"{place.digest}.lock")
        _acquire(lock, place, say)
        try:
            if place.done is None:
                self._fill(place, say)
            yield
            if place.done is not None and not self._kept(place).exists():
                _link_tree(place.folder, self._kept(place))
        finally:
            lock.release()

    def _kept(self, place: StepPlace) -> Path:
        return self._home / place.digest

    def _fill(self, place: StepPlace, say: Callable[[str], None]) -> None:
        """Fill the folder of a step with finished or unfinished results of another run."""
        kept = self._kept(place)
        if StepPlace(kept, place.digest).done is not None:
            shutil.rmtree(place.folder, ignore_errors=True)
            _link_tree(kept, place.folder)
            say(f"[{place.folder.name}] taken from another run of the study")
            return
        note = self._home / f"{place.digest}.json"
        if not place.folder.exists() and note.exists():
            begun = self._root / disk.read_json(note).get("folder", "")
            if _is_unfinished(begun, place.digest):
                place.folder.parent.mkdir(parents=True, exist_ok=True)
                begun.rename(place.folder)
                say(f"[{place.folder.name}] goes on where another run was interrupted")
        write_text(note, json.dumps({"folder": os.path.relpath(place.folder, self._root)}) + "\n")


class RecentValues(dict[str, Any]):
    """The last values that steps computed, such as traces and scores; the oldest are forgotten."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > RECENT:
            del self[next(iter(self))]


@dataclass(frozen=True)
class Sharing:
    """What all runs below one folder have in common."""

    root: Path
    """The folder that contains the run folders."""
    values: RecentValues = field(default_factory=RecentValues)
    """See `Context.shared`."""

    @property
    def steps(self) -> StepPool:
        """The finished steps of all runs."""
        return StepPool(self.root / "shared" / "steps", self.root)

    def decision(self, network: Network) -> Path:
        """Return the file with the training layout and precision of a network: the same in all runs."""
        known = network.model_dump(mode="json", exclude={"seed", "verify"})
        return self.root / "shared" / f"decision-{json_digest(known)[:12]}.json"


def _acquire(lock: FileLock, place: StepPlace, say: Callable[[str], None]) -> None:
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        say(f"[{place.folder.name}] waiting: another run of the study is at this step")
        lock.acquire()
    except OSError as error:
        raise RunError(f"cannot use {lock.lock_file}: {error.strerror or error}; choose another --out") from error


def _is_unfinished(folder: Path, digest: str) -> bool:
    step = folder / disk.STEP
    return step.exists() and not (folder / disk.DONE).exists() and disk.read_sealed(step).get("digest") == digest


def _link_tree(source: Path, to: Path) -> None:
    """Copy a folder by hard links, or by copies where the file system has none; `to` appears complete or not at all."""
    part = part_of(to)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, part, copy_function=_link, symlinks=True)
        with suppress(FileExistsError):
            part.rename(to)
    except (OSError, shutil.Error) as error:
        raise RunError(f"cannot copy {source} to {to}: {error}; free some space or choose another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
