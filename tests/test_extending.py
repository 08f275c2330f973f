"""docs/extending.md, executed: its files are written down, its commands are run, as a reader would."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from slimcnn.cli import main
from slimcnn.running import steps

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line.replace("\\\n", " ") for line in re.findall(r"```\n(slimcnn --import.*?)```", PAGE, re.DOTALL)]
SESSION = re.findall(r"```python\n(import slimcnn\n.*?)```", PAGE, re.DOTALL)
QUICK = "--deterministic --set data.limit=100 --set latency_seconds=0.01"


def test_the_page_has_files_commands_and_a_session() -> None:
    assert set(FILES) == {"round_weights", "spread_criterion", "logit_loss", "solarize_augmentation"}
    assert len(COMMANDS) == len(FILES)
    assert len(SESSION) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[2])
def test_every_file_on_the_page_works_by_the_command_below_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = command.split()[2]
    (tmp_path / f"{name}.py").write_text(FILES[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *shlex.split(QUICK)])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert not stop.value.code, printed.err
    assert "The cut is exact" in printed.out or name in ("logit_loss", "solarize_augmentation")
    if name == "round_weights":
        assert "round_weights" in [entry.name for entry in steps]
        assert "Weights keep 5 bits of mantissa." in (tmp_path / "runs" / "rounded" / "report.html").read_text()


@pytest.mark.slow
def test_the_session_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(SESSION[0], "docs/extending.md", "exec"), {})
    macs, names = capsys.readouterr().out.splitlines()[-1].split(" ", 1)
    assert int(macs) <= 747_136 / 2
    assert names == "['train', 'prune', 'least_squares', 'distill']"
