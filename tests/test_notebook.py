"""What a notebook and an interactive session show of our objects: one short line, or a small table."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

import slimcnn
from slimcnn.notebook import SHOWN, html_table


class Reader(HTMLParser):
    """Check that every tag is closed in order; keep the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    net = slimcnn.resolve("torchvision:resnet18")
    graph = slimcnn.trace(net, torch.zeros(1, 3, 64, 64))
    scores = slimcnn.score(net, graph, "l2")
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.5))
    digits = slimcnn.load_dataset("digits")
    return {
        "graph": graph, "group": graph.groups[0], "scores": scores, "plan": plan, "dataset": digits,
        "images": digits.train, "axis": graph.groups[-1].axes[0],
    }  # fmt: skip


FACTS = {
    "graph": "12 groups of 2,880 channels", "group": "64 channels", "scores": "'l2': 2,880 channels of 12 groups",
    "plan": "removes 1,440 channels of 12 groups", "dataset": "'digits': 10 classes, 1,257 train",
    "images": "1,257 of 1 x 8 x 8 pixels", "axis": "size=512",
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_the_repr_of_a_resnet18s_objects_is_one_short_line_with_the_counts(name: str, shown: dict[str, Any]) -> None:
    text = repr(shown[name])
    assert len(text) < 300
    assert "\n" not in text
    assert FACTS[name] in text


@pytest.mark.parametrize("name", ["graph", "scores", "plan"])
def test_a_notebook_shows_a_row_for_every_group(name: str, shown: dict[str, Any]) -> None:
    reader = read(shown[name]._repr_html_())
    assert reader.text[0] == repr(shown[name])
    for group in shown["graph"].groups:
        assert group.name in reader.text


def test_names_are_escaped(shown: dict[str, Any]) -> None:
    evil = "<script>alert('x')</script>&"
    graph = shown["graph"]
    group = replace(graph.groups[0], name=evil)
    scores = slimcnn.Scores(evil, {evil: torch.ones(2)}, {evil: evil})
    for one in (
        replace(graph, groups=(group, *graph.groups[1:])),
        replace(shown["plan"], removed={evil: (1, 2)}, target=evil),
        scores,
    ):
        reader = read(one._repr_html_())
        assert "script" not in reader.tags
        assert evil in reader.text


def test_a_long_table_counts_the_rows_that_it_leaves_out() -> None:
    reader = read(html_table("numbers", ["n"], [[n] for n in range(SHOWN + 5)]))
    assert reader.text[-1] == "... and 5 more"
    assert str(SHOWN - 1) in reader.text
    assert str(SHOWN) not in reader.text
