"""Reports of runs that never were, each extreme in its own way; every law of the page holds for all of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from slimcnn.reporting import Report, ks_distance
from slimcnn.reporting.contents import (
    Closeness,
    Curve,
    Group,
    Law,
    LayerChange,
    LockedChannels,
    Norms,
    Numbers,
    ReuseUnit,
    Rewrite,
    Stage,
    Timing,
)

HOSTILE = '<script>alert("x")</script> & "quotes" \' $x_1$ {{ 7 * 7 }} 层 🙂 var(--ink) #010203'
"""Would break a page that escapes too little, or escapes twice."""


def tiny() -> Report:
    """The smallest report that says something in every part."""
    return Report(
        title="tiny on digits",
        command="slimcnn run runs/tiny/recipe.toml",
        network="tiny",
        dataset="digits",
        images={"train": 1200, "validation": 237, "test": 360},
        normalisation="mean 0.305, std 0.376 (the dataset's own)",
        criterion="fpdf",
        target="macs=0.5, scope=local",
        recovery="distill: 2 epochs, temperature 4",
        before=Numbers(top1=98.61, params=19442, macs=1234567, bytes=81234, latency_ms=0.8125),
        after=Numbers(top1=97.5, params=9713, macs=610987, bytes=42101, latency_ms=0.5432),
        stages=(
            Stage(name="original", top1=98.31, seconds=0.0),
            Stage(name="cut", top1=41.77, seconds=0.21),
            Stage(name="distilled", top1=97.89, seconds=64.2),
        ),
        verdict=Law(equal=True, error=3.4e-16, text="equal: the pruned network is the masked network"),
        locked=(LockedChannels(layer="linear", channels=10, of=10, reason="the network's output", where=""),),
        groups=(Group(name="conv1", channels=16, kept=9, layers=("conv1", "bn1")),),
        layers=(
            LayerChange(
                name="conv1",
                kind="Conv2d",
                shape_before=(16, 8, 8),
                shape_after=(9, 8, 8),
                params_before=144,
                params_after=81,
                macs_before=9216,
                macs_after=5184,
            ),
        ),
        norms=(Norms(layer="conv1", original=(0.5, 1.0, 1.5, 2.0), kept=(1.0, 2.0), ks=0.25),),
        curves=(
            _epoch(1, loss=1.25, validation_top1=95.36),
            _epoch(2, loss=0.625, validation_top1=97.89),
        ),
        timing=Timing(
            batch=1,
            threads=2,
            runtime="torch eager",
            device="some processor",
            n=321,
            before_ms=(0.7811, 0.8125, 0.9017),
            after_ms=(0.5017, 0.5432, 0.6123),
            ratio=0.6712,
        ),
        not_counted=("batch_norm", "relu"),
        notes=("The test images were read once.",),
        environment={"python": "3.11.9", "torch": "2.14.1", "cpu": "some processor"},
        recipe='[network]\nname = "tiny"\n',
        checkpoint="tiny.safetensors",
        seconds=71.3,
    )


def huge() -> Report:
    """200 layers, 150 groups, wide layers, 300 epochs, hundreds of locked layers."""
    chance = random.Random(0)
    names = [f"features.denseblock{n // 40}.denselayer{n}.a_long_name_for_a_module.conv{n % 3}" for n in range(200)]
    norms = []
    for name in names:
        original = tuple(chance.gauss(1.5, 0.3) for _ in range(1024))
        kept = original[: 512 + chance.randrange(400)]
        norms.append(Norms(layer=name, original=original, kept=kept, ks=ks_distance(original, kept)))
    return tiny().model_copy(
        update={
            "groups": tuple(
                Group(
                    name=name, channels=2 ** (4 + n % 8), kept=2 ** (3 + n % 8) + n % 8, layers=tuple(names[n : n + 8])
                )
                for n, name in enumerate(names[:150])
            ),
            "layers": tuple(
                LayerChange(
                    name=name,
                    kind="Conv2d",
                    shape_before=(1024 + n, 56, 56),
                    shape_after=(512 + n, 56, 56),
                    params_before=9437184 + n,
                    params_after=2359296 + n,
                    macs_before=29595009024 + n,
                    macs_after=7398752256 + n,
                )
                for n, name in enumerate(names)
            ),
            "norms": tuple(norms),
            "curves": tuple(_epoch(n, loss=1 / n, validation_top1=90 - 40 / n) for n in range(1, 301)),
            "locked": tuple(
                LockedChannels(
                    layer=f"{name}.{part}",
                    channels=1024 - n,
                    of=2048,
                    reason=f"reason {n % 4} why its channels must stay",
                    where=f"native_layer_norm in {name} (some_module.py:{n})",
                )
                for n, name in enumerate(names)
                for part in ("first", "second")
            ),
            "before": Numbers(top1=76.13, params=1887436800, macs=5919001804800, bytes=7549747200, latency_ms=1234.5),
        }
    )


def nothing_locked() -> Report:
    """Every channel was free to go."""
    return tiny().model_copy(update={"locked": ()})


def failed_verdict() -> Report:
    """The law does not hold."""
    text = "cannot be equal, because norm1 (LayerNorm) mixes channels that were cut"
    return tiny().model_copy(update={"verdict": Law(equal=False, error=0.0371, text=text)})


def hostile_names() -> Report:
    """Whatever can be named is named badly."""
    report = tiny()
    return report.model_copy(
        update={
            **dict.fromkeys(("title", "command", "network", "dataset", "normalisation", "criterion"), HOSTILE),
            **dict.fromkeys(("target", "recovery", "recipe", "checkpoint"), HOSTILE),
            "stages": tuple(stage.model_copy(update={"name": HOSTILE}) for stage in report.stages),
            "verdict": Law(equal=True, error=0.0, text=HOSTILE),
            "locked": (LockedChannels(layer=HOSTILE, channels=1, of=2, reason=HOSTILE, where=HOSTILE),),
            "groups": (Group(name=HOSTILE, channels=4, kept=2, layers=(HOSTILE,)),),
            "layers": tuple(layer.model_copy(update={"name": HOSTILE, "kind": HOSTILE}) for layer in report.layers),
            "norms": tuple(layer.model_copy(update={"layer": HOSTILE}) for layer in report.norms),
            "curves": tuple(epoch.model_copy(update={"terms": {HOSTILE: 1.0, "<b>": 0.5}}) for epoch in report.curves),
            "timing": report.timing.model_copy(update={"runtime": HOSTILE, "device": HOSTILE}),
            "not_counted": (HOSTILE,),
            "notes": (HOSTILE,),
            "environment": {HOSTILE: HOSTILE},
        }
    )


def no_curves() -> Report:
    """Cut and recalibrated, never trained."""
    return tiny().model_copy(update={"curves": (), "recovery": "recalibrate", "stages": tiny().stages[:2]})


def empty() -> Report:
    """All that can be empty is empty."""
    nothing = ("locked", "groups", "layers", "norms", "curves", "stages", "not_counted", "notes")
    return tiny().model_copy(
        update={**dict.fromkeys(nothing, ()), "images": {}, "environment": {}, "recipe": "", "recovery": "none"}
    )


def not_finite() -> Report:
    """Whatever can fail to be a number does."""
    report, nan = tiny(), math.nan
    return report.model_copy(
        update={
            "after": report.after.model_copy(update={"top1": nan, "latency_ms": nan}),
            "stages": tuple(stage.model_copy(update={"top1": nan}) for stage in report.stages),
            "verdict": Law(equal=False, error=math.inf, text="wrong at conv1"),
            "norms": (
                Norms(layer="broken", original=(nan, 1.0), kept=(nan,), ks=nan),
                Norms(layer="constant", original=(0.0, 0.0), kept=(0.0,), ks=nan),
            ),
            "curves": tuple(
                Curve(epoch=n, loss=nan, terms={}, train_top1=nan, validation_top1=nan, learning_rate=0.1, seconds=1.0)
                for n in (1, 2)
            ),
        }
    )


def _epoch(n: int, *, loss: float, validation_top1: float) -> Curve:
    return Curve(
        epoch=n,
        loss=loss,
        terms={"distillation": 0.8 * loss, "cross entropy": 0.2 * loss},
        train_top1=validation_top1 - 1.5,
        validation_top1=validation_top1,
        learning_rate=0.02 / n,
        seconds=32.1,
    )


def rewritten() -> Report:
    """A network that was rewritten, not cut: no verdict, no groups."""
    units = [
        ReuseUnit(place=f"layer{n}", reads=(8, 8), makes=(8, 8), reused=reused, dense=n == 2, residual=residual)
        for n, (reused, residual) in enumerate([("input", ""), ("first", "sum"), ("first", ""), ("half", "sum")])
    ]
    changes = [
        Rewrite(layer="layer1.conv1", what="16 → 8 channels (was 16 → 16)", why_left=""),
        Rewrite(layer=HOSTILE, what="", why_left="it works in groups"),
    ]
    return tiny().model_copy(
        update={
            "criterion": "", "target": "feature_reuse:variant=dense", "verdict": None, "locked": (), "groups": (),
            "norms": (), "rewrites": tuple(changes), "units": (*units, units[1]),
        }
    )  # fmt: skip


def distilled() -> Report:
    """A student beside its teacher, on 20 classes with names that hurt."""
    chance = random.Random(1)
    names = (HOSTILE, *(f"class number {n}" for n in range(19)))

    def matrix() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(0.0 if i == j else -4 * chance.random() for j in range(20)) for i in range(20))

    found = Closeness(classes=names, teacher=matrix(), student=matrix(), temperature=4, images=5000)
    return tiny().model_copy(
        update={
            "criterion": "", "target": "0.1 cross_entropy + 0.9 kd", "verdict": None, "locked": (), "groups": (),
            "norms": (), "closeness": found,
        }
    )  # fmt: skip


REPORTS: dict[str, Callable[[], Report]] = {
    make.__name__: make
    for make in (
        tiny,
        huge,
        nothing_locked,
        failed_verdict,
        hostile_names,
        no_curves,
        empty,
        not_finite,
        rewritten,
        distilled,
    )
}
