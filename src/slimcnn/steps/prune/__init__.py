"""Prune channels: by a target, a search, the user's plan, or soft filter pruning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ByteSize, Field, field_validator, model_validator
from torch import Tensor, nn

from slimcnn.checkpoints import save
from slimcnn.datasets import batches
from slimcnn.errors import CriterionError, TargetError, TargetUnreachable
from slimcnn.exporting import why_not
from slimcnn.graph import ChannelGraph, trace
from slimcnn.graph.copying import duplicate
from slimcnn.graph.removal import composed, kept_positions
from slimcnn.layers.relating import relating_of
from slimcnn.measuring import file_bytes, measure, state_bytes
from slimcnn.measuring.latency import MOST_THREADS
from slimcnn.pruning import Plan, Scores, SoftPruning, Target, allocate, prune, score, sensitivity
from slimcnn.pruning.allocation import check_patterns
from slimcnn.pruning.scores import criterion_named
from slimcnn.pruning.surgery import masked_copies
from slimcnn.pruning.targets import written
from slimcnn.pruning.verify import check_equal
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Section
from slimcnn.rewriting import fold_relations, scatter
from slimcnn.running.epochs import about_training, count, learn
from slimcnn.running.saving import information_of
from slimcnn.running.settings import FilePath, Seed
from slimcnn.running.step import Context, Cut, Facts, Origin, State, Step, steps
from slimcnn.searching import Search
from slimcnn.steps.prune.clock import Clock, about_clock, default_runtime, parsed, plan_by_clock, times_for
from slimcnn.steps.prune.depthwise import choices_for, criterion_for, rounded
from slimcnn.steps.prune.search import check_storage, searched
from slimcnn.steps.prune.sections import about_cut, about_scales, about_search
from slimcnn.training import Training

FEW = 16
"""Images in the place of a batch, where a network takes one at a time."""

Patterns = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]


@steps.add("prune", source="criteria: slimcnn list criteria")
class Prune(Step):
    """Remove the least important channels until a target is met, and prove the cut."""

    costs = True
    needs: ClassVar = {"trained": "there is no trained network to prune: give --weights FILE, or put train in front"}
    gives = frozenset({"origin", "cut", "constants"})

    criterion: str | None = None
    """Pruning criterion (`slimcnn list criteria`), with options such as fpdf:bins=4. Default: reconstruction for
    networks with depthwise convolutions, unless it cannot rank some channels; else l2."""
    macs: float | None = None
    """Share of the MACs to keep at most; default 0.5 if no other target is given."""
    params: float | None = None
    """Share of the parameters to keep at most."""
    size: ByteSize | None = None
    """Maximum size of the pruned network's checkpoint file: 500kB, 1MiB."""
    memory: ByteSize | None = None
    """Maximum peak of live activations for one image in float32: 8MB."""
    latency: Annotated[str | None, BeforeValidator(lambda given: given if given is None else str(given))] = None
    """Maximum latency of one call: with a unit, 0.4ms, or as a share of the latency before, 0.5. Channels and whole
    blocks are chosen by the latencies of layers on this machine, and the result is measured."""
    runtime: str = ""
    """Runtime for latency: openvino, onnxruntime, executorch, torch. Default: the first of openvino, onnxruntime,
    torch that is installed."""
    batch: int = Field(default=1, ge=1)
    """Images per call, for latency."""
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    """CPU threads, for latency."""
    pruning_ratio: float | None = None
    """Share of the channels to remove."""
    per_layer: dict[str, float] = Field(default_factory=dict)
    """Pattern of groups or layers → share of their channels to remove."""
    of: Literal["model", "reference"] = "model"
    """The network that macs and params refer to: the step's input (model), or the run's reference."""
    scope: Literal["sensitivity", "local", "global"] | None = None
    """sensitivity: first the channels with the least output error, measured on images; local: the same share of every
    layer; global: all channels ranked together. Default: local with pruning_ratio, else sensitivity."""
    residual: Literal["auto", "inner", "cut", "scatter"] = "auto"
    """Channels of the residual stream: auto (kept if the target can be met without them, else cut last), inner
    (kept), cut (like all others), scatter (kept, but each block adds into only some of them)."""
    min_channels: int | None = None
    """Minimum number of channels of every layer; 0: residual branches may vanish. Default: 0 with latency, else 1."""
    min_share: float = 0.0
    """Minimum share of its channels that every layer keeps."""
    round_to: int | None = None
    """Kept channels are multiples of this. Default: with latency, measured to be fast in the runtime; with a size in
    macs, params, bytes or memory, 4 in networks with depthwise convolutions, or less if the size needs it; else 1."""
    protect: Patterns = ()
    """Layers that keep all channels, such as layer1.*."""
    inexact: bool = False
    """Allow pruning across LayerNorm and GroupNorm; the cut is then not exact."""
    plan: FilePath = None
    """File with the plan to use (see --dry-run), instead of choosing one."""
    soft: Training | None = None
    """Soft filter pruning before the cut: filters are zeroed at the start of every epoch and may recover. The last
    epoch is kept: the top-1 of an epoch is that of the network before the cut, which says little about the cut one."""
    search: Search | None = None
    """Search for the smallest network within an accuracy drop, instead of a given size."""
    batches: int = Field(default=8, ge=1)
    """Batches of 128 training images (16 if pixels or boxes have targets) for the criterion and the sensitivity; only
    taylor uses labels."""
    seed: Seed = 0
    """Random seed that chooses the images, and the channels of the criterion random."""

    @field_validator("soft", mode="before")
    @classmethod
    def _soft_keeps_the_last(cls, soft: Any) -> Any:
        if isinstance(soft, Training) and "keep" not in soft.model_fields_set:
            return soft.model_copy(update={"keep": "last"})
        return {"keep": "last"} | soft if isinstance(soft, dict) else soft

    @model_validator(mode="after")
    def _possible(self) -> Prune:
        if self.soft is not None and self.soft.keep != "last":
            raise ValueError(
                "soft filter pruning keeps the last epoch, because the top-1 of an epoch is measured before the cut: "
                "leave keep out"
            )
        if self.soft is not None and self.soft.ema is not None:
            raise ValueError("soft filter pruning zeroes the weights, not their moving average: leave ema out")
        if self.search is not None and (self._sized or self.pruning_ratio is not None):
            raise ValueError("a search finds the size: leave macs, params, size, memory, latency and pruning_ratio out")
        if self.latency is not None and (self.pruning_ratio is not None or self.per_layer):
            raise ValueError("latency cannot be combined with pruning_ratio or per_layer: give one of them")
        # Compare values, not which fields were set: a saved recipe states every value and must stay readable.
        if self.latency is None and (self.runtime or self.batch != 1 or self.threads != 1):
            raise ValueError("runtime, batch and threads need a latency target: give latency, such as 0.4ms")
        if self.latency is not None:
            parsed(self.latency)
            reason = why_not(self.runtime) if self.runtime else ""
            if reason:
                raise ValueError(reason)
        if self.criterion is not None:
            criterion_named(self.criterion)
        _ = self.target  # raises TargetError if it is impossible
        return self

    @property
    def _sized(self) -> bool:
        return any(value is not None for value in (self.macs, self.params, self.size, self.memory, self.latency))

    @property
    def target(self) -> Target:
        """The target of these settings, with `size` as bytes of tensors: the file's header is ignored."""
        macs, ratio = self.macs, self.pruning_ratio
        if self.search is not None:  # it varies the size
            macs = self.search.mildest if self.search.varied == "macs" else None
            ratio = self.search.mildest if self.search.varied == "pruning_ratio" else None
        elif not self._sized and ratio is None and not self.per_layer:
            macs = 0.5
        scope = self.scope or ("sensitivity" if macs is not None or self._sized else "local")
        least = self.min_channels if self.min_channels is not None else int(self.latency is None)
        milliseconds = None if self.latency is None else parsed(self.latency)  # a share until the network is timed
        multiple = 1 if self.round_to is None else self.round_to
        return Target(
            macs=macs, params=self.params, bytes=self.size, memory=self.memory, latency_ms=milliseconds,
            runtime=self.runtime, pruning_ratio=ratio, per_layer=self.per_layer, scope=scope,
            residual=self.residual, min_channels=least, min_share=self.min_share, round_to=multiple,
            protect=self.protect,
        )  # fmt: skip

    def target_for(self, state: State) -> Target:
        """Return the target as shares of the step's input network, with `size` as bytes of tensors."""
        target = self.target if self.size is None else replace(self.target, bytes=self._tensor_bytes(state))
        if self.of == "model":
            return target
        mine, whole = (measure(network, state.example) for network in (state.model, state.reference))
        shares = {"macs": mine.macs / whole.macs, "params": mine.params / whole.params}
        scaled: dict[str, Any] = {}
        for name, share in shares.items():
            asked = getattr(target, name)
            if asked is not None and asked >= share:
                raise TargetError(
                    f"{name}={asked:g} of the reference: the network already has only {share:.3f} of its {name}; "
                    "ask for less, or leave prune out"
                )
            scaled[name] = None if asked is None else asked / share
        return replace(target, **scaled)

    def _tensor_bytes(self, state: State) -> int:
        """Return the bytes that `size` leaves for tensors: a checkpoint also holds a header with names and metadata.

        Raises:
            TargetError: no bytes are left.
        """
        assert self.size is not None
        with TemporaryDirectory() as folder:
            known = information_of(state.data) | {"validation_metric": 100 / 3}
            file = file_bytes(save(state.model, Path(folder) / "whole.safetensors", information=known))
        header = file - state_bytes(state.model)
        if header >= self.size:
            raise TargetError(
                f"size={written('bytes', self.size)}: the header of this network's file alone takes "
                f"{written('bytes', header)}; give a larger size"
            )
        return self.size - header

    def choose(self, whole: nn.Module, graph: ChannelGraph, scores: Scores, target: Target) -> Plan:
        """Choose channels; where nothing says how many, in the largest multiple that is fast and reaches the size."""
        stated = self.round_to is not None or target.pruning_ratio is not None or target.per_layer
        choices = [] if stated or target.latency_ms is not None else choices_for(whole, target)
        for choice in choices:
            with suppress(TargetUnreachable):
                return rounded(self._allocate_exactly(graph, scores, choice), target, choice)
        return self._allocate_exactly(graph, scores, target)

    def _allocate_exactly(self, graph: ChannelGraph, scores: Scores, target: Target) -> Plan:
        """Choose channels; if `size` is unreachable, the error also states the best file size."""
        try:
            return allocate(graph, scores, target)
        except TargetUnreachable as error:
            if self.size is None or target.bytes is None:
                raise
            header = self.size - target.bytes
            size = written("bytes", error.best["bytes"] + header)
            raise TargetUnreachable(
                f"{error}; with the file's header of {written('bytes', header)} the best possible is size={size}",
                error.best,
            ) from error

    @property
    def trains(self) -> bool:  # type: ignore[override]
        """Whether the step trains: only with soft filter pruning."""
        return self.soft is not None

    def needed(self) -> Mapping[str, str]:
        """A trained network, and relations for the criterion gfr."""
        if (self.criterion or "").partition(":")[0] != "gfr":
            return self.needs
        return {**self.needs, "relations": "criterion gfr needs channel relations: put sparsify in front"}

    def after(self, facts: Facts) -> Facts:
        """Return the facts: relations are folded."""
        return (facts - {"relations", "refitted"}) | self.gives

    def rehearse(self, state: State) -> nn.Module:
        """Check the criterion, the patterns and whether the target can be met, with any weights."""
        if self.search is not None:
            check_storage(self.search)
        whole = self.whole(state)
        graph = trace(whole, state.example, self.inexact)
        if self.plan is not None:
            return prune(whole, graph, Plan.load(Path(self.plan), graph), verify=False)
        target = self.target_for(state)
        check_patterns(graph, target)
        if target.latency_ms is not None:
            if target.sized == ("latency_ms",):
                return state.model  # latency needs measurements
            target = replace(target, latency_ms=None)
        target = replace(target, scope="local" if target.scope == "sensitivity" else target.scope)
        plan = self.choose(whole, graph, score(whole, graph, "l2"), target)
        return prune(whole, graph, plan, verify=False)

    def propose(self, state: State, at: Context) -> tuple[nn.Module, ChannelGraph, Plan]:
        """Return the network before the cut, its graph and the plan, without a search."""
        whole, graph, plan, _ = self._proposed(state, at)
        return whole, graph, plan

    def _proposed(self, state: State, at: Context) -> tuple[nn.Module, ChannelGraph, Plan, list[Section]]:
        whole = self.whole(state)
        graph = self._graph(whole, state, at)
        if self.plan is not None:
            return whole, graph, Plan.load(Path(self.plan), graph), []
        scores = self.scores(whole, graph, state, at)
        if self.latency is None:
            return whole, graph, self.choose(whole, graph, scores, self.target_for(state)), []
        clock = Clock(self.latency, self.runtime or default_runtime(), self.batch, self.threads)
        times = at.once(f"times {at.before} {clock}", lambda: times_for(clock, whole, graph, self.round_to, at.show))
        target = replace(self.target_for(state), round_to=times.round_to)
        found = plan_by_clock(clock, target, whole, graph, scores, times, at.show)
        if found.miss:
            at.show.say(f"  {found.miss}")
        return whole, graph, found.plan, [about_clock(found, clock)]

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Choose the channels, cut them, and prove the cut."""
        sections: list[Section] = []
        if self.search is not None:
            whole = self.whole(state)
            graph = self._graph(whole, state, at)
            found, plan = searched(self, self.search, replace(state, model=whole), graph, at)
            metric = MetricName.of(state.task.metric)
            sections.append(about_search(found, self.search, metric))
        else:
            whole, graph, plan, sections = self._proposed(state, at)
        if relating_of(whole):
            sections.append(about_scales(whole, graph, plan))
        whole, graph, plan = _without_relations(whole, graph, plan, state)
        if self.soft is not None:
            whole, plan, section = self._soft_pruned(self.soft, whole, graph, plan, state, at)
            sections.append(section)
        at.show.say(f"  cutting {int(plan.counts(graph).sum())} channels and proving the cut")
        small = prune(whole, graph, plan, verify=False)
        verdict = check_equal(masked_copies(whole, graph, plan), small, graph, plan)
        at.show.say(f"  {verdict}")
        fields = ("layer", "channels", "of", "reason", "where")
        locked = tuple({name: getattr(lock, name) for name in fields} for lock in graph.locked)
        cut = Cut(verdict.equal, verdict.error, str(verdict), locked)
        kept = kept_positions(graph, plan.by_index(graph))
        after = replace(
            state, model=small, origin=Origin(whole, graph, plan), cuts=(*state.cuts, cut),
            kept=None if state.kept is None else composed(state.kept, kept),
        )  # fmt: skip
        return after, [*about_cut(whole, graph, plan), *sections]

    def images(self, state: State) -> Iterator[tuple[Tensor, Tensor]]:
        """Return augmented training images with labels, for criteria that use data."""
        data = state.data
        feed = batches(
            data.train, state.batch, normalization=data.normalization, augmentation=data.augmentation, seed=self.seed
        )
        return islice(feed, self.batches if state.batch > 1 else FEW * self.batches)

    def whole(self, state: State) -> nn.Module:
        """Return the network to cut: the state's, rewritten by `scatter` if residual="scatter"."""
        return scatter(state.model, state.example) if self.residual == "scatter" else state.model

    def _graph(self, whole: nn.Module, state: State, at: Context) -> ChannelGraph:
        def traced() -> ChannelGraph:
            at.show.say("  tracing the network")
            return trace(whole, state.example, self.inexact)

        return at.once(f"graph {at.before} {self.residual == 'scatter'} {self.inexact}", traced)

    def scores(self, whole: nn.Module, graph: ChannelGraph, state: State, at: Context) -> Scores:
        """Score all channels; if layers are chosen by sensitivity, measure it."""
        measured = self.target.scope == "sensitivity"

        def scored() -> Scores:
            found = self._plain_scores(whole, graph, state)
            if not measured:
                return found
            at.show.say("  measuring the output error when each group loses channels")
            progress = at.show.counting("measuring sensitivity")
            return sensitivity(whole, graph, found, (x for x, _ in self.images(state)), progress)

        settings = (self.criterion, self.seed, measured, self.batches, self.residual == "scatter", self.inexact)
        return at.once(f"scores {at.before} {settings}", scored)

    def _plain_scores(self, whole: nn.Module, graph: ChannelGraph, state: State) -> Scores:
        def by(criterion: str) -> Scores:
            return score(whole, graph, criterion, data=self.images(state), seed=self.seed, loss=state.task.loss_on)

        if self.criterion is not None:
            return by(self.criterion)
        try:
            found = by(criterion_for(whole))
        except CriterionError:
            return by("l2")
        return by("l2") if found.unscored else found  # a default must not keep what another criterion can rank

    def _soft_pruned(
        self, training: Training, whole: nn.Module, graph: ChannelGraph, plan: Plan, state: State, at: Context
    ) -> tuple[nn.Module, Plan, Section]:
        model = duplicate(whole)
        soft = SoftPruning(model, graph, plan)
        objective = soft.objective(state.task.objective(training.label_smoothing))
        plain = training.model_copy(update={"label_smoothing": 0.0})  # the objective does the smoothing
        epochs = learn(model, state, plain, at, "soft filter pruning", objective)
        what = f"{count(training.epochs, 'epoch')} of soft filter pruning before the cut"
        return (
            model,
            soft.choose(zero=False),
            about_training("Soft filter pruning", what, epochs, at.level, state.task.metric),
        )


def _without_relations(
    whole: nn.Module, graph: ChannelGraph, plan: Plan, state: State
) -> tuple[nn.Module, ChannelGraph, Plan]:
    """Fold relations of mode "mean", which are not needed after scoring; the plan removes the same channels."""
    if "mean" not in relating_of(whole).values():
        return whole, graph, plan
    folded = fold_relations(whole)
    traced = trace(folded, state.example, any(group.inexact for group in graph.groups))
    return folded, traced, replace(plan, network=traced.fingerprint)
