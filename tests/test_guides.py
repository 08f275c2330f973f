"""The guides, executed: every python block of a page in order, in one folder, and every command of its bash blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from at_hand import mostly_slow
from command_line import call
from published import empty_caches, put_timm

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(python|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [
    "guides/own_network.md", "guides/own_loop.md", "guides/without_training.md", "guides/own_data.md",
    "guides/transfer.md", "start.md",
]  # fmt: skip
QUICK = {"train": " --limit 400 --set latency_seconds=0.01", "compress": " --limit 400 --set latency_seconds=0.01"}
"""Fewer images and a shorter timing; otherwise a command runs as it stands on the page."""


def test_every_page_that_says_it_is_tested_is_tested() -> None:
    promised = {path for path in DOCS.rglob("*.md") if re.search(r"[Aa] test runs|```bash", path.read_text("utf-8"))}
    assert {str(path.relative_to(DOCS)) for path in promised} <= {*PAGES, "graph.md"}


@pytest.mark.parametrize("page", mostly_slow(PAGES, ["guides/own_loop.md", "guides/without_training.md"]))
def test_a_guide_runs_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if page == "guides/transfer.md":
        empty_caches(tmp_path / "caches", monkeypatch)
        put_timm(tmp_path / "caches")
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, object] = {"__name__": "guide"}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, page, "exec", dont_inherit=True), names)
            continue
        if kind == "console":  # longer: with the slow tests
            continue
        for line in text.replace("\\\n", " ").splitlines():
            command = line.partition("  #")[0].removeprefix("slimcnn ")
            code, _, error = call(command + QUICK.get(command.split()[0], ""), capsys, monkeypatch)
            assert code == 0, f"{line}: {error}"


@pytest.mark.slow
def test_the_start_ends_with_an_int8_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, text in BLOCK.findall((DOCS / "start.md").read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines() if kind != "python" else []:
            code, _, error = call(line.removeprefix("slimcnn "), capsys, monkeypatch)
            assert code == 0, f"{line}: {error}"
    assert (tmp_path / "runs" / "first" / "model_int8.xml").exists()
