"""docs/graph.md shows what the code does."""

from __future__ import annotations

import doctest
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slimcnn.graph.operations import _OPERATIONS, known_operations

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def _pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(DOCS / "pictures"))
    known_operations()
    before = dict(_OPERATIONS)
    yield
    _OPERATIONS.clear()
    _OPERATIONS.update(before)
    sys.modules.pop("graph", None)


@pytest.mark.usefixtures("_pictures")
def test_every_line_of_the_page_runs() -> None:
    found = doctest.testfile(str(DOCS / "graph.md"), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert found.attempted > 15
    assert not found.failed


@pytest.mark.usefixtures("_pictures")
def test_the_picture_is_drawn_from_the_graph() -> None:
    import graph

    assert (DOCS / "pictures" / "graph.svg").read_text(encoding="utf-8") == graph.picture()


def test_every_file_of_the_room_is_on_the_page() -> None:
    page = (DOCS / "graph.md").read_text(encoding="utf-8")
    room = DOCS.parent / "src" / "slimcnn" / "graph"
    left_out = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    assert {name for name in left_out if f"`{name}`" not in page} == LESSER


LESSER = {"activations.py", "copying.py", "execution.py", "removal.py", "sharing.py", "shrinking.py"}
"""What others do too: memory, copies, running, cutting."""
