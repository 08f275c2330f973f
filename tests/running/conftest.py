"""Runs here draw no page: it is a function of report.json with tests of its own, and takes most of a run's time."""

from __future__ import annotations

import pytest

from slimcnn.reporting import storing


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "render", lambda report: report.title)
    monkeypatch.setattr(storing, "render_curve", lambda report: report.title)
