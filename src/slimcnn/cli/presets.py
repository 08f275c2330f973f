"""Turn command-line options into steps: each command is shorthand for a chain."""

from __future__ import annotations

from typing import Any

from slimcnn.cli.reading import given

StepSettings = dict[str, Any]
"""A step as plain data."""


def recovering(
    recover: str | None, training: StepSettings, default: str, minutes: float | None = 0
) -> list[StepSettings]:
    """Return the recovery steps: `default` unless the user names some, and distillation with --epochs.

    Without --epochs, the network is tuned without labels for `minutes` (None: the step's default; 0: not at all).

    >>> recovering(None, {"epochs": 3}, "least_squares")
    [{'step': 'least_squares'}, {'step': 'distill', 'epochs': 3}]
    >>> recovering(None, {}, "least_squares", minutes=2)
    [{'step': 'least_squares'}, {'step': 'tune', 'optional': True, 'minutes': 2}]
    >>> recovering("recalibrate+train", {}, "least_squares")
    [{'step': 'recalibrate'}, {'step': 'train', 'epochs': 10}]
    """
    from slimcnn.errors import RecipeError
    from slimcnn.running.recipe import steps_from_line
    from slimcnn.running.step import steps

    asked = [name for name in ("epochs", "learning_rate", "batch_size") if name in training]
    if recover is None:
        recover = " + ".join(
            filter(None, [default, "distill" if asked else "tune:optional=true" if minutes != 0 else ""])
        )
    if recover == "none":
        recover = ""
    line = recover if " + " in recover or ":" in recover else recover.replace("+", " + ")
    rows = steps_from_line(line) if line else []
    learning = [row for row in rows if steps[row["step"]].value.trains is True]
    if asked and not learning:
        option = asked[0].replace("_", "-")
        raise RecipeError(f"--{option} needs a training step, and --recover {recover or 'none'} has none: add +distill")
    tuning = [row for row in rows if row["step"] == "tune"]
    if minutes and not tuning:
        why = f"--{asked[0].replace('_', '-')} distills instead" if asked else f"--recover {recover or 'none'} has none"
        raise RecipeError(f"--minutes needs the step tune, and {why}: leave --minutes out, or add +tune to --recover")
    for row in learning:
        own = {key: value for key, value in row.items() if key != "step"}
        row |= (given(minutes=minutes or None) if row in tuning else {"epochs": 10}) | training | own
    return rows


def keeping(rows: list[StepSettings], keep: str | None) -> list[StepSettings]:
    """Set which epoch the training steps keep; sparsity training always keeps the last.

    >>> keeping([{"step": "prune"}, {"step": "distill"}], "last")
    [{'step': 'prune'}, {'keep': 'last', 'step': 'distill'}]
    """
    from slimcnn.errors import RecipeError
    from slimcnn.running.step import steps

    if keep is None:
        return rows
    chosen = [getattr(steps[row["step"]].value.model_fields.get("keep"), "default", "") == "best" for row in rows]
    if not any(chosen):
        raise RecipeError("--keep needs a training step: add --epochs or --pretrain")
    return [{"keep": keep} | row if one else row for row, one in zip(rows, chosen, strict=True)]


def beginning(pretrain: int | None, seed: int) -> list[StepSettings]:
    """Return the training step of --pretrain, if given."""
    return [{"step": "train", "epochs": pretrain, "seed": seed}] if pretrain is not None else []


def delivering(to: str | None, curve: str) -> list[StepSettings]:
    """Return the export step: the formats of --to, else ONNX if possible.

    >>> delivering("onnx,openvino", ""), delivering("none", "")
    ([{'step': 'export', 'to': ['onnx', 'openvino']}], [])
    >>> delivering(None, "")
    [{'step': 'export', 'to': ['onnx'], 'optional': True}]
    """
    if to is None:
        return [] if curve else [{"step": "export", "to": ["onnx"], "optional": True}]
    names = [name.strip() for name in to.split(",") if name.strip()]
    return [{"step": "export", "to": names}] if names != ["none"] else []


def pruning(
    target: StepSettings, recovery: list[StepSettings], method: str | None, sparsity_epochs: int | None,
    max_drop: float | None, storage: str | None, seed: int,
) -> list[StepSettings]:  # fmt: skip
    """Return the steps: sparsity training if requested, pruning to a target or by a search, recovery."""
    from slimcnn.errors import RecipeError
    from slimcnn.running.step import steps
    from slimcnn.searching.settings import SHARES

    if method not in (None, "gfr"):
        raise RecipeError(f"--method {method!r}: the only method is gfr; other methods are criteria (--criterion)")
    sized = [name for name in ("macs", "params", "size", "memory", "latency", "pruning_ratio") if name in target]
    if max_drop is not None and sized:
        raise RecipeError(f"--max-drop searches for the smallest network: remove --{sized[0].replace('_', '-')}")
    prune: StepSettings = {"step": "prune"} | target
    rows: list[StepSettings] = []
    if method == "gfr" or sparsity_epochs is not None:
        relations = "mean" if method == "gfr" else "none"
        epochs = 40 if sparsity_epochs is None else sparsity_epochs
        rows.append({"step": "sparsify", "relations": relations, "epochs": epochs, "seed": seed})
    if method == "gfr":
        prune = {"scope": "global", "residual": "inner", "min_channels": 2, "min_share": 0.05} | prune
        prune["criterion"] = "gfr"
        max_drop = 0.5 if max_drop is None and not sized else max_drop
    if max_drop is not None:
        quick = [row["step"] for row in recovery if steps[row["step"]].value.trains is False]
        prune["search"] = {"max_drop": max_drop, "seed": seed, "recover": quick} | given(storage=storage)
        if method == "gfr":  # the grid of its source
            prune["search"] |= {"pruning_ratios": list(SHARES), "options": {"a": [0.25, 0.5, 0.75, 1]}}
    elif storage is not None:
        raise RecipeError("--storage needs a search: add --max-drop")
    return [*rows, prune, *recovery]
