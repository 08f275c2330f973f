"""A progress file of a run that holds other JSON is a RunError of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimcnn.errors import RunError
from slimcnn.running.folder import DONE, RUN, STEP, StepPlace, read_json, settle


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "[" * 100_000])
def test_other_json_in_a_progress_file_is_one_line(content: str, tmp_path: Path) -> None:
    for name in (RUN, DONE):
        (tmp_path / name).write_text(content)
        with pytest.raises(RunError, match="damaged") as error:
            read_json(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{}", '{"digest": "d"}'])
def test_results_of_a_step_that_the_run_did_not_write_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / DONE).write_text(content)
    with pytest.raises(RunError, match="damaged"):
        _ = StepPlace(tmp_path, "d").done


def test_a_step_that_the_run_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1-prune").mkdir()
    (tmp_path / "1-prune" / STEP).write_text("{}")
    with pytest.raises(RunError, match="damaged"):
        settle(tmp_path, [])
