"""What a step of a run is: settings, what it needs, and a function from one state of the run to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from slimcnn.datasets import Dataset, batches
from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan
from slimcnn.registry import Registry
from slimcnn.reporting.sections import Section
from slimcnn.running.settings import Network
from slimcnn.show import SILENT, Show
from slimcnn.training import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")
Facts = frozenset[str]
"""What is known of a network before anything runs:

- trained: its weights were learned;
- reference: the network that it is compared with was trained, so that it can teach;
- origin: it was cut or rewritten, and not trained since: layers can be refitted to what they were;
- cut: the same, cut;
- constants: what removed channels sent to later layers is not accounted for yet;
- relations: its batch norms relate their channels (GFR);
- units: it reuses features.
"""

BATCH = 128
"""Images that go through a network at once where nothing is trained."""


@dataclass(frozen=True)
class Origin:
    """The network that another was cut or rewritten from, and how."""

    whole: nn.Module
    graph: ChannelGraph | None = None
    """Of `whole`; None for a rewrite."""
    plan: Plan | None = None

    @property
    def cut(self) -> tuple[nn.Module, ChannelGraph, Plan]:
        """The network before the cut, its graph and the plan; only a step that needs "cut" may ask."""
        assert self.graph is not None
        assert self.plan is not None
        return self.whole, self.graph, self.plan


@dataclass(frozen=True)
class Cut:
    """What was proven of one cut."""

    equal: bool
    error: float
    """Largest relative difference of any output between the pruned and the masked network."""
    text: str
    locked: tuple[dict[str, Any], ...]
    """Output channels that had to stay: layer, channels, of, reason, where."""


@dataclass(frozen=True)
class Artifact:
    """A file for a runtime that a step wrote."""

    name: str
    """What it is for, such as onnx."""
    path: str
    """Relative to the run's folder."""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a run has made so far. Steps never change a state's networks: they copy."""

    model: nn.Module
    reference: nn.Module
    """What the model is compared with, and the default teacher."""
    data: Dataset
    """With the normalization that the weights expect."""
    network: Network = field(default_factory=Network)
    """How a fresh copy of the model is built."""
    reference_network: Network = field(default_factory=Network)
    origin: Origin | None = None
    """The cut or rewrite that `model` came from, until training makes it meaningless."""
    cuts: tuple[Cut, ...] = ()
    artifacts: tuple[Artifact, ...] = ()

    @property
    def example(self) -> Tensor:
        """One input of the right shape, (1, c, h, w)."""
        return torch.zeros(1, *self.data.shape)

    def images(self, n: int) -> Iterator[Tensor]:
        """Give n training images as the network expects them, in batches (n, c, h, w), without their labels."""
        data = self.data
        return (x for x, _ in batches(data.train.limit(n), BATCH, normalization=data.normalization, seed=0))


@dataclass(frozen=True)
class Context:
    """Where a step may write, how it tells what it does, and on which devices it runs."""

    folder: Path
    """The step's own, such as runs/x/2-prune."""
    fabric: Fabric
    show: Show = SILENT
    decide: Callable[[Training, nn.Module, Dataset], Training] = lambda training, *_: training
    """Replace "auto" in a training's settings by what this run has decided."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What the sizes of a curve have in common, such as a trace and its scores; lost when the process ends."""
    facts: Facts = frozenset()
    """What is known of the state's networks."""
    level: float | None = None
    """The reference's top-1 on the validation images; None where it is not trained."""
    digest: str = ""
    """Of this step's settings and everything before it."""
    before: str = ""
    """The digest of what came before this step."""
    resumed: list[float] = field(default_factory=list)
    """Seconds that the step took before an interruption."""

    @property
    def writing(self) -> bool:
        """Whether this process writes files: one of several does."""
        return bool(self.fabric.is_global_zero)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Make something once for all sizes of a curve."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found


class Step(BaseModel):
    """One step of a run: the fields are its settings, in recipes and on the command line.

    Subclass it, register it with `@steps.add(name, source=...)` and write `run`; the docstring's first line is what
    `slimcnn list steps` shows. docs/extending.md builds one from start to end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    needs: ClassVar[Mapping[str, str]] = {}
    """Facts that must hold before the step, each with what to do where it does not (see `Facts`)."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Facts that must not hold, each with what to do."""
    gives: ClassVar[Facts] = frozenset()
    loses: ClassVar[Facts] = frozenset()
    costs: ClassVar[bool] = False
    """Whether it gives up accuracy for size; any other step that leaves the network worse is reported loudly."""
    trains: ClassVar[bool] = False
    """Whether it may take hours: what comes after it is then checked before it begins."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "step" in cls.model_fields:
            raise TypeError(f"{cls.__name__} has a setting called step, which is where a recipe has the step's name")

    def needed(self) -> Mapping[str, str]:
        """What these settings need; by default, what the step needs."""
        return self.needs

    def refused(self) -> Mapping[str, str]:
        """What these settings refuse; by default, what the step refuses."""
        return self.refuses

    def after(self, facts: Facts) -> Facts:
        """What is known after the step."""
        return (facts - self.loses) | self.gives

    def rehearse(self, state: State) -> nn.Module:
        """Check everything that needs no trained weights, on a network with any weights, before the run begins.

        Returns a network of the structure that the step will make. Raises the error that `run` would raise.
        """
        return state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Do the step: give the next state, and what the report says of it."""
        raise TypeError(f"{type(self).__name__} has no run")

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return next(entry.name for entry in steps if entry.value is type(self))


steps: Registry[type[Step]] = Registry("step", home="slimcnn.steps")
"""Every step: the folder slimcnn/steps is scanned, plugins add theirs."""
