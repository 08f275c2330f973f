"""Measured numbers on the pages are those of the rows, and no number is there without a row or a reason."""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import claimed.claim
import claimed.numbers
import claims
import pytest
from claimed.claim import claim
from claimed.exceptions import EXCEPTIONS, excepted
from claimed.numbers import numbers

ROOT = Path(__file__).parents[1]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def falsified(page: str, text: str) -> str:
    """The page with another number in every field of every claim."""
    for one in claims.CLAIMS:
        for start, end in reversed(one.spans(text)) if one.page == page else ():
            text = text[:start] + ("seven" if text[start:end].isalpha() else "123.45") + text[end:]
    return text


def test_every_claim_agrees_with_its_rows() -> None:
    assert not list(claims.differences())


@pytest.mark.parametrize("page", claims.pages())
def test_every_number_of_a_page_has_a_claim_or_a_reason(page: str) -> None:
    assert not list(claims.unclaimed(page, read(page)))


def test_exceptions_are_of_pages_that_are_checked() -> None:
    assert {page for pages in EXCEPTIONS.values() for page in pages} <= set(claims.pages())


@pytest.mark.parametrize("page", claims.pages())
def test_every_exception_has_a_number_that_no_claim_covers(page: str) -> None:
    text = read(page)
    fields = [span for one in claims.CLAIMS if one.page == page for span in one.spans(text)]
    free = [(start, end) for start, end in numbers(text) if not any(a <= start and end <= b for a, b in fields)]
    for first, last in excepted(page, text):
        assert any(first <= start and end <= last for start, end in free), text[first:last]


def test_writing_restores_every_number(tmp_path: Path) -> None:
    pages = sorted({one.page for one in claims.CLAIMS})
    for page in pages:
        path = tmp_path / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(falsified(page, read(page)), encoding="utf-8")
    fields = sum(len(list(one.fields())) for one in claims.CLAIMS)
    assert len(list(claims.differences(root=tmp_path))) == fields
    claims.write(tmp_path)
    for page in pages:
        assert (tmp_path / page).read_text(encoding="utf-8") == read(page)


def test_a_sentence_that_was_rewritten_and_a_number_that_was_added_are_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = read("README.md").replace("of the time at", "of its time, at").replace("ten losses", "0.4 points")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    found = list(claims.problems(tmp_path))
    assert any("README.md has these words 0 times instead of once: Half of the" in line for line in found)
    text = read("README.md").replace("distillation with ten losses", "distillation, 0.4 points")
    (line,) = claims.unclaimed("README.md", text)
    assert re.match(r"README\.md:\d+: no claim and no exception for 0\.4: ", line)


def test_words_may_be_wrapped_anywhere_but_must_be_there_once() -> None:
    one = claim("a.md", "It takes {time:.2f} ms at batch {batch}", time=1.234, batch=64)
    assert one.rewritten("It takes\n2 ms at\nbatch 1.") == "It takes\n1.23 ms at\nbatch 64."
    with pytest.raises(LookupError, match="2 times instead of once"):
        one.found("It takes 1.23 ms at batch 64. It takes 1.23 ms at batch 64.")


def test_the_command_checks_the_pages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, str(ROOT / "docs" / "claims.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr
    monkeypatch.setattr(sys, "argv", ["claims.py", "--check"])
    monkeypatch.setattr(claims, "problems", lambda: ["README.md:8: the page says 1, the rows say 2"])
    with pytest.raises(SystemExit, match="1"):
        claims.main()
    assert "the rows say 2" in capsys.readouterr().out


@pytest.mark.parametrize("module", [claimed.claim, claimed.numbers], ids=lambda module: module.__name__)
def test_the_examples_are_right(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
