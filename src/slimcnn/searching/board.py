"""The points of a search on an Optuna storage, where several processes take them, and one may die in the middle."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimcnn.errors import SearchError
from slimcnn.searching.settings import Point, Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

POLL = 0.2
"""Seconds between two looks at what others do."""

UNKNOWN = 30.0
"""Seconds after which a point that nobody says to work on is taken to be lost."""

ABROAD = 3600.0
"""Seconds after which a point on another machine is taken to be lost: its process cannot be seen from here."""


@dataclass(frozen=True)
class Outcome:
    """What one point came to."""

    point: Point
    macs: float | None
    """Share of the MACs that stays; None where the network cannot be cut so far."""
    top1: float | None
    """Percent, on the validation images; None where the evaluation was stopped, or not begun."""
    stopped: str = ""
    """Why there is no top-1."""
    seconds: float = 0.0


class Board:
    """Points that wait, are worked on, and are done; shared by all processes that open the same storage and name."""

    def __init__(self, study: Study, settings: Search) -> None:
        self._study = study
        self._settings = settings
        self._me = f"{socket.gethostname()}:{os.getpid()}"

    @classmethod
    def open(cls, storage: str | Path, name: str, settings: Search, join: bool = False) -> Board:
        """Open a search, or begin it; with `join`, only one that somebody has begun.

        Args:
            storage: a file for Optuna's journal, or an Optuna storage URL such as sqlite:///search.db.
            name: of the study.
            settings: what is searched.
            join: whether it must be there already.

        Raises:
            SearchError: the storage cannot be opened, or there is no such search to join.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=settings.seed)
        try:
            with _quiet():
                opened = _storage(storage)
                if join:
                    study = optuna.load_study(study_name=name, storage=opened, sampler=sampler)
                else:
                    study = optuna.create_study(study_name=name, storage=opened, sampler=sampler, load_if_exists=True)
        except KeyError as error:
            raise SearchError(f"there is no search to join in {storage}: begin it first") from error
        except Exception as error:  # drivers of databases have errors of their own
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise SearchError(f"the storage {storage} cannot be opened: {reason}") from error
        return cls(study, settings)

    def post(self, points: Iterable[Point]) -> None:
        """Let points wait for whoever takes them; those that are there already stay as they are."""
        from optuna.trial import TrialState as S

        known = [_point(trial) for trial in self._trials(S.COMPLETE, S.WAITING, S.RUNNING)]
        for point in points:
            if point not in known:
                self._study.enqueue_trial(point, user_attrs={"posted": point})

    def take(self, wait: bool = True) -> tuple[Trial, Point] | None:
        """Take a point to work on; None when all are done (or, without `wait`, taken by others)."""
        while True:
            if self._waiting():
                taken = self._ask()
                if taken is not None:
                    return taken
            elif not self._recover_lost():
                if not wait or not self._others():
                    return None
                time.sleep(POLL)

    def propose(self) -> tuple[Trial, Point] | None:
        """Take a point that the sampler chooses; None when there were enough."""
        from optuna.trial import TrialState as S

        self._recover_lost()
        if self._waiting():
            return self.take()
        if len(self._trials(S.COMPLETE, S.RUNNING)) >= self._settings.trials:
            return self.take()
        trial = self._study.ask(self._ranges())
        return self._claimed(trial)

    def settle(self, trial: Trial, outcome: Outcome, value: float) -> None:
        """Write down what a point came to; `value` is what the sampler makes small."""
        for name, fact in asdict(outcome).items():
            trial.set_user_attr(name, fact)
        self._study.tell(trial, value)

    def outcomes(self) -> list[Outcome]:
        """List what is done, in an order that does not depend on who did what when."""
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
        """Points that are done, and all."""
        from optuna.trial import TrialState as S

        done = len(self.outcomes())
        return done, done + len(self._trials(S.WAITING, S.RUNNING))

    def say(self, name: str, value: Any) -> None:
        """Let all processes know."""
        self._study.set_user_attr(name, value)

    def said(self, name: str) -> Any:
        """Read what a process let all know; None if nobody did."""
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
        posted = trial.user_attrs.get("posted")
        if posted is None or posted in [_point(done) for done in self._trials(S.COMPLETE)]:
            # Another process took the last one that waited, or two of them posted the same.
            self._study.tell(trial, state=S.FAIL)
            return None
        return self._claimed(trial)

    def _claimed(self, trial: Trial) -> tuple[Trial, Point]:
        trial.set_user_attr("worker", self._me)
        point = {name: round(v, 4) if isinstance(v, float) else v for name, v in trial.params.items()}
        return trial, point

    def _recover_lost(self) -> bool:
        """Let points wait again whose process has died; whether there were any."""
        from optuna.trial import TrialState as S

        lost = [trial for trial in self._trials(S.RUNNING) if self._is_lost(trial)]
        for trial in lost:
            self._study.tell(trial.number, state=S.FAIL, skip_if_finished=True)
        if self._settings.sampler == "grid" and lost:
            self.post(_point(trial) for trial in lost)
        return bool(lost)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        host, _, number = trial.user_attrs.get("worker", "").rpartition(":")
        if not number:
            return age > UNKNOWN
        if host != socket.gethostname():
            return age > ABROAD
        return not _alive(int(number))

    def _ranges(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        options = {name: CategoricalDistribution(values) for name, values in self._settings.options.items()}
        low, high = self._settings.ratios[0], self._settings.ratios[-1]
        if self._settings.sampler == "grid":
            low, high = 0.0, 1.0  # the finer grid may leave the first one
        return {"ratio": FloatDistribution(low, high), **options}


def _point(trial: FrozenTrial) -> Point:
    given: Point = trial.user_attrs.get("posted") or trial.params
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in given.items()}


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(number)


def _is_zombie(number: int) -> bool:
    """A process that was killed and that nobody has waited for yet still has its number."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _storage(storage: str | Path) -> BaseStorage | str:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if isinstance(storage, str) and "://" in storage:
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(storage)))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
