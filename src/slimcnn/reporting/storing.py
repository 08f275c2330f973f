"""Write and read reports: report.json holds all data, report.html shows it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from slimcnn.errors import RunError
from slimcnn.files import kind_of, refuse_special, write_text
from slimcnn.reporting.page import render, render_curve
from slimcnn.reporting.schema import FORMAT, OLDEST, CurveReport, Report

DATA = "report.json"
PAGE = "report.html"


def write_report(report: Report | CurveReport, folder: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into `folder`, each atomically, and return their paths.

    The JSON is written first, so that no numbers are lost if the page cannot be drawn. A folder that cannot be
    written to raises `RunError`.
    """
    data, page = folder / DATA, folder / PAGE
    write_text(data, report.model_dump_json(indent=2) + "\n")
    write_text(page, render_curve(report) if isinstance(report, CurveReport) else render(report))
    return data, page


def read_report(path: Path) -> Report | CurveReport:
    """Read a report from its JSON file, or from the folder that holds a `report.json`.

    Raises:
        RunError: the file is missing, is not JSON, is not a report, or has a format that this slimcnn does not read.
    """
    file = path / DATA if kind_of(path) == "folder" else path
    found = _json(file)
    if not isinstance(found, dict):
        raise RunError(f"{file} is not a report: it holds a JSON {type(found).__name__}; pass the {DATA} of a run")
    version = found.get("format", FORMAT)
    if isinstance(version, int):
        if not OLDEST <= version <= FORMAT:
            remedy = "install a newer slimcnn" if version > FORMAT else "run the same command again to update it"
            raise RunError(f"{file} has format {version}, this slimcnn reads formats {OLDEST} to {FORMAT}; {remedy}")
        found["format"] = FORMAT
    kind = CurveReport if found.get("kind") == "curve" else Report
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise RunError(f"{file} is not a report: {place}: {first['msg']}; pass the {DATA} of a run") from error


def _json(file: Path) -> object:
    refuse_special(file, RunError)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"no report at {file}; pass the folder of a finished run, or its {DATA}") from error
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or error}; pass the {DATA} of a run") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, or bad JSON
        raise RunError(f"{file} is not JSON: {' '.join(str(error).split())}; pass the {DATA} of a run") from error
