"""The step interface: settings, requirements, and a function from one state of the run to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from slimcnn.datasets import Dataset, batches
from slimcnn.graph import ChannelGraph
from slimcnn.graph.shrinking import Kept
from slimcnn.pruning import Plan
from slimcnn.registry import Registry
from slimcnn.reporting.sections import Section
from slimcnn.running.settings import Network
from slimcnn.show import SILENT, Show
from slimcnn.tasks import Task, task_of
from slimcnn.training import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")
Facts = frozenset[str]
"""What is known about a network before a run starts:

- trained: its weights are trained;
- reference: its reference network is trained, so it can be the teacher;
- origin: it was pruned or rewritten and not trained since, so layers can be refitted to the original;
- cut: the same, and it was pruned;
- refitted: its layers were refitted, and no weight has changed since;
- constants: constant outputs of removed channels are not folded into later layers yet;
- relations: its batch norms have channel relations (GFR);
- units: it has feature reuse units;
- other_classes: it has another number of outputs than the data has classes. Only a step that loses this fact, because
  it replaces the head, accepts such a network.
"""
OTHER_CLASSES = "other_classes"


@dataclass(frozen=True)
class Origin:
    """The network from which another was pruned or rewritten."""

    whole: nn.Module
    graph: ChannelGraph | None = None
    """Graph of `whole`; None for a rewrite."""
    plan: Plan | None = None

    @property
    def cut(self) -> tuple[nn.Module, ChannelGraph, Plan]:
        """The network before pruning, its graph and the plan; only for steps that need "cut"."""
        assert self.graph is not None
        assert self.plan is not None
        return self.whole, self.graph, self.plan


@dataclass(frozen=True)
class Cut:
    """Result of the equality check of one prune step."""

    equal: bool
    error: float
    """Largest relative difference of any output between the pruned and the masked network."""
    text: str
    locked: tuple[dict[str, Any], ...]
    """Locked output channels: layer, channels, of, reason, where."""


@dataclass(frozen=True)
class Artifact:
    """An exported file written by a step."""

    name: str
    """Format, such as onnx."""
    path: str
    """Relative to the run folder."""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The networks and results of a run so far. Steps copy the networks of a state and never change them."""

    model: nn.Module
    reference: nn.Module
    """The network that `model` is compared with; the default teacher."""
    data: Dataset
    """With the normalization that the weights expect."""
    network: Network = field(default_factory=Network)
    """Settings from which a fresh copy of the model is built."""
    reference_network: Network = field(default_factory=Network)
    origin: Origin | None = None
    """The network before pruning or rewriting; None again after training."""
    kept: Kept | None = field(default_factory=dict)
    """The reference's channels that the model still has, trained or not; None if it has channels of its own."""
    cuts: tuple[Cut, ...] = ()
    artifacts: tuple[Artifact, ...] = ()

    @property
    def task(self) -> Task:
        """What the network is for: loss, metric."""
        return task_of(self.data)

    @property
    def batch(self) -> int:
        """Batch size outside training."""
        return self.task.batch

    @property
    def example(self) -> Tensor:
        """An example input of zeros, (1, c, h, w)."""
        return torch.zeros(1, *self.data.shape)

    def on_images(self, n: int | None, seed: int) -> State:
        """Return the state with at most n training images, stratified by class; the seed chooses which. None: all."""
        return self if n is None else replace(self, data=replace(self.data, train=self.data.train.limit(n, seed=seed)))

    def images(self, n: int, seed: int = 0) -> Iterator[Tensor]:
        """Return n normalized training images in batches (n, c, h, w); the seed chooses which, labels do not."""
        data, chosen = self.data, self.data.train.limit(n, seed=seed, by_class=False)
        return (x for x, _ in batches(chosen, self.batch, normalization=data.normalization, seed=0))


@dataclass(frozen=True)
class Context:
    """Folder, devices, progress output and run-wide settings for a step."""

    folder: Path
    """Folder of the step, such as runs/x/2-prune."""
    fabric: Fabric
    show: Show = SILENT
    decide: Callable[[Training, nn.Module, Dataset], Training] = lambda training, *_: training
    """Function that replaces "auto" in training settings by the values of this run."""
    timed: bool = True
    """Whether results may depend on measured time; not with --deterministic."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Values shared by all sizes of a curve, such as trace and scores; kept in memory only."""
    facts: Facts = frozenset()
    """Facts about the networks of the state."""
    level: float | None = None
    """Validation metric of the reference network (top-1 for classification); None if it is not trained."""
    digest: str = ""
    """Digest of the step's settings and of everything before it."""
    before: str = ""
    """Digest of everything before this step."""
    resumed: list[float] = field(default_factory=list)
    """Seconds spent on the step before interruptions."""

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Compute a value once for all sizes of a curve."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found


class Step(BaseModel):
    """Base class of steps: the fields are the settings in recipes and on the command line.

    Subclass it, register it with `@steps.add(name, source=...)` and implement `run`. `slimcnn list steps` shows the
    first line of the docstring. docs/extending.md has a complete example.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    needs: ClassVar[Mapping[str, str]] = {}
    """Facts that must hold before the step; the value says what to do if one does not (see `Facts`)."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Facts that must not hold; the value says what to do if one does."""
    gives: ClassVar[Facts] = frozenset()
    loses: ClassVar[Facts] = frozenset()
    costs: ClassVar[bool] = False
    """Whether it trades accuracy for size; if any other step lowers accuracy, the run prints a warning."""
    remedy: ClassVar[str] = "remove the step, or change its settings"
    """What to try if it lowers accuracy."""
    trains: ClassVar[bool] = False
    """Whether it may take hours; if so, later steps are checked before it starts."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "step" in cls.model_fields:
            raise TypeError(
                f"{cls.__name__} has a setting called step, a key that recipes use for the name of the step: rename it"
            )

    def needed(self) -> Mapping[str, str]:
        """Facts required with these settings; default: `needs`."""
        return self.needs

    def refused(self) -> Mapping[str, str]:
        """Facts not allowed with these settings; default: `refuses`."""
        return self.refuses

    def after(self, facts: Facts) -> Facts:
        """Facts after the step."""
        return (facts - self.loses) | self.gives

    def rehearse(self, state: State) -> nn.Module:
        """Check before the run everything that does not depend on trained weights; the network's weights are arbitrary.

        Returns a network with the structure that `run` will produce. Raises the error that `run` would raise.
        """
        return state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Run the step; return the next state and the sections for the report."""
        raise TypeError(f"{type(self).__name__} does not implement run")

    @property
    def name(self) -> str:
        """Name in the registry."""
        return next(entry.name for entry in steps if entry.value is type(self))


steps: Registry[type[Step]] = Registry("step", home="slimcnn.steps")
"""All steps: those in the folder slimcnn/steps, and those of plugins."""
