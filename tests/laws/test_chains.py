"""The law of chains: every order of two steps runs, survives kill -9 and ends the same, or is refused with a reason."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import slimcnn
from laws.chain_runs import run_calmly, run_with_kills, warm_up
from slimcnn.errors import RecipeError
from slimcnn.running import recipe_from, steps
from slimcnn.running.order import facts_at_start, facts_before

CHEAP: dict[str, dict[str, Any]] = {
    "train": {"epochs": 1, "save_every_seconds": 0},
    "sparsify": {"epochs": 1, "save_every_seconds": 0},
    "distill": {"epochs": 1, "save_every_seconds": 0},
    "tune": {"images": 64, "epochs": 2},
    "rewrite": {"images": 64},
    "least_squares": {"images": 64},
    "recalibrate": {"images": 64},
    "prune": {"batches": 1, "scope": "local"},
    "fold_constants": {},
    "export": {"images": 8},
    "quantize": {"engine": "onnxruntime", "images": 8, "max_drop": 100, "seconds": 0.01},
}
NAMES = sorted(entry.name for entry in steps)
PAIRS = list(product(NAMES, NAMES))


def chain_of(first: str, second: str) -> list[dict[str, Any]]:
    """The pair, behind a cut where the first step needs one."""
    names = [first, second]
    if {"origin", "cut"} & steps[first].value().needed().keys():
        names.insert(0, "prune")
    rows = [{"step": name} | CHEAP.get(name, {}) for name in names]
    if second == "rewrite":  # a unit of feature reuse needs a block as wide inside as outside: the cut leaves it one
        rows = [row | {"protect": ["layer1.*"]} if row["step"] == "prune" else row for row in rows]
    return rows


def refusal(rows: list[dict[str, Any]]) -> str:
    """Why the order of a chain is refused; empty if it is not."""
    recipe = recipe_from({"network": {"model": "resnet8"}, "steps": rows})
    try:
        facts_before(recipe.steps, facts_at_start(True))
    except RecipeError as error:
        return str(error)
    return ""


ACCEPTED = [pair for pair in PAIRS if not refusal(chain_of(*pair))]
REFUSED = [pair for pair in PAIRS if pair not in ACCEPTED]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of residual blocks, as small as can be."""
    warm_up()
    import torch

    torch.manual_seed(0)
    data = slimcnn.load_dataset("digits").limit(100)
    net = slimcnn.build("resnet8", in_channels=1)
    training = slimcnn.Training(epochs=2, layout="nchw", precision="32", batch_size=32)
    for _ in slimcnn.fit(net, data, training=training):
        pass
    return slimcnn.save(net, tmp_path_factory.mktemp("weights") / "net.safetensors")


def test_the_law_is_about_every_step_and_most_pairs_are_possible() -> None:
    assert set(CHEAP) <= set(NAMES)
    assert len(ACCEPTED) >= 40


OFTEN = [
    ("export", "train"), ("fold_constants", "least_squares"), ("least_squares", "prune"), ("prune", "quantize"),
    ("recalibrate", "rewrite"), ("sparsify", "train"), ("tune", "distill"),
]  # fmt: skip
"""The pairs of `make test`; the others run in the slow suite."""


def test_every_step_is_in_the_pairs_that_run_often() -> None:
    assert {name for pair in OFTEN for name in pair} == set(CHEAP)
    assert set(OFTEN) <= set(ACCEPTED)


@pytest.mark.parametrize(
    "pair",
    [pair if pair in OFTEN else pytest.param(pair, marks=pytest.mark.slow) for pair in ACCEPTED],
    ids="-".join,
)
def test_an_accepted_pair_ends_bit_identical_after_kill_9(pair: tuple[str, str], weights: Path, tmp_path: Path) -> None:
    plain = {
        "network": {"weights": str(weights)}, "data": {"name": "digits", "limit": 100}, "steps": chain_of(*pair),
        "deterministic": True, "latency_seconds": 0.01,
    }  # fmt: skip
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    whole = run_calmly(plain | {"out": str(calm)}, tmp_path / "told")
    moments = random.Random("-".join(pair))
    trains = any(steps[name].value.trains is True for name in pair)
    kills = 2 if trains and pair not in OFTEN else 1
    run_with_kills(plain | {"out": str(killed)}, tmp_path / "told", whole, moments, kills=kills)
    assert (calm / "compressed.safetensors").read_bytes() == (killed / "compressed.safetensors").read_bytes()
    reports = [json.loads((folder / "report.json").read_text()) for folder in (calm, killed)]
    for name in ("before", "after"):
        one, other = ({k: v for k, v in report[name].items() if k != "latency_ms"} for report in reports)
        assert one == other
    assert [step["metric"] for step in reports[0]["steps"]] == [step["metric"] for step in reports[1]["steps"]]
    assert not list(killed.rglob("*.part"))


@pytest.mark.parametrize("pair", REFUSED, ids="-".join)
def test_a_refused_pair_names_the_step_and_the_reason(pair: tuple[str, str]) -> None:
    message = refusal(chain_of(*pair))
    assert message.startswith("step ")
    assert pair[1] in message.partition(":")[0]
    assert any(word in message for word in ("put ", "give ", "leave ", "enough"))
