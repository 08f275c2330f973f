"""Three workers on a real PostgreSQL, each with its own folder, as on three machines."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_studies import small_study, workers_in
from test_study_work import values_of, wait_for

from slimcnn.studying import read_rows, run_study

pytestmark = pytest.mark.slow

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(p).parent for p in [shutil.which("postgres")] if p]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A server on loopback, run by an ordinary user and thrown away afterwards."""
    if not FOLDERS:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg")
    home, port = tmp_path / "pg", free_port()
    home.mkdir()
    as_user: dict[str, object] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        known = pwd.getpwnam("postgres")
        os.chown(home, known.pw_uid, known.pw_gid)
        for folder in (tmp_path, *tmp_path.parents):
            if os.access(folder, os.W_OK) and folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        as_user = {"user": known.pw_uid, "group": known.pw_gid}
    tools = FOLDERS[-1]
    subprocess.run([tools / "initdb", "-D", home / "data", "-U", "slimcnn", "-A", "trust"], check=True,
                   capture_output=True, **as_user)  # type: ignore[call-overload]  # fmt: skip
    server = subprocess.Popen(
        [tools / "postgres", "-D", home / "data", "-p", str(port), "-h", "127.0.0.1", "-k", str(home)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        ready = [tools / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True).returncode:
            assert server.poll() is None
            time.sleep(0.1)
        yield f"postgresql+psycopg://slimcnn@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_three_workers_one_killed_and_one_stopped_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, database: str
) -> None:
    alone = run_study(small_study(), tmp_path / "alone")
    outs = [tmp_path / f"out{number}" for number in range(3)]
    with workers_in(tmp_path, *(("--out", str(out), "--storage", database) for out in outs)) as workers:
        wait_for(outs[0], "points/*/1-train/step.json")
        workers[0].send_signal(signal.SIGKILL)
        wait_for(outs[1], "points/*/1-train/step.json")
        workers[1].send_signal(signal.SIGSTOP)
        time.sleep(2)
        workers[1].send_signal(signal.SIGCONT)
    for out in outs[1:]:
        assert values_of(read_rows(out)) == values_of(alone)
    reports = [path.parent.name for out in outs for path in out.glob("points/*/report.json")]
    assert len(reports) <= 5  # four runs, and at most the one that was killed after its report
