"""Storage of a search's trials in Optuna, shared by processes; any of them may die at any time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimcnn.errors import SearchError, SlimcnnError
from slimcnn.process_ids import is_running, this_process
from slimcnn.searching.settings import Point, Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

POLL = 0.2
"""Seconds between two polls of the trials of other processes."""

UNKNOWN = 30.0
"""Seconds after which a trial without a registered worker counts as lost."""

ANOTHER_HOST = 3600.0
"""Seconds after which a trial on another host counts as lost: its process is not visible from here."""


SQLITE_PATIENCE = 60.0
"""Seconds that a transaction waits for the lock of an SQLite database."""


@dataclass(frozen=True)
class Outcome:
    """The result of one trial."""

    point: Point
    macs: float | None
    """Share of the MACs that the network keeps; None if it cannot be pruned that far."""
    top1: float | None
    """Validation top-1 in percent; None if the evaluation was stopped early or not started."""
    stopped: str = ""
    """The reason why there is no top-1."""
    seconds: float = 0.0


class StudyStorage:
    """The waiting, running and complete trials of one search, shared by all processes that open the same storage."""

    def __init__(self, study: Study, settings: Search) -> None:
        self._study = study
        self._settings = settings

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str,
        settings: Search,
        join: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> StudyStorage:
        """Open a search, or start it; with `join`, only a search that another process has started.

        Args:
            storage: a file for Optuna's journal, or an Optuna storage URL such as sqlite:///search.db.
            name: the name of the study.
            settings: the settings of the search.
            join: require that the search exists.
            say: called with a message if the journal had to be repaired (see `journal`).

        Raises:
            SearchError: the storage cannot be opened, or there is no such search to join.
            RunError: the journal cannot be written.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=settings.seed)
        try:
            with _quiet():
                opened = _storage(storage, say)
                if join:
                    study = optuna.load_study(study_name=name, storage=opened, sampler=sampler)
                else:
                    study = optuna.create_study(study_name=name, storage=opened, sampler=sampler, load_if_exists=True)
        except KeyError as error:
            raise SearchError(f"there is no search to join in {storage}: start it first") from error
        except SlimcnnError:
            raise
        except Exception as error:  # every database driver has different exceptions
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise SearchError(f"the storage {storage} cannot be opened: {reason}") from error
        return cls(study, settings)

    def enqueue(self, points: Iterable[Point]) -> None:
        """Add a waiting trial for each point that has no trial yet."""
        from optuna.trial import TrialState as S

        known = [_point(trial) for trial in self._trials(S.COMPLETE, S.WAITING, S.RUNNING)]
        for point in points:
            if point not in known:
                self._study.enqueue_trial(point, user_attrs={"enqueued": point})

    def claim(self, wait: bool = True) -> tuple[Trial, Point] | None:
        """Claim a waiting trial; None if all are complete (or, without `wait`, claimed by other processes)."""
        while True:
            if self._waiting():
                claimed = self._ask()
                if claimed is not None:
                    return claimed
            elif not self._recover_lost():
                if not wait or not self._others():
                    return None
                time.sleep(POLL)

    def propose(self) -> tuple[Trial, Point] | None:
        """Claim a trial whose point the sampler chooses; None after `settings.trials` trials."""
        from optuna.trial import TrialState as S

        self._recover_lost()
        if self._waiting():
            return self.claim()
        if len(self._trials(S.COMPLETE, S.RUNNING)) >= self._settings.trials:
            return self.claim()
        trial = self._study.ask(self._ranges())
        return self._claimed(trial)

    def tell(self, trial: Trial, outcome: Outcome, value: float) -> None:
        """Store the outcome of a trial; `value` is what the sampler minimizes.

        If another process took this one for lost, it evaluates the point again, and this outcome is dropped.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            for name, fact in asdict(outcome).items():
                trial.set_user_attr(name, fact)
            self._study.tell(trial, value)

    def release(self, trial: Trial, point: Point) -> None:
        """Give up a claimed trial, so that its point can be claimed again."""
        from optuna.trial import TrialState as S

        self._study.tell(trial.number, state=S.FAIL, skip_if_finished=True)
        if self._settings.sampler == "grid":
            self.enqueue([point])

    def outcomes(self) -> list[Outcome]:
        """List the outcomes of the complete trials, in an order that does not depend on workers or time."""
        from optuna.trial import TrialState as S

        done = {}
        for trial in self._trials(S.COMPLETE):
            facts = trial.user_attrs
            done[repr(sorted(_point(trial).items()))] = Outcome(
                _point(trial), facts["macs"], facts["top1"], facts["stopped"], facts["seconds"]
            )
        return [done[key] for key in sorted(done)]

    @property
    def progress(self) -> tuple[int, int]:
        """Number of complete trials, and of all trials."""
        from optuna.trial import TrialState as S

        done = len(self.outcomes())
        return done, done + len(self._trials(S.WAITING, S.RUNNING))

    def set_attr(self, name: str, value: Any) -> None:
        """Store a value for all processes of the search."""
        self._study.set_user_attr(name, value)

    def get_attr(self, name: str) -> Any:
        """Return a value that a process stored with `set_attr`; None if there is none."""
        return self._study.user_attrs.get(name)

    def _trials(self, *states: Any) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _waiting(self) -> bool:
        from optuna.trial import TrialState as S

        return bool(self._trials(S.WAITING))

    def _others(self) -> bool:
        from optuna.trial import TrialState as S

        return bool(self._trials(S.RUNNING))

    def _ask(self) -> tuple[Trial, Point] | None:
        from optuna.trial import TrialState as S

        trial = self._study.ask(self._ranges())
        enqueued = trial.user_attrs.get("enqueued")
        if enqueued is None or enqueued in [_point(done) for done in self._trials(S.COMPLETE)]:
            # Another process claimed the last waiting trial, or two processes enqueued the same point.
            self._study.tell(trial, state=S.FAIL)
            return None
        return self._claimed(trial)

    def _claimed(self, trial: Trial) -> tuple[Trial, Point]:
        trial.set_user_attr("worker", this_process())
        point = {name: round(v, 4) if isinstance(v, float) else v for name, v in trial.params.items()}
        return trial, point

    def _recover_lost(self) -> bool:
        """Enqueue the points of trials again whose process has died; return whether there were any."""
        from optuna.trial import TrialState as S

        lost = [trial for trial in self._trials(S.RUNNING) if self._is_lost(trial)]
        for trial in lost:
            self._study.tell(trial.number, state=S.FAIL, skip_if_finished=True)
        if self._settings.sampler == "grid" and lost:
            self.enqueue(_point(trial) for trial in lost)
        return bool(lost)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        worker = trial.user_attrs.get("worker", "")
        if not worker:
            return age > UNKNOWN
        running = is_running(worker)
        return age > ANOTHER_HOST if running is None else not running

    def _ranges(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        options = {name: CategoricalDistribution(values) for name, values in self._settings.options.items()}
        low, high = self._settings.pruning_ratios[0], self._settings.pruning_ratios[-1]
        if self._settings.sampler == "grid":
            low, high = 0.0, 1.0  # the finer grid may lie outside the first
        return {"pruning_ratio": FloatDistribution(low, high), **options}


def _point(trial: FrozenTrial) -> Point:
    given: Point = trial.user_attrs.get("enqueued") or trial.params
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in given.items()}


def _storage(storage: str | Path, say: Callable[[str], None] | None) -> BaseStorage | str:
    from optuna.storages import JournalStorage

    from slimcnn.searching.journal import Journal

    if isinstance(storage, str) and "://" in storage:
        return _sqlite(storage) if storage.startswith("sqlite") else storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(Journal(Path(storage), say))


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
