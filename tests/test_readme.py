"""The README is short, its Python and its commands run as they stand, and its picture is made from rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import call
from test_docs import loaded

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


def test_the_commands_in_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    compress, verify = [line.removeprefix("slimcnn ") for line in block.splitlines()]
    code, out, error = call(f"{compress} --limit 400 --set latency_seconds=0.01", capsys, monkeypatch)
    assert code == 0, error
    for promised in ("The network needs", "The cut is exact", "runs/first/model.onnx"):
        assert promised in " ".join(out.split())
    code, _, error = call(verify, capsys, monkeypatch)
    assert code == 0, error


def test_the_readme_fits_and_its_picture_is_that_of_the_rows() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "](docs/pictures/device.svg)" in text
    script = README.parent / "docs" / "pictures" / "device.py"
    assert script.with_suffix(".svg").read_text(encoding="utf-8") == loaded(script).picture()
