"""Reports of runs that never were, each extreme in its own way; every law of the page holds for all of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from slimcnn.reporting import CurveReport, Report, ks_distance
from slimcnn.reporting.figures import Drawing
from slimcnn.reporting.figures.benchmark import TimedNetwork, Timings
from slimcnn.reporting.figures.channel_graph import ChannelBox, ChannelLayer, ChannelPicture, ChannelRun
from slimcnn.reporting.figures.choice import Choice, KeptNorms, LayerChoices
from slimcnn.reporting.figures.closeness import Closeness
from slimcnn.reporting.figures.front import Front, StudyPlace
from slimcnn.reporting.figures.norms import LayerNorms, Norms
from slimcnn.reporting.figures.pareto import Pareto, Trial
from slimcnn.reporting.figures.scales import LayerScales, Scales
from slimcnn.reporting.figures.side_by_side import Pictured, SideBySide
from slimcnn.reporting.figures.sizes import Size, Sizes
from slimcnn.reporting.figures.steps import MeasuredStep, Steps
from slimcnn.reporting.figures.trade import CompactNetwork, Trade
from slimcnn.reporting.figures.training import EpochPoint, TrainingCurves
from slimcnn.reporting.figures.units import ReuseUnit, Units
from slimcnn.reporting.figures.widths import Group, Widths
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.schema import CurvePoint, CutVerdict, LockedLayer, Numbers, Ratio, StepResult, Timing
from slimcnn.reporting.sections import Column, Section, Table, Text

HOSTILE = '<script>alert("x")</script> & "quotes" \' $x_1$ {{ 7 * 7 }} 层 🙂 var(--ink) #010203'
"""Would break a page that escapes too little, or escapes twice."""

FORMATS = "name text count exact bytes percent points share small seconds milliseconds shape".split()


def epoch(n: int, *, loss: float = 1.0, validation_metric: float = 95.0) -> EpochPoint:
    return EpochPoint(
        epoch=n,
        loss=loss,
        terms={"distillation": 0.8 * loss, "cross entropy": 0.2 * loss},
        train_accuracy=validation_metric - 1.5,
        validation_metric=validation_metric,
        learning_rate=0.02 / n,
        seconds=32.1,
    )


def training(epochs: tuple[EpochPoint, ...]) -> TrainingCurves:
    return TrainingCurves(epochs=epochs, level=98.31)


def widths_section(groups: tuple[Group, ...]) -> Section:
    columns = (
        Column(title="group", format="name"),
        Column(title="before", format="exact"),
        Column(title="after", format="exact"),
        Column(title="layers"),
    )
    rows = tuple((group.name, group.channels, group.kept, f"{group.name}, bn") for group in groups)
    return Section(
        title="Widths",
        blocks=(
            Text(text=f"{plural(len(groups), 'group')} of channels."),
            Widths(groups=groups).block(),
            Table(title="The same as a table", columns=columns, rows=rows, folded=True),
        ),
    )


def norms_section(layers: tuple[LayerNorms, ...]) -> Section:
    return Section(title="Filter norms", blocks=(Norms(layers=layers).block(),))


def training_section(epochs: tuple[EpochPoint, ...], title: str = "Distillation") -> Section:
    columns = (
        Column(title="epoch", format="exact"),
        Column(title="loss", format="small"),
        Column(title="terms"),
        Column(title="validation top-1, %", format="percent"),
        Column(title="time", format="seconds"),
    )
    rows = tuple((one.epoch, one.loss, ", ".join(one.terms), one.validation_metric, one.seconds) for one in epochs)
    return Section(
        title=title,
        blocks=(
            Text(text="Training top-1 is on augmented images."),
            training(epochs).block(),
            Table(title="Every epoch in numbers", columns=columns, rows=rows, folded=True),
        ),
    )


def layers_section(n: int, name: Callable[[int], str]) -> Section:
    columns = (
        Column(title="layer", format="name"),
        Column(title="kind"),
        Column(title="shape before", format="shape"),
        Column(title="after", format="shape"),
        Column(title="MACs before", format="exact"),
        Column(title="after", format="exact"),
    )
    rows = tuple((name(i), "Conv2d", (16 + i, 8, 8), (9 + i, 8, 8), 9216 + i, 5184 + i) for i in range(n))
    return Section(title="Layer by layer", blocks=(Table(title="All layers", columns=columns, rows=rows),))


def tiny() -> Report:
    """The smallest report that says something in every part."""
    return Report(
        title="tiny on digits",
        command="slimcnn run runs/tiny/recipe.toml",
        network="tiny",
        dataset="digits",
        images={"train": 1200, "validation": 237, "test": 360},
        before=Numbers(top1=98.61, params=19442, macs=1234567, bytes=81234, peak_memory=16384, latency_ms=0.8125),
        after=Numbers(top1=97.5, params=9713, macs=610987, bytes=42101, peak_memory=12288, latency_ms=0.5432),
        reference_metric=98.31,
        steps=(
            StepResult(name="prune", metric=41.77, seconds=0.21, macs=610987, params=9713),
            StepResult(name="distill", metric=97.89, seconds=64.2, macs=610987, params=9713),
        ),
        verdict=CutVerdict(equal=True, error=3.4e-16, text="equal: pruned and masked network match"),
        locked=(LockedLayer(layer="linear", channels=10, of=10, reason="the network's output", where=""),),
        sections=(
            widths_section((Group(name="conv1", channels=16, kept=9),)),
            norms_section((LayerNorms(layer="conv1", original=(0.5, 1.0, 1.5, 2.0), kept=(1.0, 2.0), ks=0.25),)),
            layers_section(1, lambda i: "conv1"),
            training_section(
                (epoch(1, loss=1.25, validation_metric=95.36), epoch(2, loss=0.625, validation_metric=97.89))
            ),
        ),
        next_steps=("To recover more accuracy, train for more epochs: --epochs 20.",),
        timing=Timing(
            batch=1,
            threads=2,
            runtime="torch eager",
            device="some processor",
            n=321,
            before_ms=(0.7811, 0.8125, 0.9017),
            after_ms=(0.5017, 0.5432, 0.6123),
            ratio=Ratio(median=0.6712, lower=0.6544, upper=0.6901),
        ),
        not_counted=("batch_norm", "relu"),
        notes=("The test images were read once.",),
        environment={"python": "3.11.9", "torch": "2.14.1", "cpu": "some processor"},
        recipe='[network]\nname = "tiny"\n',
        checkpoint="tiny.safetensors",
        seconds=71.3,
    )


def drawings() -> dict[str, Drawing]:
    """One example of every registered figure."""
    chance = random.Random(3)

    def matrix() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(0.0 if i == j else -4 * chance.random() for j in range(10)) for i in range(10))

    def layer(name: str) -> LayerNorms:
        original = tuple(chance.gauss(1.5, 0.3) for _ in range(64))
        return LayerNorms(layer=name, original=original, kept=original[:40], ks=ks_distance(original, original[:40]))

    def scales(name: str) -> LayerScales:
        gamma = tuple(abs(chance.gauss(0.4, 0.3)) for _ in range(64))
        sr = tuple(chance.random() for _ in range(64))
        kept = tuple(math.sqrt(g * s) > 0.3 for g, s in zip(gamma, sr, strict=True))
        return LayerScales(layer=name, gamma=gamma, sr=sr, kept=kept)

    def drawn_layer(name: str, group: int) -> ChannelLayer:
        locked = ChannelRun(channels=10, group=None, reason="the network's output", where="net.py:7")
        runs = (ChannelRun(channels=54, group=group), locked)
        return ChannelLayer(name=name, label=name.rpartition(".")[2], macs=2_000_000 * (group + 1), runs=runs)

    def trial(macs: float, metric: float | None) -> Trial:
        return Trial(point={"pruning_ratio": macs, "criterion": "l2"}, macs=macs, metric=metric)

    forms = [("input", ""), ("first", "sum"), ("first", ""), ("half", "sum")]
    widest = (16, 32, 64, 128, 256, 512)
    return {
        "widths": Widths(groups=tuple(Group(name=f"layer{n}", channels=n, kept=n * 5 // 8) for n in widest)),
        "norms": Norms(layers=tuple(layer(f"layer{n}.conv1") for n in range(6))),
        "training": training(tuple(epoch(n, loss=2 / n, validation_metric=98 - 20 / n) for n in range(1, 11))),
        "scales": Scales(criterion="gfr", layers=(scales("bn1"), scales("bn2"))),
        "front": Front(
            points=tuple(
                StudyPlace(
                    label=f"{series}, {macs}",
                    series=series,
                    cost=macs,
                    score=90 + 3 * macs - lost,
                    spread=0.1 * lost,
                    best=not lost,
                )
                for series, lost in (("l2", 0), ("fpdf", 2), ("random", 5))
                for macs in (0.35, 0.5, 0.75)
            ),
            cost="MACs left",
            accuracy="top-1, %",
            images="test images",
        ),
        "pareto": Pareto(
            tried=(*(trial(n / 12, 98 - 30 / n) for n in range(1, 12)), trial(0.3, None)),
            best=trial(0.5, 97.4),
            base=98.3,
            drop=1.0,
        ),
        "units": Units(
            units=tuple(
                ReuseUnit(place=f"layer{n}", reads=(8, 8), makes=(8, 8), reused=reused, dense=n == 2, residual=residual)
                for n, (reused, residual) in enumerate([*forms, forms[1]])
            )
        ),
        "closeness": Closeness(
            classes=tuple(f"class {n}" for n in range(10)),
            networks={"teacher": matrix(), "student": matrix()},
            temperature=4,
            images=5000,
        ),
        "steps": Steps(
            steps=tuple(
                MeasuredStep(name=name, score=top1)
                for name, top1 in (("original", 98.3), ("prune", 41.8), ("least_squares", 93.2), ("distill", 97.9))
            )
        ),
        "choice": Choice(
            layers=tuple(
                LayerChoices(
                    layer=norms.layer,
                    original=norms.original,
                    choices=tuple(
                        KeptNorms(criterion=criterion, kept=norms.kept[n:], ks=norms.ks, w1=0.1)
                        for n, criterion in enumerate(("fpdf", "l2", "fpgm"))
                    ),
                )
                for norms in (layer("conv1"), layer("layer3.0.conv2"))
            )
        ),
        "benchmark": Timings(
            images="360 test images",
            points=tuple(
                TimedNetwork(
                    network=network,
                    runtime=runtime,
                    milliseconds=(0.9 * time * part, time * part, 1.2 * time * part),
                    score=top1,
                    setting=f"batch {batch}, 1 thread",
                    ship=network == "int8" and runtime == "OpenVINO",
                )
                for network, top1, part in (("original", 93.4, 1.0), ("compressed", 93.0, 0.7), ("int8", 92.8, 0.5))
                for runtime, time in (("PyTorch eager", 11.0), ("ONNX Runtime", 2.9), ("OpenVINO", 2.6))
                for batch in (1, 64)
            ),
        ),
        "channel_graph": ChannelPicture(
            boxes=tuple(
                ChannelBox(title=title, layers=tuple(drawn_layer(f"{title}.conv{n}", group) for n in range(2)))
                for group, title in enumerate(("layer1.0", "layer1.1"))
            ),
            groups=("layer1.0.conv0", "layer1.1.conv0"),
        ),
        "trade": Trade(
            runtimes=("torch eager", "ONNX Runtime"),
            networks=tuple(
                CompactNetwork(
                    title=f"net width={n / 2:g}",
                    family="shift" if n % 2 else "spatial",
                    macs=n * 90_000_000,
                    top1=60 + 2.5 * n,
                    milliseconds=(2.0 * n, 1.1 * n),
                )
                for n in range(1, 7)
            ),
        ),
        "side_by_side": SideBySide(
            examples=(Pictured(title="image 1", width=4, height=3, names=("labels", "after"), jpegs=("AAAA", "BBBB")),),
            classes=("road", "car"),
            colors=("#102030", "#405060"),
        ),
        "sizes": Sizes(
            reference=Size(label="original", macs=1234567, score=98.61, latency_ms=0.81),
            points=tuple(
                Size(label=f"{share:g}", macs=int(1234567 * share), score=98.61 - loss, latency_ms=0.81 * share + 0.1)
                for share, loss in ((0.8, 0.1), (0.6, 0.6), (0.4, 2.9))
            ),
        ),
    }


def full() -> Report:
    """Every kind of block, every tone, every format of a column, and every figure."""
    formats = Section(
        title="Formats",
        blocks=(
            Text(text="Values of every format."),
            Text(text="A note in small print.", tone="note"),
            Text(text="Good: it holds.", tone="good"),
            Text(text="Bad: it does not hold.", tone="bad"),
            Text(text="import onnxruntime\nnetwork = onnxruntime.InferenceSession('model.onnx')", tone="code"),
            Table(
                title="One row of every format",
                columns=tuple(
                    Column(title=form, format=form)  # type: ignore[arg-type]
                    for form in FORMATS
                ),
                rows=(
                    ("conv1", "as is", 1234567, 1234567, 4321, 93.386, -0.37, 0.5, 2.1e-15, 200.2, 18.42, (16, 8, 8)),
                    ("conv2", "", None, 7, None, math.nan, 0.0, None, math.inf, 3900.0, 0.081, ()),
                ),
            ),
        ),
    )
    figures = tuple(
        Section(title=f"Figure {name}", blocks=(Text(text=f"The figure {name}."), drawing.block()))
        for name, drawing in drawings().items()
    )
    return tiny().model_copy(update={"sections": (*tiny().sections, formats, *figures)})


def huge() -> Report:
    """200 layers, 150 groups, wide layers, 300 epochs, hundreds of locked layers."""
    chance = random.Random(0)
    names = [f"features.denseblock{n // 40}.denselayer{n}.a_long_name_for_a_module.conv{n % 3}" for n in range(200)]
    norms = []
    for name in names:
        original = tuple(chance.gauss(1.5, 0.3) for _ in range(1024))
        kept = original[: 512 + chance.randrange(400)]
        norms.append(LayerNorms(layer=name, original=original, kept=kept, ks=ks_distance(original, kept)))
    groups = tuple(
        Group(name=name, channels=2 ** (4 + n % 8), kept=2 ** (3 + n % 8) + n % 8) for n, name in enumerate(names[:150])
    )
    return tiny().model_copy(
        update={
            "sections": (
                widths_section(groups),
                norms_section(tuple(norms)),
                layers_section(200, lambda i: names[i]),
                training_section(tuple(epoch(n, loss=1 / n, validation_metric=90 - 40 / n) for n in range(1, 301))),
            ),
            "locked": tuple(
                LockedLayer(
                    layer=f"{name}.{part}",
                    channels=1024 - n,
                    of=2048,
                    reason=f"reason {n % 4} why its channels must stay",
                    where=f"native_layer_norm in {name} (some_module.py:{n})",
                )
                for n, name in enumerate(names)
                for part in ("first", "second")
            ),
            "before": Numbers(
                top1=76.13,
                params=1887436800,
                macs=5919001804800,
                bytes=7549747200,
                peak_memory=98304000,
                latency_ms=1234.5,
            ),
        }
    )


def nothing_locked() -> Report:
    """Every channel was free to go."""
    return tiny().model_copy(update={"locked": ()})


def failed_verdict() -> Report:
    """The cut is not exact."""
    text = "cannot be equal, because norm1 (LayerNorm) mixes channels that were cut"
    return tiny().model_copy(update={"verdict": CutVerdict(equal=False, error=0.0371, text=text)})


def hostile_names() -> Report:
    """Whatever can be named is named badly."""
    report = tiny()
    epochs = tuple(one.model_copy(update={"terms": {HOSTILE: 1.0, "<b>": 0.5}}) for one in (epoch(1), epoch(2)))
    return report.model_copy(
        update={
            **dict.fromkeys(("title", "command", "network", "dataset", "recipe", "checkpoint"), HOSTILE),
            "steps": tuple(step.model_copy(update={"name": HOSTILE}) for step in report.steps),
            "verdict": CutVerdict(equal=False, error=0.0, text=HOSTILE),
            "locked": (LockedLayer(layer=HOSTILE, channels=1, of=2, reason=HOSTILE, where=HOSTILE),),
            "sections": (
                widths_section((Group(name=HOSTILE, channels=4, kept=2),)),
                norms_section((LayerNorms(layer=HOSTILE, original=(0.5, 1.0), kept=(1.0,), ks=0.5),)),
                layers_section(1, lambda i: HOSTILE),
                training_section(epochs, title=HOSTILE),
                Section(title=HOSTILE, blocks=(Text(text=HOSTILE, tone="good"), Text(text=HOSTILE, tone="note"))),
                Section(title="层", blocks=(Text(text="A title without a letter from a to z."),)),
                Section(
                    title="comparison",
                    blocks=(Table(title=HOSTILE, columns=(Column(title=HOSTILE),), rows=((HOSTILE,),)),),
                ),
            ),
            "next_steps": (HOSTILE,),
            "timing": report.timing.model_copy(update={"runtime": HOSTILE, "device": HOSTILE}),
            "not_counted": (HOSTILE,),
            "notes": (HOSTILE,),
            "environment": {HOSTILE: HOSTILE},
        }
    )


def not_trained() -> Report:
    """Cut, never trained."""
    return tiny().model_copy(update={"sections": tiny().sections[:3], "steps": tiny().steps[:1]})


def empty() -> Report:
    """All that can be empty is empty."""
    nothing = ("locked", "steps", "sections", "not_counted", "notes", "next_steps")
    return tiny().model_copy(update={**dict.fromkeys(nothing, ()), "images": {}, "environment": {}, "recipe": ""})


def not_finite() -> Report:
    """Whatever can fail to be a number does."""
    report, nan = tiny(), math.nan
    broken = tuple(
        epoch(n).model_copy(update={"loss": nan, "terms": {}, "train_accuracy": nan, "validation_metric": nan})
        for n in (1, 2)
    )
    return report.model_copy(
        update={
            "after": report.after.model_copy(update={"top1": nan, "latency_ms": nan}),
            "reference_metric": nan,
            "steps": tuple(step.model_copy(update={"metric": nan}) for step in report.steps),
            "verdict": CutVerdict(equal=False, error=math.inf, text="wrong at conv1"),
            "sections": (
                norms_section(
                    (
                        LayerNorms(layer="broken", original=(nan, 1.0), kept=(nan,), ks=nan),
                        LayerNorms(layer="constant", original=(0.0, 0.0), kept=(0.0,), ks=nan),
                    )
                ),
                training_section(broken),
            ),
        }
    )


def rewritten() -> Report:
    """A network that was rewritten, not cut: no verdict, and the same kind of section twice."""
    section = Section(title="Rewritten layers", blocks=(drawings()["units"].block(),))
    again = Section(title="Rewritten layers", blocks=(drawings()["units"].block(),))
    return tiny().model_copy(update={"verdict": None, "locked": (), "sections": (section, again)})


def distilled() -> Report:
    """A student beside its teacher, on 20 classes with names that hurt."""
    chance = random.Random(1)
    names = (HOSTILE, *(f"class number {n}" for n in range(19)))

    def matrix() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(0.0 if i == j else -4 * chance.random() for j in range(20)) for i in range(20))

    networks = {"teacher": matrix(), "student": matrix()}
    drawing = Closeness(classes=names, networks=networks, temperature=4, images=5000)
    section = Section(title="Class closeness", blocks=(drawing.block(),))
    return tiny().model_copy(update={"verdict": None, "locked": (), "sections": (section,)})


def curve() -> CurveReport:
    """Three sizes of one network."""
    report = tiny()

    def point(share: float, top1: float, latency_ms: float) -> CurvePoint:
        before = report.before
        after = Numbers(
            top1=top1,
            params=int(before.params * share),
            macs=int(before.macs * share),
            bytes=int(before.bytes * share),
            peak_memory=int(before.peak_memory * share),
            latency_ms=latency_ms,
        )
        steps = tuple(
            StepResult(name=name, metric=top1 - loss, seconds=2.0, macs=after.macs, params=after.params)
            for name, loss in (("prune", 30.0), ("least_squares", 0.4))
        )
        return CurvePoint(
            label=f"{share:g}",
            macs_target=share,
            report=f"{share:g}/report.html",
            after=after,
            ratio=Ratio(median=latency_ms / 0.8125, lower=latency_ms / 0.83, upper=latency_ms / 0.79),
            verdict=report.verdict,
            steps=steps,
        )

    return CurveReport(
        title="tiny on digits, 3 sizes",
        command="slimcnn run runs/tiny/recipe.toml --curve 0.8,0.6,0.4",
        network="tiny",
        dataset="digits",
        images=report.images,
        reference=report.before,
        points=(point(0.8, 98.5, 0.701), point(0.6, 97.8, 0.622), point(0.4, 93.1, 0.541)),
        timing=report.timing.conditions,
        environment=report.environment,
        recipe=report.recipe,
        seconds=93.0,
    )


def hostile_curve() -> CurveReport:
    """Whatever a curve can name is named badly; one cut is not exact."""
    found = curve()
    points = tuple(
        point.model_copy(
            update={"label": f"{HOSTILE} {n}", "report": "javascript:alert(1)", "verdict": failed_verdict().verdict}
        )
        for n, point in enumerate(found.points)
    )
    names = ("title", "command", "network", "dataset", "recipe")
    return found.model_copy(update={**dict.fromkeys(names, HOSTILE), "points": points})


def not_finite_curve() -> CurveReport:
    """No accuracy and no time is known; one size; no steps."""
    found = curve()
    after = found.points[0].after.model_copy(update={"top1": math.nan, "latency_ms": math.nan})
    only = found.points[0].model_copy(update={"after": after, "steps": (), "verdict": None})
    reference = found.reference.model_copy(update={"top1": math.nan})
    return found.model_copy(update={"points": (only,), "reference": reference, "images": {}, "environment": {}})


REPORTS: dict[str, Callable[[], Report]] = {
    make.__name__: make
    for make in (
        tiny,
        full,
        huge,
        nothing_locked,
        failed_verdict,
        hostile_names,
        not_trained,
        empty,
        not_finite,
        rewritten,
        distilled,
    )
}
CURVES: dict[str, Callable[[], CurveReport]] = {
    make.__name__: make for make in (curve, hostile_curve, not_finite_curve)
}
VIEW = "view"
"""The name of a page that is not a report's: a title, a headline, and the sections of `full` and `hostile_names`."""
PAGES = (*REPORTS, *CURVES, VIEW)
"""Names of all synthetic pages."""
