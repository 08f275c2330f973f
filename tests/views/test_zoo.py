"""The comparison of compact networks: what is published beside what is counted and timed here."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from slimcnn.cli import main
from slimcnn.errors import UnknownName
from slimcnn.measuring import Latency
from slimcnn.models.published import Published, published_rows
from slimcnn.reporting import render_page, tables
from slimcnn.views.zoo import Compared, compare, view_of


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_by_default_it_is_the_surveys_six_with_their_sizes() -> None:
    names = {row.network for row in published_rows()}
    families = {"mobilenet_v2", "shufflenet_v2", "igcv3", "shiftnet_a", "as_resnet_w50", "fe_net"}
    assert families <= names
    assert "xception" not in names
    assert {row.network for row in published_rows(everything=True)} > names
    with pytest.raises(UnknownName, match="did you mean 'mobilenet_v2'"):
        published_rows(["mobilenetv2"])


def test_networks_are_counted_and_timed_in_turns_in_every_runtime_that_is_asked_for() -> None:
    found = compare(published_rows(["shufflenet_v2"])[:2], runtimes=["eager"], threads=1, seconds=0)
    assert [one.params for one in found] == [1_366_792, 2_278_604]
    for one in found:
        time = one.latencies["eager"]
        assert (time.threads, time.batch, time.runtime) == (1, 1, "torch eager")
        assert time.median_ms > 0
    assert found[0].latencies["eager"].n == found[1].latencies["eager"].n


def test_the_command_prints_json_and_writes_a_page_with_a_picture_for_macs_and_for_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "zoo.html"
    line = f"slimcnn zoo shufflenet_v2 as_resnet_w32 --runtimes eager --seconds 0 --threads 1 --json --out {out}"
    assert run(line, monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["network"] for one in told} == {"shufflenet_v2", "as_resnet_w32"}
    active = next(one for one in told if one["network"] == "as_resnet_w32")
    assert (active["params"], active["published"]["top1"], active["family"]) == (901_256, 64.1, "shift")
    page = out.read_text()
    assert page.count("<svg") == 2
    assert "Top-1 against MACs" in page
    assert "Top-1 against torch eager" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)


def test_a_runtime_that_is_not_there_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("slimcnn zoo igcv3 --runtimes tflite", monkeypatch) == 2
    error = capsys.readouterr().err
    assert "runtime 'tflite' is not installed: choose from eager" in error
    assert run("slimcnn zoo mobilnet", monkeypatch) == 2


def test_what_is_shown_are_the_counts_and_times_themselves() -> None:
    slow, fast = (
        Latency(
            median_ms=ms,
            lower_ms=ms,
            upper_ms=ms,
            relative=1.0,
            relative_lower=1.0,
            relative_upper=1.0,
            n=5,
            batch=1,
            threads=2,
            runtime="torch eager",
            device="a chip",
        )
        for ms in (20.25, 10.5)
    )
    one = Published("igcv3", {}, "3.5 M", "", 70.6, "authors", "counted otherwise")
    two = Published("fe_net", {"width": 1.375}, "5.9 M", "563 M", 75.0, "paper")
    view = view_of([Compared(one, "spatial", 3_491_688, 337_000_000, {"eager": slow}),
                    Compared(two, "shift", 5_900_000, 563_000_000, {"eager": fast})])  # fmt: skip
    pictures, here, said = view.sections
    assert here.blocks[0].rows == (
        ("igcv3", 3_491_688, 337_000_000, 70.6, 20.25),
        ("fe_net width=1.375", 5_900_000, 563_000_000, 75.0, 10.5),
    )
    assert "a chip, 2 threads, batch 1" in here.blocks[1].text
    assert said.blocks[0].rows[0] == ("igcv3", "spatial", "3.5 M", None, "authors")
    assert said.blocks[1].text == "igcv3: counted otherwise."
    assert pictures.blocks[0].data["networks"][1]["milliseconds"] == [10.5]


def test_eighty_columns_are_enough_for_three_runtimes_and_the_longest_name() -> None:
    time = Latency(1234.5, 1.0, 1.0, 1.0, 1.0, 1.0, 5, 1, 1, "torch eager", "a chip")
    times = {"eager": time, "onnxruntime": time, "openvino": time}
    row = Published("shufflenet_v2", {"width": 0.5}, "1.95 M", "0.84 G", 65.4, "megvii's repository; 60.55 torchvision")
    here = view_of([Compared(row, "spatial", 9_999_999, 999_900_000, times)]).sections[1]
    written = io.StringIO()
    Console(file=written, width=80).print(*tables([here]))
    heading = next(line for line in written.getvalue().splitlines() if "params" in line)
    assert heading.split() == ["network", "params", "MACs", "top-1,", "%", "eager", "onnxruntime", "openvino"]
    assert "shufflenet_v2 " in written.getvalue()
    assert "width=0.5 " in written.getvalue()
    assert written.getvalue().count("1234.5") == 3


def test_names_from_outside_are_escaped() -> None:
    time = Latency(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5, 1, 1, "<em>", "<b>here")
    row = Published("<b>x", {}, "<i>p", "", 50.0, "<u>s", "<s>n")
    view = view_of([Compared(row, "shift", 1, 2, {"eager": time})] * 2)
    page = render_page(view.title, view.headline, view.sections)
    assert not re.search(r"<b>|<i>p|<u>s|<s>n|<em>", page)
