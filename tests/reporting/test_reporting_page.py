"""What must be true of the page of every report."""

from __future__ import annotations

import re
import subprocess
import sys

import matplotlib
import pytest
from page_reading import Page, html_of, page_of
from synthetic_reports import HOSTILE, REPORTS, tiny

from slimcnn.reporting import Report, render
from slimcnn.reporting.contents import Norms
from slimcnn.reporting.figures.norms import PANELS

every_report = pytest.mark.parametrize("name", REPORTS)
PARTS = "comparison law stages widths norms curves locked layers timing repeat glossary".split()
PARTS_OF_OTHERS = "comparison {} stages curves layers timing repeat glossary"


def parts_of(name: str) -> list[str]:
    report = REPORTS[name]()
    other = PARTS_OF_OTHERS.format("rewritten" if report.rewrites else "closeness").split()
    return PARTS if report.verdict is not None else other


@every_report
def test_every_tag_is_closed_where_it_should_be(name: str) -> None:
    assert page_of(name).faults == []
    assert len(page_of(name).elements) > 100


def test_the_reader_of_pages_sees_faults() -> None:
    assert Page("<p><b>x</p></b>").faults
    assert Page("<p>x").faults
    assert Page("x</p>").faults
    assert not Page("<p>x<br><i>y</i></p>").faults


@every_report
def test_ids_are_unique_and_whatever_is_referred_to_is_there(name: str) -> None:
    page = page_of(name)
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    wanted = {element.attributes["href"][1:] for element in page.elements if element.tag in ("a", "use")}
    for element in page.elements:
        for value in element.attributes.values():
            wanted |= set(re.findall(r"url\(#([^)]+)\)", value))
    assert wanted >= set(parts_of(name)) - {"comparison"}
    assert wanted <= set(ids)


@every_report
def test_nothing_outside_the_file_is_referred_to(name: str) -> None:
    html, page = html_of(name), page_of(name)
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html.replace(HOSTILE, ""))
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    for element in page.elements:
        assert element.tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        assert "src" not in element.attributes
        assert not [attribute for attribute in element.attributes if attribute.startswith("on")]
        assert element.attributes.get("href", "#").startswith(("#", "data:,"))


def test_a_web_address_in_a_report_is_shown_as_text_only() -> None:
    note = "see https://example.org/paper"
    page = Page(render(tiny().model_copy(update={"notes": (note,)})))
    assert note in page.text
    assert not [e for e in page.elements if any("example.org" in value for value in e.attributes.values())]


@every_report
def test_a_page_is_under_two_megabytes(name: str) -> None:
    assert 8_000 < len(html_of(name).encode()) < 2_000_000


@every_report
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    assert render(REPORTS[name]()) == html_of(name)


def test_another_process_and_another_hash_seed_give_the_same_bytes() -> None:
    code = (
        "import sys; from slimcnn.reporting import *; "
        "sys.stdout.buffer.write(render(Report.model_validate_json(sys.stdin.read())).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=tiny().model_dump_json().encode(),
        capture_output=True,
        env={"PYTHONHASHSEED": "7"},
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == html_of("tiny")


def test_the_users_own_matplotlib_settings_change_nothing_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
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
        [sys.executable, "-c", code], input=tiny().model_dump_json(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr


@every_report
def test_parts_come_in_their_order_and_none_is_missing(name: str) -> None:
    sections = [element.attributes.get("id") for element in page_of(name).all("section")]
    assert sections == parts_of(name)
    assert all(len(element.text) > 20 for element in page_of(name).all("section"))


@every_report
def test_every_table_has_headings_and_every_picture_says_what_it_shows(name: str) -> None:
    page = page_of(name)
    assert len(page.all("th")) >= 2 * len(page.all("table")) > 2
    assert all(heading.attributes.get("scope") in ("col", "row") for heading in page.all("th"))
    titles = [title.text for title in page.all("title")[1:]]
    assert len(titles) == len(page.all("svg"))
    assert all(len(title) > 10 for title in titles)
    assert all(picture.attributes["role"] == "img" for picture in page.all("svg"))


@every_report
def test_numbers_of_the_report_are_on_the_page(name: str) -> None:
    report, page = REPORTS[name](), page_of(name)
    table, layers = page.part("comparison").text, page.part("layers").text
    for numbers in (report.before, report.after):
        assert f"{numbers.top1:.2f}" in table or numbers.top1 != numbers.top1
        for exact in (numbers.params, numbers.macs, numbers.bytes):
            assert f"{exact:,}" in table
    for layer in report.layers:
        for exact in (layer.params_before, layer.params_after, layer.macs_before, layer.macs_after):
            assert f"{exact:,}" in layers
        assert " × ".join(map(str, layer.shape_after)) in layers
    for group in report.groups:
        assert f"{group.channels} → {group.kept}" in page.part("widths").text
        assert f"{group.channels:,}" in page.part("widths").text
    for time in (*report.timing.before_ms, *report.timing.after_ms):
        assert f"{time:.3g}" in page.part("timing").text
    for locked in report.locked:
        assert f"{locked.channels:,} of {locked.of:,}" in page.part("locked").text
    for epoch in report.curves:
        assert f"{epoch.learning_rate:.3g}".replace("-", "−") in page.part("curves").text
        assert f"{epoch.validation_top1:.2f}" in page.part("curves").text or epoch.loss != epoch.loss


@every_report
def test_whatever_is_named_is_shown_as_it_is_named(name: str) -> None:
    report, page = REPORTS[name](), page_of(name)

    def shown(text: str, part: str) -> bool:
        return " ".join(text.split()) in page.part(part).text

    assert report.verdict is None or shown(report.verdict.text, "law")
    if report.closeness is not None:
        pairs = [(row, i, j) for i, row in enumerate(report.closeness.teacher) for j in range(len(row)) if i != j]
        _, i, j = max(pairs, key=lambda pair: pair[0][pair[2]])
        assert all(shown(report.closeness.classes[k], "closeness") for k in (i, j))
    assert all(shown(word, "rewritten") for one in report.rewrites for word in (one.layer, one.what, one.why_left))
    assert all(shown(stage.name, "stages") for stage in report.stages)
    assert all(shown(word, "widths") for group in report.groups for word in (group.name, *group.layers))
    assert all(shown(word, "locked") for row in report.locked for word in (row.layer, row.reason, row.where))
    assert all(shown(word, "layers") for layer in report.layers for word in (layer.name, layer.kind))
    assert all(shown(term, "curves") for epoch in report.curves for term in epoch.terms)
    assert all(shown(word, "timing") for word in (*report.not_counted, *report.notes, report.timing.device))
    assert all(shown(word, "repeat") for item in report.environment.items() for word in item)
    assert all(shown(word, "repeat") for word in (report.command, report.recipe, report.checkpoint, report.target))
    assert report.title in page.all("title")[0].text


@every_report
def test_pictures_leave_colours_and_fonts_to_the_page(name: str) -> None:
    inside = "".join(re.findall(r"<svg.*?</svg>", html_of(name), flags=re.DOTALL))
    attributes = ";".join(re.findall(r'style="([^"]*)"', inside))
    assert attributes or name == "empty"
    assert not re.search(r"#[0-9a-f]{3,6}|rgb|font-family|Sans", attributes)
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", attributes)) <= {
        "none",
        "var(--ink)",
        "var(--muted)",
        "var(--rule)",
        "var(--before)",
        "var(--after)",
    }


def test_the_headline_says_it_in_one_sentence() -> None:
    heading = page_of("tiny").all("h1")[0].text
    assert heading.replace("\u2011", "-") == (
        "tiny on digits: 0.49 of the MACs, 0.50 of the parameters, top-1 98.61 → 97.50 (−1.11)"
    )


def test_a_broken_law_cannot_be_overlooked() -> None:
    good, bad = page_of("tiny"), page_of("failed_verdict")
    assert "Yes — equal" in good.part("law").text
    assert "No — cannot be equal, because norm1" in bad.part("law").text
    assert "0.0371" in bad.part("law").text
    assert [e.attributes["class"] for e in bad.elements if "verdict" in e.attributes.get("class", "")] == [
        "verdict broken"
    ]


def test_many_locked_layers_are_folded_by_their_reason_and_few_are_not() -> None:
    few, many = page_of("tiny").part("locked").text, page_of("huge")
    assert "10 output channels of 1 layer could not be cut" in few
    reasons = [summary.text for summary in many.all("summary") if summary.text.startswith("reason ")]
    assert len(reasons) == 4
    assert sum(int(re.findall(r"([\d,]+) channels", text)[0].replace(",", "")) for text in reasons) == sum(
        row.channels for row in REPORTS["huge"]().locked
    )


def test_empty_parts_say_so() -> None:
    page = page_of("empty")
    assert not page.all("svg")
    for part, words in {
        "stages": "No top-1 was measured between the steps",
        "widths": "no channels that can be cut",
        "norms": "No filter norms were recorded",
        "curves": "not trained after the cut",
        "locked": "Nothing: every output channel was free to go",
        "layers": "No layers were recorded",
        "timing": "No other operation ran",
        "repeat": "Not recorded",
    }.items():
        assert words in page.part(part).text


def test_of_many_layers_those_whose_norms_changed_most_are_shown() -> None:
    report, page = REPORTS["huge"](), page_of("huge")
    largest = sorted((layer.ks for layer in report.norms), reverse=True)[:PANELS]
    shown = [float(text) for text in re.findall(r"KS (0\.\d{3}) ·", page.part("norms").text)]
    assert shown == pytest.approx(largest, abs=5.1e-4)
    assert "176 layers not shown" in page.part("norms").text


def test_layers_without_finite_norms_are_left_out_and_counted() -> None:
    text = page_of("not_finite").part("norms").text
    assert "constant KS — · 2 → 1" in text
    assert "1 layer not shown" in text


def test_letters_in_pictures_are_those_of_the_name_whatever_they_mean_to_matplotlib() -> None:
    names = ("$x_1$", "层.conv🙂", "<b>&amp;", "a_b^c\\d")
    groups = tuple(tiny().groups[0].model_copy(update={"name": name}) for name in names)
    page = Page(render(tiny().model_copy(update={"groups": groups})))
    written = [text.text for text in page.all("text")]
    assert set(names) <= set(written)


def test_a_picture_without_a_single_number_is_left_out() -> None:
    page = page_of("not_finite")
    pictures = [title.text for title in page.all("title")[1:]]
    assert [text.split(":")[0] for text in pictures if "epoch" in text] == ["Learning rate over 2 epochs"]
    assert not [text for text in pictures if text.startswith("Top-1")]
    assert "original — cut — —" in page.part("stages").text
    assert "top-1, % 98.61 — —" in page.part("comparison").text


def test_a_picture_of_many_filters_is_as_small_as_a_picture_of_few() -> None:
    values = tuple(float(n) for n in range(3000))

    def length(report: Report) -> int:
        return len(render(report))

    many = tiny().model_copy(update={"norms": (Norms(layer="conv1", original=values, kept=values[:2000], ks=1 / 3),)})
    assert length(many) < length(tiny()) + 8_000


def test_a_bar_of_widths_is_coloured_by_the_share_that_was_kept() -> None:
    groups = (
        tiny().groups[0].model_copy(update={"channels": 100, "kept": 100}),
        tiny().groups[0].model_copy(update={"channels": 25, "kept": 5}),
    )
    html = render(tiny().model_copy(update={"groups": groups}))
    (picture,) = re.findall(r"<svg[^>]*><title>Channels before.*?</svg>", html)
    bars = []
    for path, colour in re.findall(r'<path d="([^"]+)"[^>]*style="fill: var\(--(before|after)\)', picture):
        x = [float(number) for number in re.findall(r"[ML] ?(-?[\d.]+) ", path)]
        bars.append((colour, max(x) - min(x)))
    assert [colour for colour, _ in bars] == ["before", "before", "after", "after"]
    full, quarter, all_kept, fifth_kept = (length for _, length in bars)
    assert quarter == pytest.approx(full / 2, abs=0.05)  # square root of 25 / 100
    assert all_kept == pytest.approx(full, abs=0.05)
    assert fifth_kept == pytest.approx(quarter / 5, abs=0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_letters_and_lines_stand_out_against_the_paper(dark: bool) -> None:
    themes = re.findall(r"--paper: .*?}", html_of("tiny"), flags=re.DOTALL)
    assert len(themes) == 2
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", themes[dark]))
    for name, least in {"ink": 7, "muted": 4.5, "after": 4.5, "alarm": 4.5, "before": 3}.items():
        for ground in ("paper", "wash"):
            assert _contrast(colours[name], colours[ground]) >= least, (name, ground)


def _contrast(a: str, b: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05)."""
    bright, dim = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_black_on_white_is_twenty_one() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
