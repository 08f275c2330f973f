"""Help fits a page of 80 x 40, begins with an example, and says what is near to a misspelt option."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from command_line import call
from slimcnn.cli import app
from slimcnn.cli.help import ESSENTIAL, GROUPS

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_page_and_has_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, page, _ = call(f"{name} --help", capsys, monkeypatch)
    assert code == 0
    assert len(page.splitlines()) <= 40
    assert max(len(line) for line in page.splitlines()) <= 80
    assert f"\n  slimcnn {name}" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_are_behind_help_all(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, page, _ = call(f"{name} --help-all", capsys, monkeypatch)
    assert code == 0
    for param in COMMANDS[name].params:
        written = (*param.opts, *param.secondary_opts, str(param.name).upper())
        assert any(option in page for option in written), f"{name}: {written} is on no page"
    assert "Example: " not in page


def test_every_command_is_in_one_group_of_the_first_page() -> None:
    listed = [name for commands in GROUPS.values() for name in commands]
    assert sorted(listed) == sorted(COMMANDS)


def test_options_called_essential_exist() -> None:
    for name, options in ESSENTIAL.items():
        strangers = set(options.split()) - {param.name for param in COMMANDS[name].params} - {"help"}
        assert not strangers, f"{name}: {strangers}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("compress --modle x", "no option --modle: did you mean --model?"),
        ("compress --max-dorp 1", "did you mean --max-drop?"),
        ("list --jsno", "did you mean --json?"),
        ("inspekt", "did you mean 'inspect'"),
        ("compress --macs abc", "'--macs'"),
        ("search", "issing option '--join'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest(
    line: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = call(line, capsys, monkeypatch)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert told.lower() in error.lower()


def test_nothing_to_do_prints_the_first_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, page, _ = call("", capsys, monkeypatch)
    assert code == 0
    assert "Make a network smaller" in page


@pytest.mark.parametrize(("words", "expected"), [("slimcnn com", "compress"), ("slimcnn compress --ma", "--macs")])
def test_a_shell_completes_commands_and_options(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_SLIMCNN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, out, _ = call("", capsys, monkeypatch)
    assert code == 0
    assert expected in out.split()
