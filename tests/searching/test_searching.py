"""The search finds what trying everything would find, on any number of processes, whoever dies."""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from optuna.storages._rdb.models import TrialModel
from torch import nn

import slimcnn
from at_hand import mostly_slow
from slimcnn import process_ids
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.errors import RunError, SearchError
from slimcnn.pruning import Target
from slimcnn.searching import Evaluator, Found, Outcome, Point, Search, StudyStorage, search, trial_storage, winner

HERE = Path(__file__).parent


def evaluator(way: str = "cut") -> Evaluator:
    model, data = trained(), digits()
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    target = Target(pruning_ratio=0.5, scope="global", residual="inner")
    return Evaluator(model, graph, data.validation, data.normalization, "gfr", target, way=way, batch=30)  # type: ignore[arg-type]


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


SETTINGS = Search(max_drop=40, pruning_ratios=(0.1, 0.3, 0.5), options={"a": (0.25, 1)}, refine=0.05)


def brute_force(way: Evaluator, settings: Search) -> tuple[float, dict[str, object]]:
    """Every point cut, evaluated whole, by functions of the library that know nothing of searching."""
    model, graph = way.model, way.graph
    base = slimcnn.evaluate(model, way.images, way.normalization).top1
    good = []
    for point in settings.grid():
        scores = slimcnn.score(model, graph, f"gfr:a={point['a']}")
        target = Target(pruning_ratio=float(point["pruning_ratio"]), scope="global", residual="inner")
        plan = slimcnn.allocate(graph, scores, target)
        small = slimcnn.prune(model, graph, plan)
        top1 = slimcnn.evaluate(small, way.images, way.normalization).top1
        if top1 >= base - settings.max_drop:
            good.append((graph.macs(plan.counts(graph)) / graph.macs(), -top1, point))
    macs, _, point = min(good, key=lambda one: one[:2])
    return macs, point


@pytest.mark.parametrize("way", ["cut", "mask"])
@pytest.mark.parametrize("complete", [False, True])
def test_the_winner_is_that_of_trying_everything(way: str, complete: bool, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"refine": 0.0, "complete": complete})
    found = search(evaluator(way), settings, StudyStorage.open(tmp_path / "points.log", "one", settings))
    assert (found.best.macs, found.best.point) == brute_force(evaluator(), settings)
    assert len(found.outcomes) == 6
    evaluated = [one for one in found.outcomes if one.metric is not None]
    assert (len(evaluated) == 6) if complete else (len(evaluated) < 6), "what cannot win is not evaluated to the end"


def test_a_search_by_macs_finds_the_smallest_of_all_sizes_with_the_layers_of_sensitivity(tmp_path: Path) -> None:
    model, data = trained(), digits()
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    images = [(data.normalization(data.train.pixels[:64]), data.train.labels[:64])]
    target = Target(macs=0.5, scope="sensitivity")
    way = Evaluator(model, graph, data.validation, data.normalization, "l2", target, data=lambda: images)
    settings = Search(max_drop=30, macs=(0.4, 0.8, 0.9, 0.95), refine=0)
    found = search(way, settings, StudyStorage.open(tmp_path / "points.log", "macs", settings))

    scores = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), (x for x, _ in images))
    base, good = slimcnn.evaluate(model, data.validation, data.normalization).top1, []
    for macs in settings.sizes:
        plan = slimcnn.allocate(graph, scores, Target(macs=macs, scope="sensitivity"))
        small = slimcnn.prune(model, graph, plan)
        if slimcnn.evaluate(small, data.validation, data.normalization).top1 >= base - settings.max_drop:
            good.append((graph.macs(plan.counts(graph)) / graph.macs(), macs))
    assert 0 < len(good) < 4
    assert (found.best.macs, found.best.point["macs"]) == min(good)


def test_layers_by_sensitivity_need_images(tmp_path: Path) -> None:
    way = evaluator()
    way.target = Target(macs=0.5, scope="sensitivity")
    with pytest.raises(SearchError, match="give the Evaluator data="):
        way.plan({"macs": 0.5, "a": 1})


def test_a_search_varies_one_kind_of_size() -> None:
    with pytest.raises(ValueError, match="macs or pruning_ratios, not both"):
        Search(macs=(0.5,), pruning_ratios=(0.5,))
    assert Search().grid()[0] == {"macs": 0.05}
    assert Search(pruning_ratios=(0.3, 0.1)).grid()[0] == {"pruning_ratio": 0.1}


@cache
def alone() -> Found:
    with TemporaryDirectory() as folder:
        return search(evaluator(), SETTINGS, StudyStorage.open(Path(folder) / "alone.log", "one", SETTINGS))


def test_the_finer_grid_lies_around_the_best_point_and_can_only_win(tmp_path: Path) -> None:
    coarse = SETTINGS.model_copy(update={"refine": 0.0})
    first = search(evaluator(), coarse, StudyStorage.open(tmp_path / "coarse.log", "one", coarse)).best
    found = alone()
    assert found.best.macs <= first.macs
    finer = {one.point["pruning_ratio"] for one in found.outcomes} - set(SETTINGS.pruning_ratios)
    assert finer
    assert all(abs(float(ratio) - float(first.point["pruning_ratio"])) < 0.2 for ratio in finer)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["points.log", "sqlite:///{}/points.db"])
def test_two_workers_one_killed_in_mid_trial_end_as_one_worker_does(storage: str, tmp_path: Path) -> None:
    """The killed one holds a point; the other tries it again."""
    where = storage.format(tmp_path) if "://" in storage else str(tmp_path / storage)
    expected = alone()
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
    found = search(evaluator(), SETTINGS, StudyStorage.open(where, "one", SETTINGS))
    assert helper.wait(60) == 0
    assert found.best == type(found.best)(**vars(expected.best) | {"seconds": found.best.seconds})
    assert [one.point for one in found.outcomes] == [one.point for one in expected.outcomes]


def interrupted(storage: StudyStorage) -> None:
    """A search that stops in its first trial."""
    way = evaluator()

    def attempt(point: Point, least: float, most: float) -> tuple[Outcome, float]:
        raise KeyboardInterrupt

    way.attempt = attempt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        search(way, FEW, storage)


def test_a_search_that_was_killed_resumes_in_a_process_with_the_same_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the process number is always 1, and some systems report no start time."""
    killed = StudyStorage.open(tmp_path / "points.log", "one", FEW)
    monkeypatch.setattr(killed, "release", lambda trial, point: None)
    with monkeypatch.context() as earlier:
        earlier.setattr(process_ids, "_start_of", lambda number: 0)
        earlier.setattr(process_ids, "_token_of", lambda number: "0123abcd")
        interrupted(killed)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the search waits for its dead predecessor"))
    found = search(evaluator(), FEW, StudyStorage.open(tmp_path / "points.log", "one", FEW))
    assert [one.point for one in found.outcomes] == [one.point for one in few().outcomes]


def test_a_search_that_was_interrupted_resumes_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(StudyStorage.open(tmp_path / "points.log", "one", FEW))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the search waits for itself"))
    found = search(evaluator(), FEW, StudyStorage.open(tmp_path / "points.log", "one", FEW))
    assert [one.point for one in found.outcomes] == [one.point for one in few().outcomes]


def test_two_workers_on_sqlite_never_claim_the_same_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/points.db"
    workers = [StudyStorage.open(url, "one", FEW) for _ in range(2)]
    workers[0].enqueue(FEW.grid()[:2])
    both_have_read, found = threading.Barrier(2), TrialModel.find_or_raise_by_id

    def slow(*arguments: Any, **named: Any) -> Any:
        trial = found(*arguments, **named)
        with suppress(threading.BrokenBarrierError):
            both_have_read.wait(1)
        return trial

    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", slow)
    with ThreadPoolExecutor(2) as pool:
        claimed = list(pool.map(lambda worker: worker.claim(wait=False), workers))
    points = [one[1] for one in claimed if one is not None]
    assert len(points) == 2
    assert points[0] != points[1]


def test_the_outcome_of_a_trial_that_was_taken_for_lost_is_dropped(tmp_path: Path) -> None:
    slow, other = (StudyStorage.open(tmp_path / "points.log", "one", FEW) for _ in range(2))
    slow.enqueue(FEW.grid()[:1])
    claimed = slow.claim()
    assert claimed is not None
    other.release(*claimed)
    slow.tell(claimed[0], Outcome(claimed[1], 0.5, 90.0), 0.5)
    assert slow.progress == (0, 1), "the point waits for another process"


def test_a_trial_of_an_earlier_version_is_not_tried_again(tmp_path: Path) -> None:
    storage = StudyStorage.open(tmp_path / "points.log", "one", FEW)
    storage.enqueue(FEW.grid()[:1])
    claimed = storage.claim()
    assert claimed is not None
    storage.finish(claimed[0], {"macs": 0.5, "top1": 90.0, "stopped": "", "seconds": 1.0}, 0.5)
    again = StudyStorage.open(tmp_path / "points.log", "one", FEW)
    again.enqueue(FEW.grid()[:1])
    assert again.claim(wait=False) is None
    assert again.outcomes() == [Outcome(claimed[1], 0.5, 90.0, "", 1.0)]


def test_a_search_that_ended_is_not_done_again(tmp_path: Path) -> None:
    settings, again = SETTINGS.model_copy(update={"refine": 0.0}), evaluator()
    first = search(again, settings, StudyStorage.open(tmp_path / "points.log", "one", settings))
    again.attempt = None  # type: ignore[assignment, method-assign]
    assert search(again, settings, StudyStorage.open(tmp_path / "points.log", "one", settings)) == first


def test_tpe_tries_as_many_points_as_asked(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"sampler": "tpe", "trials": 8})
    found = search(evaluator(), settings, StudyStorage.open(tmp_path / "points.log", "tpe", settings))
    assert len(found.outcomes) == 8
    assert found.best == winner(found.outcomes, found.base - settings.max_drop)


def test_a_search_that_finds_nothing_says_how_near_it_came(tmp_path: Path) -> None:
    settings = Search(max_drop=0, pruning_ratios=(0.7,), options={"a": (1,)}, complete=True)
    with pytest.raises(SearchError, match=r"no configuration stays within 0 .* \(pruning ratio 0.7, a 1\) reaches"):
        search(evaluator(), settings, StudyStorage.open(tmp_path / "points.log", "one", settings))


def test_joining_what_nobody_began_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no search to join"):
        StudyStorage.open(tmp_path / "points.log", "one", SETTINGS, join=True)
    with pytest.raises(SearchError, match="cannot be opened"):
        StudyStorage.open("nonsense://place", "one", SETTINGS)


def test_any_criterion_target_and_recovery_can_be_searched(tmp_path: Path) -> None:
    way = evaluator()
    recalibrated = []

    def recover(small: nn.Module, plan: slimcnn.Plan) -> None:
        recalibrated.append(slimcnn.recalibrate(small, [torch.randn(32, 1, 8, 8)]))

    way.criterion, way.target, way.recover = "l2", Target(pruning_ratio=0.5, round_to=2), recover
    settings = Search(max_drop=100, pruning_ratios=(0.2, 0.5), refine=0, complete=True)
    found = search(way, settings, StudyStorage.open(tmp_path / "points.log", "one", settings))
    assert found.best.point == {"pruning_ratio": 0.5}
    assert len(recalibrated) == 2


def test_a_search_names_the_steps_that_recover_accuracy_at_every_point() -> None:
    assert Search(recover=("fold_constants", "recalibrate")).recover == ("fold_constants", "recalibrate")


# --- the journal after a power cut or on a full disk ------------------------------------------------------------------


FEW = Search(max_drop=40, pruning_ratios=(0.1, 0.3), options={"a": (0.25, 1)}, refine=0)


@cache
def few() -> Found:
    with TemporaryDirectory() as folder:
        return search(evaluator(), FEW, StudyStorage.open(Path(folder) / "points.log", "one", FEW))


def begun(folder: Path) -> Path:
    """Start a search that stops after two of its points; the journal."""
    way, journal = evaluator(), folder / "points.log"
    evaluate, calls = way.attempt, itertools.count()

    def attempt(point: Point, least: float, most: float) -> tuple[Outcome, float]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(point, least, most)

    way.attempt = attempt  # type: ignore[method-assign]
    storage = StudyStorage.open(journal, "one", FEW)
    storage.release = lambda trial, point: None  # type: ignore[method-assign] # as if the process had been killed
    with dead(), pytest.raises(KeyboardInterrupt):
        search(way, FEW, storage)
    return journal


@contextmanager
def dead() -> Iterator[None]:
    """A process that is dead as soon as the block ends: else its claimed trial would count as running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_storage, "this_process", lambda: f"1-1@{platform.node()}")
        yield


TORN = {
    "in the middle of a line": lambda text: text[:-20],
    "before the newline": lambda text: text[:-1],
    "zeros, as some file systems leave them": lambda text: text[:-20] + b"\0" * 20,
    "a line of nonsense": lambda text: text[:-20] + b"\n",
}


def test_a_digit_that_changed_in_the_journal_is_one_line(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    text = journal.read_text()
    assert text.count('"base":') == 1
    journal.write_text(text.replace('"base":', '"base":1', 1))
    with pytest.raises(SearchError, match=r"damaged \(an entry has changed since it was written\); delete it"):
        StudyStorage.open(journal, "one", FEW)


@pytest.mark.parametrize("how", mostly_slow(TORN, ["in the middle of a line"]))
def test_a_search_continues_after_its_journal_was_cut_short(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lost line registered a worker: its trial counts as lost only after a while.
    monkeypatch.setattr(trial_storage, "UNKNOWN", 0.5)
    expected = few()
    journal = begun(tmp_path)
    journal.write_bytes(TORN[how](journal.read_bytes()))
    said: list[str] = []
    storage = StudyStorage.open(journal, "one", FEW, say=said.append)
    assert len(said) == 1
    assert f"the last line of the search journal {journal} was incomplete" in said[0]
    found = search(evaluator(), FEW, storage)
    assert [one.point for one in found.outcomes] == [one.point for one in expected.outcomes]
    assert found.best.point == expected.best.point
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    StudyStorage.open(journal, "one", FEW, say=said.append)
    assert len(said) == 1


def test_a_line_that_another_process_left_torn_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    journal = tmp_path / "points.log"
    storage = StudyStorage.open(journal, "one", FEW)
    storage.set_attr("base", 90.0)
    with journal.open("ab") as file:
        file.write(b'{"op_code":2,"wor')
    storage.set_attr("finished", True)
    assert StudyStorage.open(journal, "one", FEW).get_attr("finished")


def test_processes_that_append_at_once_lose_nothing_while_others_open_the_journal(tmp_path: Path) -> None:
    """A line that is being written must not be taken for a torn one."""
    code = (
        "import sys; from pathlib import Path; from slimcnn.searching.journal import Journal\n"
        "for n in range(12): Journal(Path(sys.argv[1]), print).append_logs([{'from': sys.argv[2], 'n': n}] * 2)"
    )
    journal = tmp_path / "points.log"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(journal), name], stdout=subprocess.PIPE) for name in "ab"
    ]
    assert [child.communicate()[0] for child in children] == [b"", b""]
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for name in "ab":
        assert [one["n"] for one in entries if one["from"] == name] == [n for n in range(12) for _ in range(2)]


def test_damage_in_the_middle_of_the_journal_is_one_line(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"nonsense\n", *lines[3:]]))
    with pytest.raises(SearchError, match=r"the search journal .* is damaged .*; delete it, and the search"):
        StudyStorage.open(journal, "one", FEW)


def test_a_full_disk_is_one_line_and_the_search_continues_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = few()
    journal, write, calls = tmp_path / "points.log", os.write, itertools.count()

    def nearly_full(file: int, data: bytes) -> int:
        n = next(calls)
        if n < 12:
            return write(file, data)
        if n == 12:
            return write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", nearly_full)
    full = pytest.raises(RunError, match=r"cannot use the search journal .*: No space left on device; free some space")
    with dead(), full:
        search(evaluator(), FEW, StudyStorage.open(journal, "one", FEW))
    monkeypatch.undo()
    assert journal.read_bytes().endswith(b"\n")
    said: list[str] = []
    found = search(evaluator(), FEW, StudyStorage.open(journal, "one", FEW, say=said.append))
    assert found.best.point == expected.best.point
    assert not said


def test_a_database_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = StudyStorage.open(f"sqlite:///{tmp_path}/points.db", "one", FEW)
    with sqlite3.connect(tmp_path / "points.db") as database:
        database.execute("drop table trials")
    database.close()
    with pytest.raises(SearchError, match=r"the storage of the search failed: .*no such table"):
        search(evaluator(), FEW, storage)
