"""The page in a real browser: it renders, its console stays silent, nothing sticks out sideways.

Skipped, with the reason, where there is no Chromium that starts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest
from page_reading import Page, html_of
from synthetic_reports import HOSTILE, PAGES, REPORTS, drawings, tiny

from slimcnn.reporting import render_page, write_report
from slimcnn.reporting.sections import Section

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0 "
    "--window-size=1200,3000"
).split()

Browse = Callable[[Path], tuple[str, list[str]]]
"""From a page to its document after rendering, and what the console said."""


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browse:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)} is on the PATH")

    def visit(page: Path) -> tuple[str, list[str]]:
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [found, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    blank = tmp_path_factory.mktemp("blank") / "blank.html"
    blank.write_text("<!doctype html><title>blank</title><p id=marker>here</p>")
    try:
        document, _ = visit(blank)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{found} does not start here: {error}")
    assert "here" in document
    return visit


@pytest.mark.parametrize(
    "script", ["console.error('deliberate')", "throw new Error('deliberate')", "undefined_deliberate()"]
)
def test_console_errors_are_seen(script: str, browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text(f"<!doctype html><title>loud</title><script>{script}</script>")
    _, console = browse(page)
    assert any("deliberate" in line for line in console)


@pytest.mark.parametrize("name", ["tiny", "full", "huge", "hostile_names", "empty", "curve", "view"])
def test_a_page_renders_and_the_console_stays_silent(name: str, browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html_of(name), encoding="utf-8")
    document, console = browse(page)
    assert console == []
    seen = Page(document[document.index("<html") :])
    assert seen.text == Page(html_of(name)).text
    if name in REPORTS:
        assert f"{REPORTS[name]().before.macs:,}" in seen.part("comparison").text
    assert len(seen.all("svg")) == html_of(name).count("<svg")
    assert seen.all("script") == []
    if name == "hostile_names":
        assert HOSTILE in seen.part("layer-by-layer").text


def test_what_was_written_to_a_folder_opens_from_there(browse: Browse, tmp_path: Path) -> None:
    _, page = write_report(tiny(), tmp_path / "a run with spaces, ü and #")
    document, console = browse(page)
    assert console == []
    assert "1,234,567" in Page(document[document.index("<html") :]).part("comparison").text


MEASURE = """
<script>
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const root = frame.contentDocument.documentElement;
    const told = document.createElement("p");
    told.id = frame.title;
    told.textContent = root.scrollWidth - root.clientWidth;
    document.body.append(told);
  }
});
</script>
"""


def test_nothing_sticks_out_sideways_on_a_phone_or_a_desk(browse: Browse, tmp_path: Path) -> None:
    frames = {
        f"{name}-{width}": f'<iframe title="{name}-{width}" style="border:0;width:{width}px;height:500px" '
        f'srcdoc="{escape(html_of(name))}"></iframe>'
        for name in PAGES
        for width in (360, 1200)
    }
    wide = '<iframe title="wide" style="border:0;width:360px" srcdoc="<div style=width:400px>x</div>"></iframe>'
    page = tmp_path / "frames.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{''.join(frames.values())}{wide}{MEASURE}", encoding="utf-8")
    document, _ = browse(page)
    measured = document[document.rindex("</iframe>") :]
    found = {e.attributes["id"]: int(e.text) for e in Page(measured).all("p")}
    assert found.pop("wide") > 0, "the measurement sees nothing"
    assert found == dict.fromkeys(frames, 0)


def test_the_channel_graph_fits_a_phone_and_the_console_stays_silent(browse: Browse, tmp_path: Path) -> None:
    section = Section(title="Channel graph", blocks=(drawings()["channel_graph"].block(),))
    html = render_page("Channels", "16 channels", [section])
    frame = f'<iframe title="phone" style="border:0;width:400px;height:900px" srcdoc="{escape(html)}"></iframe>'
    page = tmp_path / "phone.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{frame}{MEASURE}", encoding="utf-8")
    document, console = browse(page)
    assert console == []
    (told,) = Page(document[document.rindex("</iframe>") :]).all("p")
    assert (told.attributes["id"], told.text) == ("phone", "0")
