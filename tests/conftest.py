"""One thread per test process: two processes share the machine's two cores. In CI, a skipped test is a failure."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

MAY_BE_SKIPPED = ("needs a GPU", "needs a CUDA device")
"""The only reasons for which CI may leave a test out: everything else it can install."""


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run that left out a test for lack of something that could be there."""
    told = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or told is None or hasattr(session.config, "workerinput"):
        return
    skipped = told.stats.get("skipped", [])
    left_out = [report for report in skipped if not str(report.longrepr[-1]).endswith(MAY_BE_SKIPPED)]
    if left_out:
        told.write_line("skipped, although CI has to have what they need:", red=True)
        for report in left_out:
            told.write_line(f"  {report.nodeid}: {report.longrepr[-1]}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
