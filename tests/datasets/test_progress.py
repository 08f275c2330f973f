from __future__ import annotations

import pytest

from slimcnn.datasets import progress as module
from slimcnn.datasets.progress import progress


def work(monkeypatch: pytest.MonkeyPatch, seconds: float, terminal: bool) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1") if terminal else monkeypatch.delenv("FORCE_COLOR", raising=False)
    clock = iter(range(100))
    monkeypatch.setattr(module, "monotonic", lambda: next(clock) * seconds)
    with progress("heavy work", total=3) as advance:
        for _ in range(3):
            advance(1)


@pytest.mark.parametrize(("seconds", "terminal", "seen"), [(0.4, True, True), (0.1, True, False), (9, False, False)])
def test_a_bar_is_shown_on_a_terminal_after_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, terminal: bool, seen: bool
) -> None:
    work(monkeypatch, seconds, terminal)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("heavy work" in err) == seen
    if not seen:
        assert err == ""


def test_a_bar_within_a_bar_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(module, "monotonic", iter(range(0, 100, 2)).__next__)
    with progress("outer", total=None) as outer:
        outer(1)
        with progress("inner", total=1) as inner:
            inner(1)
