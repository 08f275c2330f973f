"""The README's Python runs as it stands, in at most 12 lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_python_in_the_readme_runs_and_halves_the_macs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    macs = int(capsys.readouterr().out.splitlines()[-1])
    assert macs <= 747_136 / 2
    assert (tmp_path / "small.safetensors").exists()
