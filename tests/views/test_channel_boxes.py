"""The picture of the channel graph: every layer, every group, every lock."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from command_line import call
from slimcnn import views
from slimcnn.models import build
from slimcnn.reporting import render_page
from slimcnn.reporting.figures.channel_graph import PALETTE, ChannelBox, ChannelLayer, ChannelPicture, ChannelRun
from slimcnn.views.channel_boxes import boxes_of, picture_of

BARS = re.compile(r'<rect x="[\d.]+" y="\d+" width="([\d.]+)" height="12" fill="([^"]+)"><title>([^<]*)</title>')


class Hostile(nn.Module):
    """A module whose layer has a hostile name, with channels that are locked in part."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<script>alert(1)</script>", nn.Conv2d(1, 8, 3))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, depthwise, up = self.children()
        x = first(x)
        x = depthwise(torch.cat([x[:, :3].sort(dim=1).values, x[:, 3:]], dim=1))
        return up(x)  # type: ignore[no-any-return]


NETWORKS = {
    "resnet20": (lambda: build("resnet20"), torch.zeros(1, 3, 32, 32)),
    "vgg16": (lambda: build("vgg16"), torch.zeros(1, 3, 32, 32)),
    "mobilenet_v2": (lambda: build("mobilenet_v2"), torch.zeros(1, 3, 64, 64)),
    "hostile": (Hostile, torch.zeros(1, 1, 16, 16)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> slimcnn.graph.ChannelGraph:
    make, example = NETWORKS[request.param]
    return slimcnn.trace(make(), example)


def bars_of(picture: ChannelPicture) -> list[tuple[float, str, str]]:
    """Width, color and hint of every bar."""
    svgs = "".join(panel.svg for panel in picture.panels("a_"))
    return [(float(width), color, hint) for width, color, hint in BARS.findall(svgs)]


def layer(name: str, *groups: int, channels: int = 8) -> ChannelLayer:
    runs = tuple(ChannelRun(channels=channels, group=group) for group in groups)
    return ChannelLayer(name=name, label=name, macs=10, runs=runs)


def test_the_picture_names_every_layer_once_in_the_order_of_the_network(graph: slimcnn.graph.ChannelGraph) -> None:
    drawn = [layer.name for box in picture_of(graph).boxes for layer in box.layers]
    assert drawn == list(dict.fromkeys(contraction.module for contraction in graph.contractions))


def test_channels_and_macs_of_all_layers_add_up(graph: slimcnn.graph.ChannelGraph) -> None:
    layers = [layer for box in picture_of(graph).boxes for layer in box.layers]
    assert sum(layer.macs for layer in layers) == graph.macs()
    locked = {lock.layer: lock.of for lock in graph.locked}
    for one in layers:
        assert one.channels > 0
        assert one.channels == locked.get(one.name, one.channels)


def test_every_lock_has_its_layer_reason_and_line_of_code(graph: slimcnn.graph.ChannelGraph) -> None:
    view = views.inspect(graph)
    page = render_page(view.title, view.headline, view.sections[:1])
    assert graph.locked
    for lock in graph.locked:
        where = f", {lock.where}" if lock.where else ""
        told = f"{lock.layer}: {lock.channels:,} of {lock.of:,} channels locked: {lock.reason}{where}"
        assert told in re.sub("&#x27;", "'", page.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_a_group_has_one_color_and_groups_differ_as_far_as_the_palette_goes(
    graph: slimcnn.graph.ChannelGraph,
) -> None:
    colors = defaultdict(set)
    for _, color, hint in bars_of(picture_of(graph)):
        if " of group " in hint:
            colors[hint.partition(" of group ")[2]].add(color)
    assert colors
    assert all(len(found) == 1 for found in colors.values())
    used = set().union(*colors.values())
    assert len(used) == min(len(colors), len(PALETTE))


def test_groups_of_several_boxes_keep_their_color_when_colors_run_out() -> None:
    boxes = [ChannelBox(title=f"box {n}", layers=(layer(f"a{n}", n + 2), layer(f"b{n}", n % 2))) for n in range(60)]
    picture = ChannelPicture(boxes=tuple(boxes), groups=tuple(f"g{n}" for n in range(62)))
    colors = {re.sub(r".* of group (\S+) .*", r"\1", hint): color for _, color, hint in bars_of(picture)}
    assert colors["g0"] != colors["g1"]
    assert not {colors["g0"], colors["g1"]} & {color for name, color in colors.items() if name not in ("g0", "g1")}
    assert "62 groups share 24 colors:" in picture.caption


def test_a_bar_is_as_wide_as_the_square_root_of_its_channels() -> None:
    layers = (layer("a", 0, channels=16), layer("b", 1, channels=64), layer("c", 0, 1, channels=32))
    picture = ChannelPicture(boxes=(ChannelBox(title="box", layers=layers),), groups=("a", "b"))
    a, b, c, d = (width for width, _, _ in bars_of(picture))
    assert math.isclose(a, b / 2)
    assert math.isclose(c + d, b)
    assert math.isclose(c, d)


def test_channels_that_are_locked_in_part_are_hatched_in_part() -> None:
    make, example = NETWORKS["hostile"]
    picture = picture_of(slimcnn.trace(make(), example))
    first, depthwise, _ = (layer for box in picture.boxes for layer in box.layers)
    for one in (first, depthwise):
        assert [run.channels for run in one.runs if run.group is None] == [3]
        assert [run.channels for run in one.runs if run.group is not None] == [5]
    assert sum("hatch" in color for _, color, _ in bars_of(picture)) == 3


def test_a_hostile_module_name_is_escaped_on_the_page_and_in_a_notebook() -> None:
    make, example = NETWORKS["hostile"]
    view = views.inspect(slimcnn.trace(make(), example))
    for html in (render_page(view.title, view.headline, view.sections), view._repr_html_()):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        ("conv1 layer1.0.conv1 layer1.0.conv2 layer1.1.conv1 layer1.1.conv2 fc", "conv1 layer1.0 layer1.1 fc"),
        ("l.0.conv1 l.0.conv2 l.0.down.0 l.1.conv1 l.1.conv2", "l.0 l.1"),
        ("f.0 f.3 f.7 head", "f head"),
        ("layer1.0.conv1 layer1.0.conv2 layer2.0.conv1 layer2.0.conv2", "layer1.0 layer2.0"),
        ("f.0.0 f.1.a.0 f.1.a.1.0 f.2.a.0 f.2.a.1.0 f.2.a.2", "f.0.0 f.1 f.2"),
        ("i3a.b1.0 i3a.b2.0 i3a.b2.1 i3a.b3.0 i3a.b3.1 i3a.b4", "i3a"),
        ("s.0.b1.0 s.0.b1.2 s.0.b2.0 s.0.b2.3 s.0.b2.5 s.1.b2.0 s.1.b2.3 s.1.b2.5", "s.0 s.1"),
    ],
)
def test_boxes_are_the_modules_that_repeat(names: str, titles: str) -> None:
    found = boxes_of(names.split())
    assert [name for _, labels in found for name in labels] == names.split()
    assert [title for title, _ in found] == titles.split()


def test_layers_of_a_module_without_a_name_have_a_box() -> None:
    assert boxes_of([""]) == [("network", {"": ""})]


@pytest.mark.parametrize(("option", "file"), [("--html", "inspect.html"), ("--html seen.html", "seen.html")])
def test_the_command_writes_the_page_and_says_where(
    option: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(f"inspect --model resnet8 {option}", capsys, monkeypatch)
    assert code == 0
    assert out.splitlines()[-1] == file
    assert "Locked channels" in out
    page = Path(file).read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert not re.search(r"https?://|<script", page)


def test_without_the_option_nothing_is_written_and_json_stays_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("inspect --model resnet8", capsys, monkeypatch)[0] == 0
    assert list(tmp_path.iterdir()) == []
    code, out, _ = call("inspect --model resnet8 --html --json", capsys, monkeypatch)
    assert (code, out[0]) == (0, "{")
    assert [path.name for path in tmp_path.iterdir()] == ["inspect.html"]


def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    code, out, error = call(f"inspect --model resnet8 --html {tmp_path}/file/a.html", capsys, monkeypatch)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "a.html" in error


def test_a_long_box_becomes_several_panels_of_about_equal_length_that_show_every_layer() -> None:
    layers = [
        ChannelLayer(name=f"features.{n}", label=str(n), macs=1, runs=(ChannelRun(channels=8, group=0),))
        for n in range(13)
    ]
    picture = ChannelPicture(boxes=(ChannelBox(title="features", layers=tuple(layers)),), groups=("g",))
    first, second = picture.panels("p")
    assert (first.title, second.title) == ("features (1 of 2)", "features (2 of 2)")
    assert (first.note.partition(",")[0], second.note.partition(",")[0]) == ("7 layers", "6 layers")
    assert [n for n in range(13) if f">{n}</text>" in first.svg + second.svg] == list(range(13))
