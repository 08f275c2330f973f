"""The command `slimcnn study`."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from small_studies import TEXT, changed

from command_line import call
from slimcnn.studying.rows import CARD, DATA, PAGE, TABLE

ONE = changed(("[0, 1]", "[0]"), ('["fpgm", "l2"]', '["l2"]'))


def test_a_study_runs_is_rendered_again_and_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "one.toml", tmp_path / "out"
    file.write_text(ONE)
    code, said, errors = call(f"study {file} --out {out} --publish {tmp_path}", capsys, monkeypatch)
    assert code == 0, errors
    assert "1 point, 1 run" in said
    assert (tmp_path / CARD).read_text() == (out / TABLE).read_text()
    assert json.loads((out / DATA).read_text())["rows"][0]["status"] == "done"
    written = (out / PAGE).read_bytes(), (out / TABLE).read_bytes()
    for name in (PAGE, TABLE):
        (out / name).unlink()
    code, _, errors = call(f"study --table --out {out}", capsys, monkeypatch)
    assert code == 0, errors
    assert ((out / PAGE).read_bytes(), (out / TABLE).read_bytes()) == written
    code, said, _ = call(f"study --join {out} --json", capsys, monkeypatch)
    assert code == 0
    assert [row["seed"] for row in json.loads(said)] == [0]


def test_a_worker_joins_the_same_trials_under_the_same_name_and_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out, url = tmp_path / "one.toml", tmp_path / "elsewhere", f"sqlite:///{tmp_path}/shared.db"
    file.write_text(ONE)
    code, _, errors = call(f"study {file} --out {out} --storage {url} --budget 0", capsys, monkeypatch)
    assert code == 0, errors
    code, _, errors = call(f"study --join {out}", capsys, monkeypatch)
    assert code == 0, errors
    assert [one.study_name for one in optuna.get_all_study_summaries(url)] == ["slimcnn-study-one"]
    assert not (out / "study.log").exists()
    assert len(json.loads((out / DATA).read_text())["rows"]) == 1
    assert (out / ".joining.json").stat().st_mode & 0o077 == 0


def test_a_dry_run_lists_points_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "small.toml", tmp_path / "out"
    file.write_text(TEXT)
    code, said, _ = call(f"study {file} --out {out} --dry-run", capsys, monkeypatch)
    assert code == 0
    assert said.splitlines() == [
        "prune.criterion = l2, prune.macs = 0.6",
        "prune.criterion = fpgm, prune.macs = 0.6",
        "2 points, 2 seeds: 4 runs",
    ]
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("study", "give either a study"),
        ("study {file} --join {out}", "give either a study"),
        ("study --join {out}", "there is no study to join"),
        ("study {file} --budget soon", "expected a duration"),
        ("study {file} --storage nosuch://x", "cannot be opened"),
        ("study --table --out {out}", "study.json"),
        ("study nothing.toml", "nothing.toml"),
    ],
)
def test_wrong_lines_are_one_line_with_exit_code_2(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(ONE)
    code, _, errors = call(line.format(file=tmp_path / "small.toml", out=tmp_path / "out"), capsys, monkeypatch)
    assert code == 2
    assert said in errors
    assert "\n" not in errors.strip()
