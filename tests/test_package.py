"""The package: one version everywhere, typed, light to import, and a public face without strangers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import slimcnn
from test_docs import loaded

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_one_version_everywhere() -> None:
    assert PROJECT["version"] == slimcnn.__version__
    assert f"\nversion: {slimcnn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert newest == slimcnn.__version__


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("line", ["import slimcnn", "import slimcnn.cli"])
def test_imports_are_light(line: str) -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'matplotlib', 'pydantic', 'optuna', 'rich', 'sklearn'}"
    code = f"import sys; {line}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_dir_shows_public_names_only() -> None:
    assert {name for name in dir(slimcnn) if not name.startswith("_")} == {*slimcnn.__all__, *slimcnn._ROOMS}


def test_files_that_are_no_python_belong_to_the_package() -> None:
    source = ROOT / "src" / "slimcnn"
    assert (source / "py.typed").exists()
    assert "CC BY 4.0" in (source / "datasets" / "sources" / "digits.txt").read_text(encoding="utf-8")


def test_scikit_learn_is_for_tests_only() -> None:
    assert not [line for line in PROJECT["dependencies"] if line.startswith("scikit-learn")]
    users = [path for path in (ROOT / "src").rglob("*.py") if "sklearn" in path.read_text(encoding="utf-8")]
    assert not users


def test_the_page_on_the_cost_of_the_package_is_that_of_its_rows() -> None:
    script = ROOT / "benchmarks" / "package.py"
    rows = json.loads(script.with_suffix(".json").read_text(encoding="utf-8"))
    assert loaded(script).table(rows) == script.with_suffix(".md").read_text(encoding="utf-8")
    assert min(rows["seconds"]["import slimcnn"]) < 0.1
    assert min(rows["seconds"]["slimcnn --help"]) < 0.3
