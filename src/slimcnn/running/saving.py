"""Save the state of a run after each step; load it when the run continues."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimcnn.checkpoints import load, save
from slimcnn.datasets import Dataset
from slimcnn.errors import RunError
from slimcnn.graph import trace
from slimcnn.graph.shrinking import Kept
from slimcnn.manifest import digest_of_file
from slimcnn.pruning import Plan
from slimcnn.reporting.sections import Section
from slimcnn.running.folder import DONE, MODEL, PLAN, StepPlace, write_sealed
from slimcnn.running.loading import blank_of
from slimcnn.running.settings import Network
from slimcnn.running.step import Artifact, Cut, Origin, State

Done = dict[str, Any]
"""Content of done.json."""


def write_state(
    root: Path, place: StepPlace, state: State, before: State, known: Done, results: dict[str, Any]
) -> Done:
    """Save the state after a step; return the content of its done.json. Unchanged networks are not saved again.

    `before` is the state before the step, `known` the done.json of that state; `results` are added to the file.
    """
    folder = place.folder

    def kept(network: nn.Module, name: str) -> str:
        for other, path in ((before.model, known.get("model")), (before.reference, known.get("reference"))):
            if network is other and path:
                return str(path)
        return _relative(save(network, folder / name, information=information_of(state.data)), root)

    done: Done = {"digest": place.digest} | results
    done["model"] = kept(state.model, MODEL)
    same = state.reference is state.model
    done["reference"] = done["model"] if same else kept(state.reference, "reference.safetensors")
    done["origin"] = None
    if state.origin is not None:
        done["origin"] = (
            known["origin"] if state.origin is before.origin else _write_origin(root, folder, state.origin, kept)
        )
    done["kept"] = state.kept and {
        name: {str(axis): left.tolist() for axis, left in axes.items()} for name, axes in state.kept.items()
    }
    done["network"] = state.network.model_dump(mode="json")
    done["reference_network"] = state.reference_network.model_dump(mode="json")
    done["cuts"] = [asdict(cut) for cut in state.cuts]
    done["artifacts"] = [asdict(artifact) for artifact in state.artifacts]
    write_sealed(folder / DONE, done)
    return done


def _write_origin(root: Path, folder: Path, origin: Origin, kept: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"whole": kept(origin.whole, "origin.safetensors"), "plan": None, "inexact": False}
    if origin.plan is not None and origin.graph is not None:
        origin.plan.save(folder / PLAN, origin.graph)
        found |= {"plan": _relative(folder / PLAN, root), "plan_sha256": digest_of_file(folder / PLAN)}
        found["inexact"] = any(group.inexact for group in origin.graph.groups)
    return found


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def read_state(root: Path, done: Done, data: Dataset, given: nn.Module | None = None) -> State:
    """Load the state after a step.

    `given` is the caller's network, for a run started from Python.

    Raises:
        RunError: a file of the run is missing.
        CheckpointError: a file of the run is damaged.
    """
    try:
        return _read_state(root, done, data, given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(
            f"a {DONE} in {root} is damaged ({reason:.200}); delete the folder of the step: it runs again"
        ) from error


def _read_state(root: Path, done: Done, data: Dataset, given: nn.Module | None) -> State:
    network, reference_network = Network(**done["network"]), Network(**done["reference_network"])
    model = _open(root / done["model"], network, data, given)
    same = done["reference"] == done["model"]
    reference = model if same else _open(root / done["reference"], reference_network, data, given)
    state = State(
        model, reference, data, network, reference_network,
        cuts=tuple(Cut(**cut | {"locked": tuple(cut["locked"])}) for cut in done["cuts"]),
        artifacts=tuple(Artifact(**artifact) for artifact in done["artifacts"]),
        kept=_kept(done.get("kept")),
    )  # fmt: skip
    if done["origin"] is None:
        return state
    whole = _open(root / done["origin"]["whole"], network, data, given)
    if done["origin"]["plan"] is None:
        return replace(state, origin=Origin(whole))
    graph, plan = trace(whole, state.example, done["origin"]["inexact"]), root / done["origin"]["plan"]
    if digest_of_file(plan) != done["origin"]["plan_sha256"]:
        raise RunError(f"{plan} has changed since its step ended: delete the folder of the step to run it again")
    return replace(state, origin=Origin(whole, graph, Plan.load(plan, graph)))


def _kept(plain: dict[str, dict[str, list[Any]]] | None) -> Kept | None:
    """Read the kept channels; None also for runs of versions that did not store them."""
    if plain is None:
        return None
    return {name: {int(axis): torch.tensor(left) for axis, left in axes.items()} for name, axes in plain.items()}


def _open(path: Path, network: Network, data: Dataset, given: nn.Module | None) -> nn.Module:
    if not path.exists():
        raise RunError(f"{path} is missing, although its step is done: delete the folder of the step to run it again")
    blank = blank_of(network, data)
    unnamed = not (network.model or network.weights)  # built by the caller; a student has a name or a checkpoint
    if unnamed and given is not None and getattr(given, "architecture", None) is None:
        return load(path, given)
    return load(path, blank() if blank is not None else None)


def information_of(data: Dataset) -> dict[str, Any]:
    """Return the extra data stored in a checkpoint: dataset, classes, input shape, normalization, scaling, task."""
    found = {
        "dataset": data.name,
        "classes": list(data.classes),
        "input": list(data.shape),
        "normalization": {"mean": list(data.normalization.mean), "std": list(data.normalization.std)},
    }
    scaling = data.scaling.stated()
    found |= {"scaling": scaling} if scaling else {}
    return found | ({"task": data.task} if data.task != "classification" else {})


def sections_of(done: Sequence[Done]) -> list[Section]:
    """Collect the report sections of all steps; repeated titles get the step number."""
    found = [(number, Section.model_validate(one)) for number, d in enumerate(done, 1) for one in d["sections"]]
    titles = [section.title for _, section in found]
    return [
        section.model_copy(update={"title": f"{section.title} (step {number})"})
        if titles.count(section.title) > 1
        else section
        for number, section in found
    ]
