"""Files are whole or not there at all; what killed processes leave behind goes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from platform import node

import pytest

from slimcnn.errors import DataError, RunError
from slimcnn.files import kind_of, part_of, remove_leftovers, replacing, require_folder, temporary_folder, write_text
from slimcnn.process_ids import is_running, this_process


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*No space left on device; free some space"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that nobody may write to")
def test_a_folder_that_cannot_be_written_to_is_one_line() -> None:
    with pytest.raises(RunError, match="cannot write"):
        write_text(Path("/proc/slimcnn/plan.json"), "new")


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from slimcnn.files import replacing
writing = [replacing(Path(name)) for name in sys.argv[1:]]
for one in writing:
    one.__enter__().write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_while_writing(*targets: Path) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, *map(str, targets)], check=False)
    assert child.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_goes_when_the_same_file_is_written_next(tmp_path: Path) -> None:
    plan, page = tmp_path / "plan.json", tmp_path / "report.html"
    kill_while_writing(plan, page)
    assert len(os.listdir(tmp_path)) == 2
    write_text(plan, "new")
    assert len(os.listdir(tmp_path)) == 2
    assert plan.read_text() == "new"
    write_text(page, "new")
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "report.html"]


def parts(folder: Path) -> dict[str, Path]:
    """One temporary file each of a killed process, a living one, one whose number was given away, two of another host.

    And one file that only looks similar.
    """
    kill_while_writing(folder / "deep" / "killed")
    number = this_process().partition("-")[0]
    named = {
        "living": part_of(folder / "net"),
        "number reused": folder / f".net.{number}-1@{node()}.part",
        "another host": folder / ".net.7-7@elsewhere.part",
        "another host, long ago": folder / ".net.8-8@elsewhere.part",
        "similar": folder / ".notes.part",
    }
    for path in named.values():
        path.write_text("half")
    os.utime(named["another host, long ago"], (0, 0))
    (left,) = (folder / "deep").iterdir()
    return named | {"killed": left}


def test_leftovers_go_and_the_files_of_living_processes_stay(tmp_path: Path) -> None:
    made = parts(tmp_path)
    gone = {"killed", "number reused", "another host, long ago"}
    assert set(remove_leftovers(tmp_path)) == {made[name] for name in gone}
    assert {name for name, path in made.items() if path.exists()} == made.keys() - gone
    assert remove_leftovers(tmp_path) == []


def test_leftover_folders_go_with_what_they_hold(tmp_path: Path) -> None:
    left = tmp_path / f".net.1-1@{node()}.part"
    (left / "inner").mkdir(parents=True)
    assert remove_leftovers(tmp_path) == [left]
    assert not left.exists()


def test_a_process_runs_until_it_is_killed_even_if_nobody_has_waited_for_it() -> None:
    code = "from slimcnn.process_ids import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert is_running(name) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is a zombie
    assert is_running(name) is False
    child.communicate()
    assert is_running(name) is False


def test_a_process_with_the_number_of_this_one_but_another_token_has_ended() -> None:
    number, token = this_process().partition("@")[0].rpartition("-")[::2]
    assert is_running(f"{number}-{token}@{node()}") is True
    assert is_running(f"{number}-{'0' * len(token)}@{node()}") is False


def test_a_deleted_folder_is_one_line_and_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_text(run / "recipe.toml", "model = 'resnet8'")
    require_folder(run, holding="recipe.toml")
    shutil.rmtree(run)
    for check in (lambda: require_folder(run), lambda: write_text(run / "plan.json", "", parents=False)):
        with pytest.raises(RunError, match=rf"the folder {run} was deleted while the run was writing to it"):
            check()
    assert not run.exists()
    write_text(run / "plan.json", "")  # somebody made the folder again
    require_folder(run)
    with pytest.raises(RunError, match="was deleted"):
        require_folder(run, holding="recipe.toml")


def test_a_path_that_may_not_be_looked_at_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(DataError, match=r"cannot access .*photos: Permission denied; check the permissions"):
        kind_of(tmp_path / "photos", DataError)


KEEPS_A_FOLDER = """
import os, signal
from slimcnn.files import temporary_folder
folder = temporary_folder("spill")
(folder / "0.pt").write_bytes(bytes(100))
print(folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_folders_of_killed_processes_are_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KEEPS_A_FOLDER], env=environment, capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert (left / "0.pt").exists()
    (tmp_path / "slimcnn-spill-notes").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = [temporary_folder("spill"), temporary_folder("spill")]
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "slimcnn-spill-notes"])
