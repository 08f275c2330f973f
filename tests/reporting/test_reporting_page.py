"""What must be true of every page."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise

import matplotlib
import pytest
from page_reading import Page, fresh_html_of, html_of, page_of
from synthetic_reports import (
    CURVES,
    HOSTILE,
    PAGES,
    REPORTS,
    VIEW,
    curve,
    failed_verdict,
    norms_section,
    tiny,
    widths_section,
)

from slimcnn.reporting import Report, formatting, markdown, render, render_page
from slimcnn.reporting.figures.norms import PANELS, LayerNorms
from slimcnn.reporting.figures.widths import Group
from slimcnn.reporting.sections import Section, Table, Text

every_page = pytest.mark.parametrize("name", PAGES)
every_report = pytest.mark.parametrize("name", REPORTS)
every_curve = pytest.mark.parametrize("name", CURVES)


def with_sections(*sections: Section) -> Report:
    return tiny().model_copy(update={"sections": sections})


@every_page
def test_every_tag_is_closed_where_it_should_be(name: str) -> None:
    assert page_of(name).faults == []
    assert len(page_of(name).elements) > 100


def test_the_reader_of_pages_sees_faults() -> None:
    assert Page("<p><b>x</p></b>").faults
    assert Page("<p>x").faults
    assert Page("x</p>").faults
    assert not Page("<p>x<br><i>y</i></p>").faults


def test_code_keeps_its_lines_on_a_page_and_in_markdown_and_is_not_read_as_markup() -> None:
    code = Text(text="import a\nb = a['x'] * 2 ** 3 < 4", tone="code")
    section = Section(title="Files", blocks=(code,))
    (element,) = [one for one in Page(render(with_sections(section))).all("pre") if "import a" in one.text]
    assert "".join(element.texts) == code.text
    assert f"```\n{code.text}\n```" in markdown("Title", "", [section])


@every_page
def test_ids_are_unique_and_whatever_is_referred_to_is_there(name: str) -> None:
    page = page_of(name)
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    links = [element.attributes["href"] for element in page.elements if element.tag in ("a", "use")]
    wanted = {link[1:] for link in links if link.startswith("#")}
    for element in page.elements:
        for value in element.attributes.values():
            wanted |= set(re.findall(r"url\(#([^)]+)\)", value))
    assert wanted <= set(ids)
    if name != VIEW:
        sections = {element.attributes["id"] for element in page.all("section")}
        assert wanted >= sections - {"comparison"}


@every_page
def test_nothing_outside_the_folder_is_referred_to(name: str) -> None:
    html, page = html_of(name), page_of(name)
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html.replace(HOSTILE, ""))
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    for element in page.elements:
        assert element.tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        assert "src" not in element.attributes
        assert not [attribute for attribute in element.attributes if attribute.startswith("on")]
        # Only a curve links to other files: the pages of its sizes, which lie below its folder.
        beginnings = ("#", "data:,", "data:image/jpeg;base64,", *(["./"] if name in CURVES else []))
        assert element.attributes.get("href", "#").startswith(beginnings)


def test_a_web_address_in_a_report_is_shown_as_text_only() -> None:
    note = "see https://example.org/paper"
    section = Section(title="Paper", blocks=(Text(text=note),))
    page = Page(render(with_sections(section).model_copy(update={"notes": (note,)})))
    assert page.text.count(note) == 2
    assert not [e for e in page.elements if any("example.org" in value for value in e.attributes.values())]


@every_page
def test_a_policy_forbids_scripts_and_everything_from_outside(name: str) -> None:
    (policy,) = (e.attributes["content"] for e in page_of(name).all("meta") if "http-equiv" in e.attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@every_page
def test_a_page_is_under_two_megabytes(name: str) -> None:
    assert 8_000 < len(html_of(name).encode()) < 2_000_000


@every_page
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    assert fresh_html_of(name) == html_of(name)


def test_another_process_and_another_hash_seed_give_the_same_bytes() -> None:
    code = (
        "import sys; from slimcnn.reporting import *; "
        "sys.stdout.buffer.write(render(Report.model_validate_json(sys.stdin.read())).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=REPORTS["full"]().model_dump_json().encode(),
        capture_output=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == html_of("full")


def test_the_users_own_matplotlib_settings_change_nothing_and_stay() -> None:
    mine = {"svg.fonttype": "path", "font.size": 31.0, "lines.linewidth": 9.0, "axes.grid": True, "text.color": "red"}
    with matplotlib.rc_context(mine):  # type: ignore[arg-type]
        before = dict(matplotlib.rcParams)
        assert render(tiny()) == html_of("tiny")
        assert dict(matplotlib.rcParams) == before


def test_drawing_imports_no_pyplot() -> None:
    code = (
        "import sys; from slimcnn.reporting import *; assert 'matplotlib' not in sys.modules; "
        "render(Report.model_validate_json(sys.stdin.read())); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=tiny().model_dump_json(), capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr


@every_report
def test_sections_come_in_their_order_and_none_is_missing(name: str) -> None:
    report, page = REPORTS[name](), page_of(name)
    said = [" ".join(section.title.split()) for section in report.sections]
    locked = ["Locked channels"] if report.verdict is not None or report.locked else []
    ending = ["How it was measured", "How to reproduce it", "Glossary"]
    wanted = ["Step by step", *said, *locked, *ending]
    assert [heading.text for heading in page.all("h2")] == wanted
    assert page.all("section")[0].attributes["id"] == "comparison"
    (nav,) = page.all("nav")
    assert nav.text == " ".join(wanted)
    assert all(len(element.text) > 20 for element in page.all("section"))


@every_page
def test_every_table_has_headings_and_every_picture_says_what_it_shows(name: str) -> None:
    page = page_of(name)
    assert len(page.all("th")) >= 2 * len(page.all("table")) > 0
    assert all(heading.attributes.get("scope") in ("col", "row") for heading in page.all("th"))
    titles = [title.text for title in page.all("title")[1:]]
    assert all(len(title) > 10 for title in titles)
    first = [after.tag for before, after in pairwise(page.elements) if before.tag == "svg"]
    assert first == ["title"] * len(page.all("svg"))
    assert all(picture.attributes["role"] == "img" for picture in page.all("svg"))


@every_report
def test_numbers_of_the_report_are_on_the_page(name: str) -> None:
    report, page = REPORTS[name](), page_of(name)
    table = page.part("comparison").text
    for numbers in (report.before, report.after):
        assert f"{numbers.top1:.2f}" in table or numbers.top1 != numbers.top1
        for exact in (numbers.params, numbers.macs, numbers.bytes):
            assert f"{exact:,}" in table
    for time in (*report.timing.before_ms, *report.timing.after_ms):
        assert f"{time:.3g}" in page.part("measuring").text
    for locked in report.locked:
        assert f"{locked.channels:,} of {locked.of:,}" in page.part("locked").text
    steps = page.part("step-by-step").text
    for step in report.steps:
        assert f"{step.metric:.2f}" in steps or step.metric != step.metric
        assert f"{step.macs / report.before.macs:.3f}" in steps


@pytest.mark.parametrize("name", [*REPORTS, VIEW])
def test_every_text_and_every_value_of_every_table_is_on_the_page_as_its_format_says(name: str) -> None:
    report, page = REPORTS["full" if name == VIEW else name](), page_of(name)
    places = [element for element in page.all("section") if element.attributes["id"] not in ("comparison",)]
    places = places if name == VIEW else places[1:]
    for section, place in zip(report.sections, places, strict=False):
        for block in section.blocks:
            if isinstance(block, Text):
                assert " ".join(block.text.split()) in place.text
            elif isinstance(block, Table):
                written = [
                    formatting.write(value, column.format)
                    for row in block.rows
                    for value, column in zip(row, block.columns, strict=True)
                ]
                words = [*written, *(column.title for column in block.columns), block.title]
                assert [word for word in words if " ".join(word.split()) not in place.text] == []


@every_report
def test_whatever_is_named_is_shown_as_it_is_named(name: str) -> None:
    report, page = REPORTS[name](), page_of(name)
    parts = {element.attributes["id"]: element.text for element in page.all("section")}

    def shown(text: str, part: str) -> bool:
        return " ".join(text.split()) in parts[part]

    assert all(shown(sentence, "comparison") for sentence in report.next_steps)
    if report.verdict is not None and not report.verdict.equal:
        assert shown(report.verdict.text.removeprefix("cannot be equal, because "), "comparison")
    assert all(shown(step.name, "step-by-step") for step in report.steps)
    assert all(shown(word, "locked") for row in report.locked for word in (row.layer, row.reason, row.where))
    assert all(shown(word, "measuring") for word in (*report.not_counted, *report.notes, report.timing.device))
    assert all(shown(word, "repeat") for item in report.environment.items() for word in item)
    assert all(shown(word, "repeat") for word in (report.command, report.recipe, report.checkpoint))
    assert all(shown(step.name, "repeat") for step in report.steps)
    assert report.title in page.all("title")[0].text


@every_page
def test_pictures_leave_colors_and_fonts_to_the_page(name: str) -> None:
    inside = "".join(re.findall(r"<svg.*?</svg>", html_of(name), flags=re.DOTALL))
    attributes = ";".join(re.findall(r'style="([^"]*)"', inside))
    assert attributes or name in ("empty", "not_finite_curve")
    assert not re.search(r"#[0-9a-f]{3,6}|rgb|font-family|Sans", attributes)
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", attributes)) <= {
        "none",
        "var(--ink)",
        "var(--muted)",
        "var(--rule)",
        "var(--before)",
        "var(--after)",
        "var(--alarm)",
    }


def test_the_headline_says_it_in_one_sentence() -> None:
    heading = page_of("tiny").all("h1")[0].text
    assert heading.replace("\u2011", "-") == (
        "tiny on digits: 0.49 of the MACs, 0.50 of the parameters, top-1 98.61 → 97.50 (−1.11)"
    )


def test_a_cut_that_is_not_exact_cannot_be_overlooked() -> None:
    good, bad = page_of("tiny"), page_of("failed_verdict")
    assert "The cut is exact" in good.part("comparison").text
    assert "cannot be proven, because norm1" in bad.part("comparison").text
    verdicts = [
        [e.attributes["class"] for e in page.elements if "verdict" in e.attributes.get("class", "")]
        for page in (good, bad)
    ]
    assert verdicts == [["verdict"], ["verdict broken"]]
    wrong = failed_verdict().verdict.model_copy(update={"text": "wrong at conv1"})  # type: ignore[union-attr]
    page = Page(render(tiny().model_copy(update={"verdict": wrong})))
    assert "The cut is not exact (largest relative difference 0.0371): wrong at conv1." in page.text


def test_many_locked_layers_are_folded_by_their_reason_and_few_are_not() -> None:
    few, many = page_of("tiny").part("locked").text, page_of("huge")
    assert "10 output channels of 1 layer cannot be removed" in few
    reasons = [summary.text for summary in many.all("summary") if summary.text.startswith("reason ")]
    assert len(reasons) == 4
    assert sum(int(re.findall(r"([\d,]+) channels", text)[0].replace(",", "")) for text in reasons) == sum(
        row.channels for row in REPORTS["huge"]().locked
    )


def test_folded_tables_are_folded_and_others_are_not() -> None:
    page = page_of("tiny")
    assert [summary.text for summary in page.all("summary")] == ["The same as a table", "Every epoch in numbers"]
    assert "All layers" in [heading.text for heading in page.all("h3")]


def test_empty_parts_say_so() -> None:
    page = page_of("empty")
    assert not page.all("svg")
    assert "The run has no steps" in page.part("step-by-step").text
    assert "every output channel could be removed" in page.part("locked").text
    assert "No other operation ran" in page.part("measuring").text
    assert "Not recorded" in page.part("repeat").text


def test_two_sections_of_the_same_title_have_places_of_their_own() -> None:
    sections = [element.attributes["id"] for element in page_of("rewritten").all("section")]
    assert sections[2:4] == ["rewritten-layers", "rewritten-layers-2"]


def test_of_many_layers_those_whose_norms_changed_most_are_shown() -> None:
    report, page = REPORTS["huge"](), page_of("huge")
    largest = sorted((layer["ks"] for layer in report.sections[1].blocks[0].data["layers"]), reverse=True)[:PANELS]  # type: ignore[union-attr]
    shown = [float(text) for text in re.findall(r"KS (0\.\d{3}) ·", page.part("filter-norms").text)]
    assert shown == pytest.approx(largest, abs=5.1e-4)
    assert f"{PANELS} layers shown, largest KS first; {200 - PANELS} layers not shown" in page.text


def test_layers_without_finite_norms_are_left_out_and_counted() -> None:
    text = page_of("not_finite").part("filter-norms").text
    assert "constant KS — · 2 → 1" in text
    assert "1 layer not shown" in text


def test_letters_in_pictures_are_those_of_the_name_whatever_they_mean_to_matplotlib() -> None:
    names = ("$x_1$", "层.conv🙂", "<b>&amp;", "a_b^c\\d")
    groups = tuple(Group(name=name, channels=16, kept=9) for name in names)
    page = Page(render(with_sections(widths_section(groups))))
    written = [text.text for text in page.all("text")]
    assert set(names) <= set(written)


def test_a_picture_without_a_single_number_is_left_out() -> None:
    page = page_of("not_finite")
    pictures = [title.text for title in page.all("title")[1:]]
    assert [text.split(":")[0] for text in pictures if "epoch" in text] == ["Learning rate over 2 epochs"]
    assert not [text for text in pictures if text.startswith("Top-1")]
    assert "original — 1.000 prune — —" in page.part("step-by-step").text
    assert "top-1, % 98.61 — —" in page.part("comparison").text


def test_a_picture_of_many_filters_is_as_small_as_a_picture_of_few() -> None:
    values = tuple(float(n) for n in range(3000))

    def length(layer: LayerNorms) -> int:
        return len(render_page("", "", [norms_section((layer,))]))

    few = LayerNorms(layer="conv1", original=(0.5, 1.0, 1.5, 2.0), kept=(1.0, 2.0), ks=0.25)
    many = LayerNorms(layer="conv1", original=values, kept=values[:2000], ks=1 / 3)
    assert length(many) < length(few) + 8_000


def test_a_bar_of_widths_is_colored_by_the_share_that_was_kept() -> None:
    groups = (Group(name="whole", channels=100, kept=100), Group(name="fifth", channels=25, kept=5))
    html = render(with_sections(widths_section(groups)))
    (picture,) = re.findall(r"<svg[^>]*><title>Channels before.*?</svg>", html)
    bars = []
    for path, color in re.findall(r'<path d="([^"]+)"[^>]*style="fill: var\(--(before|after)\)', picture):
        x = [float(number) for number in re.findall(r"[ML] ?(-?[\d.]+) ", path)]
        bars.append((color, max(x) - min(x)))
    assert [color for color, _ in bars] == ["before", "before", "after", "after"]
    full, quarter, all_kept, fifth_kept = (length for _, length in bars)
    assert quarter == pytest.approx(full / 2, abs=0.05)  # square root of 25 / 100
    assert all_kept == pytest.approx(full, abs=0.05)
    assert fifth_kept == pytest.approx(quarter / 5, abs=0.05)


@every_curve
def test_a_curve_shows_every_size_and_links_to_its_page(name: str) -> None:
    report, page = CURVES[name](), page_of(name)
    shown = page.part("comparison").text
    for point in report.points:
        assert " ".join(point.label.split()) in shown
        assert f"{point.after.top1:.2f}" in shown or point.after.top1 != point.after.top1
        assert formatting.count(point.after.macs) in shown
    links = [link.attributes["href"] for link in page.all("a") if not link.attributes["href"].startswith("#")]
    assert len(links) == len(report.points)
    assert all(":" not in link for link in links)
    if name == "curve":
        assert links == ["./0.8/report.html", "./0.6/report.html", "./0.4/report.html"]


def test_a_curve_draws_every_size_against_macs_and_against_latency() -> None:
    pictures = [title.text for title in page_of("curve").all("title")[1:]]
    assert [text.split(":")[0] for text in pictures] == [
        "Top-1 of 4 networks against MACs",
        "Top-1 of 4 networks against measured latency",
    ]
    for point in curve().points:
        assert all(f"{point.label} {point.after.top1:.2f} %" in text for text in pictures)


def test_the_page_of_a_view_is_its_sections_and_nothing_else() -> None:
    page = Page(render_page("Norms", "What criteria do", [Section(title="One", blocks=(Text(text="Said."),))]))
    assert page.all("main")[0].text == "Norms What criteria do One Said."
    assert page.faults == []


@pytest.mark.parametrize("dark", [False, True])
def test_letters_and_lines_stand_out_against_the_paper(dark: bool) -> None:
    themes = re.findall(r"--paper: .*?}", html_of("tiny"), flags=re.DOTALL)
    assert len(themes) == 2
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", themes[dark]))
    for name, least in {"ink": 7, "muted": 4.5, "after": 4.5, "alarm": 4.5, "before": 3}.items():
        for ground in ("paper", "wash"):
            assert _contrast(colors[name], colors[ground]) >= least, (name, ground)


def _contrast(a: str, b: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05)."""
    bright, dim = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_black_on_white_is_twenty_one() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
