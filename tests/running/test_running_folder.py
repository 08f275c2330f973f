"""The folder of a run, when files in it are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimcnn.errors import RunError
from slimcnn.running.folder import RUN, begin, read_json
from slimcnn.running.recipe import recipe_from


def test_a_damaged_run_json_is_not_to_be_deleted_alone(tmp_path: Path) -> None:
    """Without it the folder would be refused as foreign: nothing proves what its other files were made from."""
    recipe = recipe_from({"network": {"model": "resnet8"}, "steps": [{"step": "prune", "macs": 0.5}]})
    begin(recipe, tmp_path, "abc")
    (tmp_path / "0-start").mkdir()
    (tmp_path / RUN).write_text('{"base": ')
    with pytest.raises(RunError, match=r"run\.json is damaged .*; choose another --out, or delete the folder"):
        begin(recipe, tmp_path, "abc")
    (tmp_path / "step.json").write_text("[")
    with pytest.raises(RunError, match=r"step\.json is damaged .*; delete it: the run writes it again"):
        read_json(tmp_path / "step.json")
