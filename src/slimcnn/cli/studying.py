"""The `study` command: compare settings over several seeds."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimcnn.cli import options
from slimcnn.cli.app import app
from slimcnn.cli.running import Interrupted
from slimcnn.cli.showing import print_json, print_tables
from slimcnn.show import watched

if TYPE_CHECKING:
    from slimcnn.studying import Study, StudyRows

WORK = "How much runs, and where"
RESULTS = "Results"
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@app.command()
def study(
    recipe: Annotated[Path | None, typer.Argument(help="Study (TOML): a recipe with [study] and [vary].")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. Default: runs/ and the file's name.", rich_help_panel=WORK)
    ] = None,
    join: Annotated[
        Path | None, typer.Option(help="Join the study in this folder as another worker.", rich_help_panel=WORK)
    ] = None,
    storage: Annotated[
        str,
        typer.Option(
            help="Optuna storage URL that several machines share, such as postgresql://...", rich_help_panel=WORK
        ),
    ] = "",
    budget: Annotated[
        str, typer.Option(help="Start no run that would probably end later: 90s, 30m, 2h.", rich_help_panel=WORK)
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Run failed points again.", rich_help_panel=WORK)] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Accept more than 10,000 runs.", rich_help_panel=WORK)] = False,
    other_versions: Annotated[
        bool,
        typer.Option(
            "--other-versions",
            help="Work with other versions of slimcnn or torch than the first worker.",
            rich_help_panel=WORK,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the study and list its points; run nothing.", rich_help_panel=WORK)
    ] = False,
    table: Annotated[
        bool,
        typer.Option("--table", help="Write page and table again from the rows; run nothing.", rich_help_panel=RESULTS),
    ] = False,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Write a card with results, command, seeds, hardware and epochs to this file or folder.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare settings: every combination of the listed values, over several seeds, with statistics and a page.

    Any number of processes can work on one study; each can be killed at any time. The same command goes on.

    Example: slimcnn study recipes/studies/criteria.toml --out runs/criteria --budget 2h
    """
    from slimcnn.errors import StudyError
    from slimcnn.files import read_text
    from slimcnn.studying.settings import parse_study
    from slimcnn.studying.work import study_to_join

    if (recipe is None) == (join is None) and not table:
        raise StudyError("give either a study (slimcnn study STUDY.toml) or --join FOLDER")
    folder = join or out or Path("runs") / (recipe.stem if recipe else "study")
    if table:
        _shown(_rendered(folder), folder, publish, as_json)
        return
    if recipe is None:
        asked, text = study_to_join(folder)
    else:
        text = read_text(recipe, StudyError, "study")
        asked = parse_study(text, recipe.stem, str(recipe))
    if storage:
        asked = asked.model_copy(update={"study": asked.study.model_copy(update={"storage": storage})})
    if dry_run:
        _list_points(asked, as_json)
        return
    found = _worked(asked, folder, text, seconds_of(budget), retry, yes, other_versions, as_json)
    _shown(found, folder, publish, as_json)


def seconds_of(text: str) -> float | None:
    """Parse a duration; None if the text is empty.

    >>> seconds_of("90s"), seconds_of("1.5h"), seconds_of("")
    (90.0, 5400.0, None)
    """
    from slimcnn.errors import StudyError

    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?", text.strip())
    if found is None:
        raise StudyError(f"--budget {text!r}: expected a duration such as 90s, 30m or 2h")
    return float(found[1]) * SECONDS[found[2] or "s"]


def _worked(
    asked: Study, folder: Path, source: str, budget: float | None, retry: bool, many: bool, other: bool, as_json: bool
) -> StudyRows:
    from slimcnn.studying.work import run_study

    try:
        with watched(as_json) as show:
            return run_study(
                asked, folder, source=source, show=show, command=shlex.join(["slimcnn", *sys.argv[1:]]), budget=budget,
                retry=retry, many=many, other_versions=other,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted from None


def _rendered(folder: Path) -> StudyRows:
    from slimcnn.studying import read_rows, render

    found = read_rows(folder)
    render(found, folder)
    return found


def _shown(found: StudyRows, folder: Path, publish: Path | None, as_json: bool) -> None:
    from slimcnn.reporting import tables
    from slimcnn.studying import publishing
    from slimcnn.studying.rows import DATA, PAGE, TABLE

    card = publishing.publish(found, publish) if publish is not None else None
    if as_json:
        print_json([row.plain() for row in found.rows])
        return
    typer.echo(publishing.headline(found))
    print_tables(tables([publishing.summary(found)]))
    typer.echo(f"page:  {folder / PAGE}\ntable: {folder / TABLE}\nrows:  {folder / DATA}")
    if card is not None:
        typer.echo(f"card:  {card}")


def _list_points(asked: Study, as_json: bool) -> None:
    from slimcnn.studying.points import check_points, points_of

    points = points_of(asked) if asked.study.sampler == "all" else []
    check_points(asked, points)
    if as_json:
        print_json([dict(point.label) for point in points])
        return
    for point in points:
        typer.echo(str(point))
    typer.echo(f"{len(points)} points, {len(asked.study.seeds)} seeds: {asked.runs} runs")
