"""Trials in an Optuna storage, shared by processes; any of them may die at any time."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimcnn.errors import SearchError, SlimcnnError
from slimcnn.process_ids import is_running, this_process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

POLL = 0.2
"""Seconds between two polls of the trials of other processes."""

UNKNOWN = 30.0
"""Seconds after which a trial without a registered worker counts as lost."""

ANOTHER_HOST = 3600.0
"""Seconds after which a trial without signs of life counts as lost on another host: its process is not visible."""

HEARTBEAT, SILENCE = 60.0, 600.0
"""Seconds between two signs of life of a long trial, and after the last one until it counts as lost on another host."""

CREATIONS = 10
"""Attempts to open a database whose tables other processes may be creating."""

SQLITE_PATIENCE = 60.0
"""Seconds that a transaction waits for the lock of an SQLite database."""


def open_study(
    storage: str | Path,
    name: str,
    *,
    what: str = "search",
    seed: int = 0,
    directions: Sequence[Literal["minimize", "maximize"]] = ("minimize",),
    join: bool = False,
    say: Callable[[str], None] | None = None,
) -> Study:
    """Open an Optuna study, or create it; with `join`, only one that another process has created.

    Args:
        storage: a file for Optuna's journal, or an Optuna storage URL such as sqlite:///search.db.
        name: the name of the study.
        what: what it is, for messages.
        seed: the seed of the sampler.
        directions: minimize or maximize, for every value.
        join: require that it exists.
        say: called with a message if the journal had to be repaired (see `journal`).

    Raises:
        SearchError: the storage cannot be opened, or there is nothing to join.
        RunError: the journal cannot be written.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    try:
        with _quiet():
            opened = _created(storage, say)
            if join:
                return optuna.load_study(study_name=name, storage=opened, sampler=sampler)
            return optuna.create_study(
                study_name=name, storage=opened, sampler=sampler, load_if_exists=True, directions=list(directions)
            )
    except KeyError as error:
        raise SearchError(f"there is no {what} to join in {storage}: start it first") from error
    except SlimcnnError:
        raise
    except Exception as error:  # every database driver has different exceptions
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise SearchError(f"the storage {storage} cannot be opened: {reason}") from error


class TrialStorage:
    """The waiting, running and complete trials of one Optuna study, shared by all processes that open it.

    A trial is a point, plain data by name. Either all points are known and enqueued, or the sampler proposes them.
    """

    def __init__(self, study: Study, ranges: Mapping[str, BaseDistribution], *, enqueued: bool) -> None:
        self._study = study
        self._ranges = dict(ranges)
        self._enqueued = enqueued
        """Whether the points are enqueued; a lost trial is then enqueued again."""

    def enqueue(self, points: Iterable[Mapping[str, Any]], again: bool = False) -> None:
        """Add a waiting trial for each point that has no trial yet; with `again`, also for complete ones."""
        from optuna.trial import TrialState as S

        states = (S.WAITING, S.RUNNING) if again else (S.COMPLETE, S.WAITING, S.RUNNING)
        known = {_key(_point(trial)) for trial in self._trials(*states)}
        done = Counter(_key(_point(trial)) for trial in self._trials(S.COMPLETE))
        for point in points:
            if _key(point) not in known:
                known.add(_key(point))
                fixed = {name: point[name] for name in self._ranges if name in point}
                self._study.enqueue_trial(fixed, user_attrs={"enqueued": dict(point), "complete": done[_key(point)]})

    def add(self, point: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Add a complete trial that another storage has run."""
        from optuna.trial import create_trial

        attrs = {"enqueued": dict(point), **facts}
        self._study.add_trial(create_trial(values=[0.0] * len(self._study.directions), user_attrs=attrs))

    def claim(self, wait: bool = True) -> tuple[Trial, dict[str, Any]] | None:
        """Claim a waiting trial; None if all are complete (or, without `wait`, claimed by other processes)."""
        while True:
            if self._waiting():
                claimed = self._ask()
                if claimed is not None:
                    return claimed
            elif not self.recover_lost():
                if not wait or not self._others():
                    return None
                time.sleep(POLL)

    def sample(self, trials: int) -> tuple[Trial, dict[str, Any]] | None:
        """Claim a trial whose point the sampler chooses; None after so many trials."""
        from optuna.trial import TrialState as S

        self.recover_lost()
        if self._waiting() or len(self._trials(S.COMPLETE, S.RUNNING)) >= trials:
            return self.claim()
        return self._claimed(self._study.ask(self._ranges))

    def finish(self, trial: Trial, facts: Mapping[str, Any], values: float | Sequence[float]) -> None:
        """Store the facts of a trial; `values` are what the sampler minimizes or maximizes.

        If another process took this one for lost, it evaluates the point again, and these facts are dropped.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            for name, fact in facts.items():
                trial.set_user_attr(name, fact)
            self._study.tell(trial, values)

    def release(self, trial: Trial, point: Mapping[str, Any]) -> None:
        """Give up a claimed trial, so that its point can be claimed again."""
        from optuna.trial import TrialState as S

        self._study.tell(trial.number, state=S.FAIL, skip_if_finished=True)
        if self._enqueued:
            self.enqueue([point])

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Give signs of life of a claimed trial while the block runs, so that other hosts see that it is not lost."""
        trial.set_user_attr("alive", time.time())
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                # A busy or unreachable storage must not end the work; an old sign only means that it may be done twice.
                with suppress(Exception):
                    trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def complete(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """List points and facts of the complete trials, in an order that does not depend on workers or time."""
        from optuna.trial import TrialState as S

        done = {_key(_point(trial)): (_point(trial), trial.user_attrs) for trial in self._trials(S.COMPLETE)}
        return [done[key] for key in sorted(done)]

    @property
    def progress(self) -> tuple[int, int]:
        """Number of complete trials, and of all trials."""
        from optuna.trial import TrialState as S

        done = len(self.complete())
        return done, done + len(self._trials(S.WAITING, S.RUNNING))

    def set_attr(self, name: str, value: Any) -> None:
        """Store a value for all processes."""
        self._study.set_user_attr(name, value)

    def get_attr(self, name: str) -> Any:
        """Return a value that a process stored with `set_attr`; None if there is none."""
        return self._study.user_attrs.get(name)

    def recover_lost(self) -> bool:
        """Enqueue the points of trials again whose process has died; return whether there were any."""
        from optuna.trial import TrialState as S

        lost = [trial for trial in self._trials(S.RUNNING) if self._is_lost(trial)]
        for trial in lost:
            self._study.tell(trial.number, state=S.FAIL, skip_if_finished=True)
        if self._enqueued and lost:
            self.enqueue(_point(trial) for trial in lost)
        return bool(lost)

    def _trials(self, *states: Any) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _waiting(self) -> bool:
        from optuna.trial import TrialState as S

        return bool(self._trials(S.WAITING))

    def _others(self) -> bool:
        from optuna.trial import TrialState as S

        return bool(self._trials(S.RUNNING))

    def _ask(self) -> tuple[Trial, dict[str, Any]] | None:
        from optuna.trial import TrialState as S

        trial = self._study.ask(self._ranges)
        enqueued = trial.user_attrs.get("enqueued")
        if enqueued is None or self._has_twin(trial):
            # Another process claimed the last waiting trial, or two processes enqueued the same point.
            self._study.tell(trial, state=S.FAIL)
            return None
        return self._claimed(trial)

    def _has_twin(self, trial: Trial) -> bool:
        """Return whether an earlier trial of the same point runs, or one was completed since this one was enqueued."""
        from optuna.trial import TrialState as S

        key, known = _key(_point(trial)), int(trial.user_attrs.get("complete", 0))
        twins = [one for one in self._trials(S.COMPLETE, S.RUNNING) if _key(_point(one)) == key]
        running = any(one.state == S.RUNNING and one.number < trial.number for one in twins)
        return running or sum(one.state == S.COMPLETE for one in twins) > known

    def _claimed(self, trial: Trial) -> tuple[Trial, dict[str, Any]]:
        trial.set_user_attr("worker", this_process())
        return trial, _point(trial)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        worker = trial.user_attrs.get("worker", "")
        if not worker:
            return age > UNKNOWN
        running = is_running(worker)
        if running is not None:
            return not running
        alive = trial.user_attrs.get("alive")
        return age > ANOTHER_HOST if alive is None else time.time() - alive > SILENCE


def _key(point: Mapping[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)


def _point(trial: FrozenTrial | Trial) -> dict[str, Any]:
    """Return the enqueued point, or the one that the sampler chose, with four digits of every number."""
    enqueued = trial.user_attrs.get("enqueued")
    if enqueued is not None:
        return dict(enqueued)
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in trial.params.items()}


def _created(storage: str | Path, say: Callable[[str], None] | None) -> BaseStorage:
    """Open a journal file or a database."""
    from optuna.storages import JournalStorage

    from slimcnn.searching.journal import Journal

    if isinstance(storage, str) and "://" in storage:
        return _database(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(Journal(Path(storage), say))


def _database(url: str) -> BaseStorage:
    """Open a database; where another process creates its tables at this moment, try again."""
    from optuna.storages import get_storage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for _ in range(CREATIONS - 1):
        with suppress(IntegrityError, ProgrammingError):
            return get_storage(_sqlite(url) if url.startswith("sqlite") else url)
        time.sleep(POLL)
    return get_storage(_sqlite(url) if url.startswith("sqlite") else url)


def _sqlite(url: str) -> BaseStorage:
    """Open an SQLite database whose transactions take its lock when they begin.

    To claim a trial, Optuna reads its state and then sets it, under a row lock that SQLite does not have: two processes
    that read at once would claim the same trial.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    opened = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_PATIENCE}})
    opened.engine.dispose()  # connections from before the listeners

    @event.listens_for(opened.engine, "connect")
    def _(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's driver begins no transactions

    @event.listens_for(opened.engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return opened


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn database errors during a search (a full disk, a lost connection) into a one-line `SearchError`.

    Raises:
        SearchError: with the database's message.
    """
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise SearchError(f"the storage of the search failed: {reason}; run the same command to resume") from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
