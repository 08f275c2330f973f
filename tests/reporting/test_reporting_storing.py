"""Reports written and read back, and what is said about files that are none."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_reports import CURVES, REPORTS, curve, not_finite, tiny

import earlier_names
from slimcnn.cli import looking
from slimcnn.errors import RunError
from slimcnn.reporting import CurveReport, Report, read_report, render, render_curve, storing, write_report
from slimcnn.reporting.figures.drawing import figures
from slimcnn.reporting.schema import FORMAT
from slimcnn.reporting.sections import Figure


@pytest.mark.parametrize("name", [*REPORTS, *CURVES])
def test_a_report_survives_the_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "render", lambda report: "page")
    monkeypatch.setattr(storing, "render_curve", lambda report: "page")
    report: Report | CurveReport = REPORTS[name]() if name in REPORTS else CURVES[name]()
    data, page = write_report(report, tmp_path / "run")
    assert (data, page) == (tmp_path / "run" / "report.json", tmp_path / "run" / "report.html")
    for found in (read_report(data), read_report(tmp_path / "run")):
        assert found.model_dump_json() == report.model_dump_json()
        assert type(found) is type(report)
        assert found == report or name in ("full", "not_finite", "not_finite_curve")  # NaN is unlike itself


@pytest.mark.parametrize("name", [*REPORTS, *CURVES])
def test_a_report_of_an_earlier_version_means_the_same(name: str, tmp_path: Path) -> None:
    report: Report | CurveReport = REPORTS[name]() if name in REPORTS else CURVES[name]()
    (tmp_path / "report.json").write_text(json.dumps(earlier_names.report(json.loads(report.model_dump_json()))))
    found = read_report(tmp_path)
    plain, expected = (json.loads(one.model_dump_json()) for one in (found, report))
    assert {**plain, "sections": 0} == {**expected, "sections": 0}
    if isinstance(found, Report) and isinstance(report, Report):
        for old, new in zip(figures_of(found), figures_of(report), strict=True):
            kind = figures[new.figure].value
            assert kind.model_validate(old.data).model_dump_json() == kind.model_validate(new.data).model_dump_json()


def figures_of(report: Report) -> list[Figure]:
    return [block for section in report.sections for block in section.blocks if isinstance(block, Figure)]


def test_the_files_are_the_model_and_its_page_and_nothing_else(tmp_path: Path) -> None:
    data, page = write_report(tiny(), tmp_path)
    assert page.read_text(encoding="utf-8") == render(tiny())
    found = json.loads(data.read_text(encoding="utf-8"))
    assert found == json.loads(tiny().model_dump_json())
    assert set(found["before"]) == {"top1", "metric", "params", "macs", "bytes", "peak_memory", "latency_ms"}
    assert set(found) >= {"before", "after", "verdict", "locked", "steps", "sections"}
    assert [set(step) for step in found["steps"]] == 2 * [{"name", "metric", "seconds", "macs", "params"}]
    assert (found["format"], found["kind"]) == (FORMAT, "run")
    assert sorted(tmp_path.iterdir()) == [page, data]


def test_a_curve_is_stored_as_what_it_is(tmp_path: Path) -> None:
    data, page = write_report(curve(), tmp_path)
    assert page.read_text(encoding="utf-8") == render_curve(curve())
    assert json.loads(data.read_text(encoding="utf-8"))["kind"] == "curve"
    assert read_report(tmp_path) == curve()


def test_numbers_that_are_not_finite_are_valid_json_and_come_back(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data, _ = write_report(not_finite(), tmp_path)
    json.loads(data.read_text(encoding="utf-8"), parse_constant=refuse)
    found = read_report(data)
    assert isinstance(found, Report)
    assert math.isnan(found.after.top1)
    assert found.verdict is not None
    assert found.verdict.error == math.inf
    assert render(found) == render(not_finite())


def test_a_page_that_cannot_be_drawn_costs_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(storing, "render", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(tiny(), tmp_path)
    assert read_report(tmp_path) == tiny()


def test_the_report_of_a_read_only_folder_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _ = write_report(tiny(), tmp_path)
    before = data.read_bytes()

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refused)  # permissions do not stop root
    looking.report(tmp_path)
    out, said = capsys.readouterr()
    assert "The network needs 51 % fewer MACs" in " ".join(out.split())
    assert said.startswith("the page was not regenerated: cannot write ")
    assert "Read-only file system" in said
    assert data.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*report\.json") as caught:
        write_report(tiny(), tmp_path / "run")
    assert "\n" not in str(caught.value)


def _changed(**changes: object) -> str:
    return json.dumps({**json.loads(tiny().model_dump_json()), **changes})


def _without(name: str) -> str:
    found = json.loads(tiny().model_dump_json())
    del found[name]
    return json.dumps(found)


def _write(content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "report.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / "report.json"

    return make


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no such folder": (lambda folder: folder / "nowhere", "no report at .*nowhere"),
    "a folder without one": (lambda folder: folder, r"no report at .*report\.json; pass the folder of a finished run"),
    "empty": (_write(""), "is not JSON"),
    "cut off": (_write(tiny().model_dump_json()[:-9]), "is not JSON"),
    "a picture": (_write(b"\x89PNG\r\n\x1a\n\xff\xfe"), "is not JSON"),
    "a list": (_write("[1, 2]"), "holds a JSON list"),
    "something else": (_write('{"name": "a plan"}'), "is not a report: network: Field required"),
    "newer": (_write(_changed(format=FORMAT + 1)), "has format 5, this slimcnn reads formats 3 to 4; install"),
    "older": (_write('{"format": 1, "stages": []}'), "has format 1, .* reads formats 3 to 4; run the same"),
    "newer and different": (_write('{"format": 9, "nothing": 0}'), "has format 9"),
    "a part missing": (_write(_without("verdict")), "is not a report: verdict: Field required"),
    "a part too many": (_write(_changed(color="red")), "is not a report: color: Extra inputs"),
    "a word for a number": (
        _write(_changed(seconds="long")),
        "is not a report: seconds: Input should be a valid number",
    ),
    "deep inside": (_write(_changed(steps=[{"name": "prune", "metric": "high", "seconds": 1}])), r"steps\.0\.metric"),
    "in a section": (
        _write(_changed(sections=[{"title": "x", "blocks": [{"kind": "table", "columns": [], "rows": 3}]}])),
        r"sections\.0\.blocks\.0\.table\.rows",
    ),
    "a curve without sizes": (
        _write(json.dumps(json.loads(curve().model_dump_json()) | {"points": []})),
        "is not a report: points: Tuple should have at least 1 item",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_report_is_refused_in_one_line_that_names_the_file(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    with pytest.raises(RunError, match=words) as caught:
        read_report(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
