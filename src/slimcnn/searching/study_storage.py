"""The trials of a search, shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimcnn.searching.settings import Point, Search
from slimcnn.searching.trial_storage import TrialStorage, open_study

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial


@dataclass(frozen=True)
class Outcome:
    """The result of one trial."""

    point: Point
    macs: float | None
    """Share of the MACs that the network keeps; None if it cannot be pruned that far."""
    metric: float | None
    """The task's metric on the validation images, in its unit; None if it was stopped early or not started."""
    stopped: str = ""
    """The reason why it was not evaluated, or not on all images."""
    seconds: float = 0.0


class StudyStorage(TrialStorage):
    """The waiting, running and complete trials of one search, shared by all processes that open the same storage."""

    def __init__(self, study: Study, settings: Search) -> None:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        options = {name: CategoricalDistribution(values) for name, values in settings.options.items()}
        low, high = settings.sizes[0], settings.sizes[-1]
        grid = settings.sampler == "grid"
        if grid:
            low, high = 0.0, 1.0  # the finer grid may lie outside the first
        super().__init__(study, {settings.varied: FloatDistribution(low, high), **options}, enqueued=grid)
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

        Arguments and errors as for `open_study`; `settings` are the settings of the search.
        """
        return cls(open_study(storage, name, seed=settings.seed, join=join, say=say), settings)

    def next(self) -> tuple[Trial, Point] | None:
        """Claim the next trial: a waiting one, or one that the sampler chooses; None if there are no more."""
        return self.claim() if self._settings.sampler == "grid" else self.sample(self._settings.trials)

    def tell(self, trial: Trial, outcome: Outcome, value: float) -> None:
        """Store the outcome of a trial; `value` is what the sampler minimizes."""
        self.finish(trial, asdict(outcome), value)

    def outcomes(self) -> list[Outcome]:
        """List the outcomes of the complete trials, in an order that does not depend on workers or time."""
        return [
            Outcome(point, facts["macs"], _metric(facts), facts["stopped"], facts["seconds"])
            for point, facts in self.complete()
        ]


def _metric(facts: Mapping[str, Any]) -> float | None:
    """Return the metric of a trial; earlier versions stored it as top1, whatever the task."""
    found: float | None = facts["metric"] if "metric" in facts else facts["top1"]
    return found
