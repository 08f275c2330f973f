"""What must be true of every registered figure."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from page_reading import Page
from synthetic_reports import HOSTILE, drawings, epoch, training

from slimcnn.errors import RunError, UnknownName
from slimcnn.reporting import render_page
from slimcnn.reporting.figures import Drawing, drawing_of, figures, house_style
from slimcnn.reporting.figures.choice import Choice
from slimcnn.reporting.figures.closeness import Closeness
from slimcnn.reporting.figures.steps import MeasuredStep, Steps
from slimcnn.reporting.sections import Figure, Section

NAMES = """benchmark channel_graph choice closeness front norms pareto scales side_by_side sizes steps trade training
    units widths""".split()
every_figure = pytest.mark.parametrize("name", NAMES)


def drawn(drawing: Drawing) -> str:
    return render_page("", "", [Section(title="Figure", blocks=(drawing.block(),))])


def changed(value: Any, new: object, kind: type) -> Any:
    """The same data with every leaf of a kind replaced, save words of a fixed choice."""
    if isinstance(value, dict):
        return {
            key: one if key in ("family", "reused", "jpegs", "colors") else changed(one, new, kind)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [changed(one, new, kind) for one in value]
    return new if type(value) is kind else value


def test_all_figures_are_registered_and_have_an_example() -> None:
    assert [entry.name for entry in figures] == NAMES
    assert sorted(drawings()) == NAMES
    assert all(entry.summary.endswith((".", ":")) for entry in figures)


@every_figure
def test_a_figure_is_drawn_from_its_json_as_from_itself(name: str) -> None:
    drawing = drawings()[name]
    block = drawing.block()
    assert block.figure == name
    again = Figure.model_validate_json(block.model_dump_json())
    assert again == block
    assert drawing_of(again) == drawing
    with house_style():
        one, other = drawing.panels("a_"), drawing_of(again).panels("a_")
    assert one
    assert one == other


@every_figure
def test_all_letters_have_a_color_of_the_page_so_that_they_show_in_the_dark(name: str) -> None:
    letters = Page(drawn(drawings()[name])).all("text")
    assert letters
    assert [text.text for text in letters if "fill: var(--" not in text.attributes.get("style", "")] == []


@every_figure
def test_ids_of_one_figure_drawn_twice_on_a_page_are_apart(name: str) -> None:
    block = drawings()[name].block()
    page = Page(render_page("", "", [Section(title="Twice", blocks=(block, block))]))
    assert page.faults == []
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))


@every_figure
def test_a_figure_survives_numbers_that_are_not_finite(name: str) -> None:
    for number in ("NaN", "Infinity"):
        data = changed(drawings()[name].block().data, number, float)
        block = Figure(figure=name, data=data)
        assert Page(render_page("", "", [Section(title="Figure", blocks=(block,))])).faults == []


@every_figure
def test_a_figure_shows_hostile_names_as_they_are(name: str) -> None:
    data = changed(drawings()[name].block().data, HOSTILE, str)
    page = Page(render_page("", "", [Section(title="Figure", blocks=(Figure(figure=name, data=data),))]))
    assert page.faults == []
    assert page.all("script") == []
    names_nothing = name in ("pareto", "scales")
    assert ("<script>" in page.text) != names_nothing, "the first letters of a name are always shown"
    assert not [element for element in page.elements if any(key.startswith("on") for key in element.attributes)]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pareto", "sizes"}))  # these always have a point
def test_a_figure_without_anything_in_it_says_so(name: str) -> None:
    data = drawings()[name].block().data
    empty = {key: type(value)() if isinstance(value, list | dict) else value for key, value in data.items()}
    page = Page(render_page("", "", [Section(title="Figure", blocks=(Figure(figure=name, data=empty),))]))
    assert page.all("svg") == []
    assert "Nothing to draw" in page.text


def test_a_figure_that_is_unknown_or_has_other_data_is_refused_in_one_line() -> None:
    with pytest.raises(UnknownName, match="unknown figure 'width': did you mean 'widths'"):
        drawing_of(Figure(figure="width", data={}))
    with pytest.raises(RunError, match=r"figure 'widths' cannot be drawn: groups\.0\.kept: Field required") as caught:
        drawing_of(Figure(figure="widths", data={"groups": [{"name": "conv1", "channels": 3}]}))
    assert "\n" not in str(caught.value)


def test_the_choice_names_every_layer_criterion_and_distance() -> None:
    drawing = drawings()["choice"]
    assert isinstance(drawing, Choice)
    page = Page(drawn(drawing))
    pictures = [title.text for title in page.all("title")[1:]]
    assert len(pictures) == 6
    for layer in drawing.layers:
        for choice in layer.choices:
            (found,) = (text for text in pictures if f" {layer.layer}:" in text and f" {choice.criterion}," in text)
            assert f"{len(choice.kept)} kept" in found
            assert f"KS {choice.ks:.3f}, W1 {choice.w1:.3f}" in found


def closeness(networks: int, classes: int = 20) -> Closeness:
    def matrix(seed: int) -> tuple[tuple[float, ...], ...]:
        values = [[-1 - math.sin(seed + 7 * i + 3 * j) for j in range(classes)] for i in range(classes)]
        return tuple(tuple(0.0 if i == j else value for j, value in enumerate(row)) for i, row in enumerate(values))

    return Closeness(
        classes=tuple(f"class {n}" for n in range(classes)),
        networks={f"network{n}": matrix(n) for n in range(networks)},
        temperature=4,
        images=1,
    )


@pytest.mark.parametrize(("networks", "maps"), [(1, 1), (2, 3), (3, 6)])
def test_closeness_has_a_map_for_every_network_and_for_differences(networks: int, maps: int) -> None:
    page = Page(drawn(closeness(networks)))
    assert len(page.all("svg")) == maps
    assert ("In a difference" in page.text) == (networks > 1)
    assert "1 validation image; the classes with the closest pairs." in page.text
    for n in range(1, networks):
        assert f"network{n} - network0" in page.text


def test_closeness_names_the_closest_pair() -> None:
    found = closeness(1)
    matrix = found.networks["network0"]
    i, j = max(((i, j) for i in range(20) for j in range(20) if i != j), key=lambda place: matrix[place[0]][place[1]])
    assert f"closest: class {j} to class {i}" in Page(drawn(found)).text


def test_a_matrix_that_is_not_square_is_refused() -> None:
    data = json.loads(closeness(1).model_dump_json())
    data["networks"]["network0"][0].pop()
    with pytest.raises(RunError, match="is not square with 20 classes"):
        drawing_of(Figure(figure="closeness", data=data))


@pytest.mark.parametrize(("kept", "said"), [(1, "kept: epoch 1"), (0, "kept: the start"), (2, ""), (None, "")])
def test_training_curves_mark_the_epoch_that_was_kept(kept: int | None, said: str) -> None:
    epochs = (epoch(1, loss=1.25, validation_metric=95.4), epoch(2, loss=0.6, validation_metric=90.1))
    accuracy = training(epochs).model_copy(update={"kept": kept}).panels("training")[1]
    assert accuracy.note == "validation 90.10 at the end" + (f", {said}" if said else "")


def test_a_single_epoch_has_an_axis_of_whole_numbers() -> None:
    with house_style():
        panels = training((epoch(1),)).panels("a_")
    ticks = [text for panel in panels for text in re.findall(r">([\d.]+)</text>", panel.svg)]
    assert "1" in ticks
    assert not {"0.95", "0.950", "1.05", "1.050", "0.96", "1.04"} & set(ticks)


def test_a_bar_far_below_the_original_is_drawn_as_an_alarm() -> None:
    with house_style():
        good = Steps(steps=(MeasuredStep(name="original", score=90), MeasuredStep(name="prune", score=88))).panels("a_")
        bad = Steps(steps=(MeasuredStep(name="original", score=90), MeasuredStep(name="prune", score=12))).panels("a_")
    assert "var(--alarm)" not in good[0].svg
    assert "var(--alarm)" in bad[0].svg


def test_maps_have_a_color_scale() -> None:
    page = drawn(drawings()["closeness"])
    assert "scale1" in page
    assert "closest of all maps" in page
