"""The search finds what trying everything would find, on any number of processes, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.errors import SearchError
from slimcnn.pruning import Target
from slimcnn.searching import Board, Found, Search, Trying, search, winner

HERE = Path(__file__).parent


def trying(way: str = "cut") -> Trying:
    model, data = trained(), digits()
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    target = Target(ratio=0.5, scope="global", residual="inner")
    return Trying(model, graph, data.validation, data.normalisation, "gfr", target, way=way, batch=30)  # type: ignore[arg-type]


def digits() -> Dataset:
    return load_dataset("digits").limit(400)


@cache
def trained() -> nn.Module:
    """A network that was trained for a moment, with relations that differ."""
    torch.manual_seed(0)
    model = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    training = slimcnn.Training(epochs=6, layout="nchw", precision="32", learning_rate=0.05)
    for _ in slimcnn.fit(model, digits(), training=training):
        pass
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(".sr"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) * 0.3 + 0.8)
    return model.eval()


SETTINGS = Search(drop=40, ratios=(0.1, 0.3, 0.5), options={"a": (0.25, 1)}, refine=0.05)


def brute_force(way: Trying, settings: Search) -> tuple[float, dict[str, object]]:
    """Every point cut, evaluated whole, by functions of the library that know nothing of searching."""
    model, graph = way.model, way.graph
    base = slimcnn.evaluate(model, way.images, way.normalisation).top1
    good = []
    for point in settings.grid():
        scores = slimcnn.score(model, graph, f"gfr:a={point['a']}")
        target = Target(ratio=float(point["ratio"]), scope="global", residual="inner")
        plan = slimcnn.allocate(graph, scores, target)
        small = slimcnn.prune(model, graph, plan)
        top1 = slimcnn.evaluate(small, way.images, way.normalisation).top1
        if top1 >= base - settings.drop:
            good.append((graph.macs(plan.counts(graph)) / graph.macs(), -top1, point))
    macs, _, point = min(good, key=lambda one: one[:2])
    return macs, point


@pytest.mark.parametrize("way", ["cut", "mask"])
@pytest.mark.parametrize("complete", [False, True])
def test_the_winner_is_that_of_trying_everything(way: str, complete: bool, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"refine": 0.0, "complete": complete})
    found = search(trying(way), settings, Board.open(tmp_path / "points.log", "one", settings))
    assert (found.best.macs, found.best.point) == brute_force(trying(), settings)
    assert len(found.outcomes) == 6
    evaluated = [one for one in found.outcomes if one.top1 is not None]
    assert (len(evaluated) == 6) if complete else (len(evaluated) < 6), "what cannot win is not evaluated to the end"


def alone(folder: Path) -> Found:
    return search(trying(), SETTINGS, Board.open(folder / "alone.log", "one", SETTINGS))


def test_the_finer_grid_lies_around_the_best_point_and_can_only_win(tmp_path: Path) -> None:
    coarse = SETTINGS.model_copy(update={"refine": 0.0})
    first = search(trying(), coarse, Board.open(tmp_path / "coarse.log", "one", coarse)).best
    found = alone(tmp_path)
    assert found.best.macs <= first.macs
    finer = {one.point["ratio"] for one in found.outcomes} - set(SETTINGS.ratios)
    assert finer
    assert all(abs(float(ratio) - float(first.point["ratio"])) < 0.2 for ratio in finer)


@pytest.mark.parametrize("storage", ["points.log", "sqlite:///{}/points.db"])
def test_two_workers_one_killed_in_mid_trial_end_as_one_worker_does(storage: str, tmp_path: Path) -> None:
    """The killed one holds a point; the other tries it again."""
    where = storage.format(tmp_path) if "://" in storage else str(tmp_path / storage)
    expected = alone(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    begin = [sys.executable, str(HERE / "one_worker.py"), where]
    victim = subprocess.Popen([*begin, "hang", str(tmp_path / "hanging")], env=environment)
    for _ in range(600):
        if (tmp_path / "hanging").exists():
            break
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    assert (tmp_path / "hanging").exists()
    helper = subprocess.Popen([*begin, "join", ""], env=environment)
    victim.wait()
    found = search(trying(), SETTINGS, Board.open(where, "one", SETTINGS))
    assert helper.wait(60) == 0
    assert found.best == type(found.best)(**vars(expected.best) | {"seconds": found.best.seconds})
    assert [one.point for one in found.outcomes] == [one.point for one in expected.outcomes]


def test_a_search_that_ended_is_not_done_again(tmp_path: Path) -> None:
    first = alone(tmp_path)
    again = trying()
    again.attempt = None  # type: ignore[assignment, method-assign]
    assert search(again, SETTINGS, Board.open(tmp_path / "alone.log", "one", SETTINGS)) == first


def test_tpe_tries_as_many_points_as_asked(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"sampler": "tpe", "trials": 8})
    found = search(trying(), settings, Board.open(tmp_path / "points.log", "tpe", settings))
    assert len(found.outcomes) == 8
    assert found.best == winner(found.outcomes, found.base - settings.drop)


def test_a_search_that_finds_nothing_says_how_near_it_came(tmp_path: Path) -> None:
    settings = Search(drop=0, ratios=(0.7,), options={"a": (1,)}, complete=True)
    with pytest.raises(SearchError, match=r"no point stays within 0 points of .* \(ratio 0.7, a 1\) reaches"):
        search(trying(), settings, Board.open(tmp_path / "points.log", "one", settings))


def test_joining_what_nobody_began_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no search to join"):
        Board.open(tmp_path / "points.log", "one", SETTINGS, join=True)
    with pytest.raises(SearchError, match="cannot be opened"):
        Board.open("nonsense://place", "one", SETTINGS)


def test_any_criterion_target_and_recovery_can_be_searched(tmp_path: Path) -> None:
    way = trying()
    recalibrated = []

    def recover(small: nn.Module, plan: slimcnn.Plan) -> None:
        recalibrated.append(slimcnn.recalibrate(small, [torch.randn(32, 1, 8, 8)]))

    way.criterion, way.target, way.recover = "l2", Target(ratio=0.5, round_to=2), recover
    settings = Search(drop=100, ratios=(0.2, 0.5), refine=0, complete=True)
    found = search(way, settings, Board.open(tmp_path / "points.log", "one", settings))
    assert found.best.point == {"ratio": 0.5}
    assert len(recalibrated) == 2
