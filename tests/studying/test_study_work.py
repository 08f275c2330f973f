"""Workers of a study: shared steps, interruptions, failures, budgets; several at once end as one alone does."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_studies import TEXT, changed, small_study, worker, workers_in

from slimcnn.errors import ModelError, StudyError
from slimcnn.running.folder import locked
from slimcnn.show import Show
from slimcnn.studying import StudyRows, parse_study, read_rows, run_study, work
from slimcnn.studying.rows import DATA, PAGE, TABLE


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyRows, list[str]]:
    """The study, run by one worker; what it printed."""
    out, said = tmp_path_factory.mktemp("alone"), list[str]()
    return out, run_study(small_study(), out, source=TEXT, show=Show(say=said.append)), said


def values_of(rows: StudyRows) -> list[tuple[object, ...]]:
    return [(dict(row.point), row.seed, row.status, dict(row.values)) for row in rows.rows]


def test_every_point_and_seed_has_a_row_with_the_numbers_of_its_report(
    alone: tuple[Path, StudyRows, list[str]],
) -> None:
    out, found, _ = alone
    assert [(row.point["prune.criterion"], row.seed) for row in found.rows] == [
        ("l2", 0), ("l2", 1), ("fpgm", 0), ("fpgm", 1)
    ]  # fmt: skip
    for row in found.rows:
        report = json.loads((out / row.folder / "report.json").read_text())
        assert row.values["accuracy"] == report["after"]["top1"]
        assert row.values["validation"] == report["steps"][-1]["metric"]
        assert row.values["macs_left"] == report["after"]["macs"] / report["before"]["macs"]
        assert row.epochs is not None
        assert row.epochs[1] == 1
        assert row.environment is not None
        assert row.environment["torch"] == torch.__version__
    assert read_rows(out) == found
    assert (out / PAGE).exists()
    assert (out / TABLE).exists()


def test_steps_in_common_run_once(alone: tuple[Path, StudyRows, list[str]]) -> None:
    out, found, said = alone
    assert sum(line.startswith("training") for line in said) == 2  # once per seed, not once per point
    first, _, again, _ = (out / row.folder / "1-train" / "model.safetensors" for row in found.rows)
    assert first.stat().st_ino == again.stat().st_ino


def test_the_same_command_again_runs_nothing(alone: tuple[Path, StudyRows, list[str]]) -> None:
    out, found, _ = alone
    said = list[str]()
    assert values_of(run_study(small_study(), out, source=TEXT, show=Show(say=said.append))) == values_of(found)
    assert not said


def wait_for(path: Path, pattern: str, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while not any(path.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {path}"
        time.sleep(0.02)


@pytest.mark.slow
def test_three_workers_one_killed_and_one_stopped_end_as_one_does(
    tmp_path: Path, alone: tuple[Path, StudyRows, list[str]]
) -> None:
    out = tmp_path / "out"
    with workers_in(tmp_path, *[("--out", str(out))] * 3) as workers:
        wait_for(out, "points/*/1-train/step.json")
        workers[0].send_signal(signal.SIGKILL)
        workers[1].send_signal(signal.SIGSTOP)
        time.sleep(1)
        workers[1].send_signal(signal.SIGCONT)
    assert values_of(read_rows(out)) == values_of(alone[1])
    assert len(list((out / "points").iterdir())) == 4  # nothing ran twice in another folder


def test_an_interrupted_training_goes_on_in_the_run_that_takes_over(tmp_path: Path) -> None:
    text = changed(("epochs = 1", "epochs = 15"), ("[0, 1]", "[0]"), ("limit = 120", "limit = 400"))
    (tmp_path / "small.toml").write_text(text)
    out = tmp_path / "out"
    killed = worker(tmp_path, "--out", str(out))
    try:
        wait_for(out, "points/*/1-train/training/state.pt")
        state = next(out.glob("points/*/1-train/training/state.pt"))
        first = state.stat().st_mtime_ns
        end = time.monotonic() + 120
        while state.stat().st_mtime_ns == first:  # until an epoch has ended
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        killed.kill()
        killed.communicate()
    begun = next(out.glob("points/*/1-train"))
    begun.parent.rename(out / "points" / "of-another-worker")  # its point is taken by a run in another folder
    note = next(out.glob("shared/steps/*.json"))
    note.write_text(json.dumps({"folder": "points/of-another-worker/1-train"}))
    said = list[str]()
    study = parse_study(text, "small")
    run_study(study, out, source=text, show=Show(say=said.append))
    assert "[1-train] goes on where another run was interrupted" in said
    assert any(line.endswith("(resumed)") for line in said)


def test_a_failed_point_has_a_row_with_the_reason_and_the_others_run(tmp_path: Path) -> None:
    study = small_study(("[0, 1]", "[0]"), ("[0.6]", "[0.6, 0.0001]"))
    found = run_study(study, tmp_path)
    failed = [row for row in found.rows if row.status == "failed"]
    assert [row.point["prune.macs"] for row in failed] == [0.0001, 0.0001]
    assert "0.0001" in failed[0].why
    assert not failed[0].values
    assert sum(row.status == "done" for row in found.rows) == 2
    assert failed[0].why in (tmp_path / TABLE).read_text().replace("\\", "")


def test_a_bug_fails_its_point_keeps_the_traceback_and_can_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(("[0, 1]", "[0]"), ('["fpgm", "l2"]', '["l2"]'))
    run = work.run

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(work, "run", broken)
    (row,) = run_study(study, tmp_path).rows
    assert (row.status, row.values) == ("failed", {})
    assert "KeyError" in row.why
    assert "in broken" in next((tmp_path / "errors").iterdir()).read_text()
    monkeypatch.setattr(work, "run", run)
    assert run_study(study, tmp_path).rows[0].status == "failed"  # not again unless asked for
    assert run_study(study, tmp_path, retry=True).rows[0].status == "done"


def test_values_and_seeds_can_be_added_and_rows_stay(tmp_path: Path) -> None:
    few = small_study(("[0, 1]", "[0]"), ('["fpgm", "l2"]', '["l2"]'))
    first = run_study(few, tmp_path)
    more = small_study(("[0, 1]", "[0, 2]"))
    found = run_study(more, tmp_path)
    assert len(found.rows) == 4
    assert found.rows[0] == first.rows[0]


def test_rows_that_the_study_no_longer_asks_for_are_named_and_come_back_with_their_values(
    tmp_path: Path, alone: tuple[Path, StudyRows, list[str]]
) -> None:
    (tmp_path / DATA).write_text((alone[0] / DATA).read_text())
    said = list[str]()
    few = small_study(("[0, 1]", "[0]"), ('["fpgm", "l2"]', '["l2"]'))
    assert len(run_study(few, tmp_path, show=Show(say=said.append)).rows) == 1
    assert "WARNING: 3 finished runs are left out of study.json" in "".join(said)
    assert "prune.criterion = fpgm, prune.macs = 0.6, seed 1" in "".join(said)
    again = list[str]()
    assert run_study(small_study(), tmp_path, show=Show(say=again.append)).rows == alone[1].rows
    assert not [line for line in again if line.startswith(("===", "WARNING"))]


def test_rows_that_were_copied_count_as_done(tmp_path: Path, alone: tuple[Path, StudyRows, list[str]]) -> None:
    (tmp_path / DATA).write_text((alone[0] / DATA).read_text())
    said = list[str]()
    found = run_study(small_study(("[0, 1]", "[0, 1, 2]")), tmp_path, show=Show(say=said.append))
    assert [row for row in found.rows if row.seed < 2] == list(alone[1].rows)
    assert [line for line in said if line.startswith("===")] == [
        "=== prune.criterion = l2, prune.macs = 0.6, seed 2 ===",
        "=== prune.criterion = fpgm, prune.macs = 0.6, seed 2 ===",
    ]
    new = tmp_path / "new"
    new.mkdir()
    (new / DATA).write_text((alone[0] / DATA).read_text())
    with pytest.raises(StudyError, match="rows of another study"):
        run_study(small_study(("limit = 120", "limit = 130")), new)


def test_another_recipe_under_the_same_name_is_refused(alone: tuple[Path, StudyRows, list[str]]) -> None:
    with pytest.raises(StudyError, match="holds another study named 'small'"):
        run_study(small_study(("limit = 120", "limit = 130")), alone[0])


def test_another_version_is_refused_unless_accepted(
    alone: tuple[Path, StudyRows, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = work.environment()
    monkeypatch.setattr(work, "environment", lambda: here | {"torch": "1.0"})
    with pytest.raises(StudyError, match=r"torch was .*, here 1\.0"):
        run_study(small_study(), alone[0])
    assert run_study(small_study(), alone[0], other_versions=True).rows


def test_no_run_starts_after_the_budget_and_the_rest_is_counted(tmp_path: Path) -> None:
    found = run_study(small_study(), tmp_path, budget=0.0)
    assert (len(found.rows), found.left) == (0, 4)
    assert "4 runs left" in (tmp_path / TABLE).read_text()
    assert len(run_study(small_study(), tmp_path).rows) == 4


def test_too_many_runs_need_a_yes(tmp_path: Path) -> None:
    study = small_study(("[0, 1]", str(list(range(6000)))))
    with pytest.raises(StudyError, match=r"12,000 runs.*--yes"):
        run_study(study, tmp_path)


def test_a_run_folder_in_use_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(("[0, 1]", "[0]"), ('["fpgm", "l2"]', '["l2"]'))
    run_study(study, tmp_path, budget=0.0)
    waits: list[float] = []

    def held() -> Iterator[None]:
        place = next(iter(work.points_of(study)))
        recipe = work.recipe_at(study, place, 0, tmp_path)
        with locked(tmp_path / "points" / work.folder_name(recipe, place, 0)):
            yield

    holding = held()
    next(holding)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        holding.close()

    monkeypatch.setattr(work.time, "sleep", sleep)
    assert run_study(study, tmp_path).rows[0].status == "done"
    assert waits == [work.AGAIN]


@pytest.mark.slow
def test_tpe_chooses_points_by_validation_and_runs_all_seeds_of_each(tmp_path: Path) -> None:
    study = small_study(
        ("seeds =", 'sampler = "tpe"\ntrials = 3\nobjectives = {validation = "max", macs_left = "min"}\nseeds ='),
        ("[0.6]", "{low = 0.4, high = 0.9}"),
    )
    found = run_study(study, tmp_path)
    assert len(found.rows) == 6
    ratios = {row.point["prune.macs"] for row in found.rows}
    assert len(ratios) == 3
    assert all(0.4 <= ratio <= 0.9 for ratio in ratios)


@pytest.mark.parametrize("damage", [('"seed": 0', '"seed": 5'), ('"accuracy": ', '"accuracy": 1')])
def test_a_changed_row_is_named(
    tmp_path: Path, alone: tuple[Path, StudyRows, list[str]], damage: tuple[str, str]
) -> None:
    text = (alone[0] / DATA).read_text()
    (tmp_path / DATA).write_text(text.replace(*damage, 1))
    with pytest.raises(StudyError, match="row 1 has changed since it was written"):
        read_rows(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": 9, "rows": []}', "null"])
def test_a_file_that_is_no_study_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / DATA).write_text(text)
    with pytest.raises(StudyError) as refusal:
        read_rows(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_network_that_cannot_be_built_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises((ModelError, StudyError), match="resnet8x"):
        run_study(small_study(('"resnet8"', '"resnet8x"')), tmp_path)
    assert not list(tmp_path.iterdir())
