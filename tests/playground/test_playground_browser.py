"""The page in a real browser: it answers what ONNX Runtime answers in Python, offline, from a file and served."""

from __future__ import annotations

import io
import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Tab, browser, tab
from PIL import Image
from tiny_networks import CLASSES, answers, fitted, playground

from slimcnn.datasets.scaling import Scaling
from slimcnn.playground import Playground, ShownNetwork, browser_runtime, served, write_playground

SHOWN = "document.body?.dataset.shown == {}"
TIMED = "document.body?.dataset.state == 'timed'"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with tab(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def runtime() -> dict[str, bytes]:
    return browser_runtime()


def opened(page: Tab, what: Playground, runtime: dict[str, bytes], folder: Path) -> Path:
    page.console.clear()
    page.requests.clear()
    file = write_playground(what, runtime, folder)
    page.visit(file.as_uri())
    return file


@pytest.fixture(scope="module")
def written(runtime: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> tuple[Playground, str]:
    """A page that several tests use, written once: what it shows, and its address."""
    what = playground()
    return what, write_playground(what, runtime, tmp_path_factory.mktemp("small")).as_uri()


@pytest.fixture
def small(page: Tab, written: tuple[Playground, str]) -> Playground:
    """That page, opened and done with its own work."""
    what, address = written
    if page.run("location.href") != address:
        page.visit(address)
        page.wait(TIMED)
    page.console.clear()
    return what


def shown(page: Tab, what: Playground) -> list[dict[int, float]]:
    """The classes and probabilities that the page lists for each network."""
    rows = "[...document.querySelectorAll('#answers-{} li')].map(row => [row.dataset.class, row.dataset.probability])"
    return [
        {int(place): float(share) for place, share in page.run(rows.format(number))}
        for number in range(len(what.networks))
    ]


def assert_answers(page: Tab, what: Playground, pixels: np.ndarray, within: float = 1e-4) -> None:
    for found, expected in zip(shown(page, what), answers(what, pixels), strict=True):
        assert list(found) == list(np.argsort(-expected)[:5])
        assert found == pytest.approx({place: expected[place] for place in found}, abs=within)


def drop(page: Tab, content: bytes, name: str, kind: str) -> None:
    """Drop a file on the page as a user does."""
    page.run(
        f"""(() => {{
          const bytes = Uint8Array.from(atob({b64encode(content).decode()!r}), c => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], {name!r}, {{ type: {kind!r} }}));
          document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer, bubbles: true, cancelable: true }}));
        }})()"""
    )


def seen(page: Tab, what: Playground) -> np.ndarray:
    """The pixels on the page's canvas, (c, h, w)."""
    channels, height, width = what.input
    values = page.run(
        f"[...document.getElementById('seen').getContext('2d').getImageData(0, 0, {width}, {height}).data]"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)[:, :, :channels].transpose(2, 0, 1)


def test_a_page_opened_as_a_file_answers_samples_and_a_dropped_photograph_as_onnx_runtime_does_in_python(
    page: Tab, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    from sklearn.datasets import load_sample_image

    what = playground(height=32, width=24)
    file = opened(page, what, runtime, tmp_path / "a folder with spaces, ü and #")
    page.wait(TIMED)
    assert_answers(page, what, fitted(Image.open(io.BytesIO(what.samples[0].png)), what))
    assert (file.parent / "compressed.onnx").read_bytes() == what.networks[1].onnx

    flower = Image.fromarray(load_sample_image("flower.jpg"))
    photograph = io.BytesIO()
    flower.save(photograph, "JPEG", quality=90)
    drop(page, photograph.getvalue(), "flower.jpg", "image/jpeg")
    page.wait(SHOWN.format(2))
    assert_answers(page, what, fitted(Image.open(photograph), what), within=1e-3)
    assert page.run("document.getElementById('seen').getAttribute('aria-label')") == "flower.jpg"

    page.run("document.querySelectorAll('#samples button')[2].click()")
    page.wait(SHOWN.format(3))
    assert_answers(page, what, fitted(Image.open(io.BytesIO(what.samples[2].png)), what))
    assert "of 3 images so far" in page.run("document.getElementById('details').textContent")

    for number in range(3):
        assert float(page.run(f"document.getElementById('time-{number}').textContent")) > 0
    assert "× " in page.run("document.getElementById('spread-1').textContent")
    assert page.console == []
    assert {address.partition(":")[0] for address in page.requests} == {"file", "data", "blob"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_chosen_image_of_any_size_becomes_the_pixels_that_slimcnn_reads(
    channels: int, page: Tab, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    what = playground(channels, height=16, width=12)
    opened(page, what, runtime, tmp_path)
    page.wait(TIMED)
    random = np.random.default_rng(0)
    sizes = [(12, 16), (16, 12), (47, 33), (5, 9), (1, 200), (300, 401), (24, 32), (12, 90)]
    for number, (width, height) in enumerate(sizes, 2):
        file = tmp_path / f"{width}x{height}.png"
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        image.save(file)
        page.choose("#file", file)
        page.wait(SHOWN.format(number))
        expected = fitted(image, what)
        assert np.array_equal(seen(page, what), expected), f"{width} x {height}"
    assert_answers(page, what, expected)


@pytest.mark.parametrize(
    "scaling", [Scaling(19, "bilinear"), Scaling(16, "bicubic"), Scaling(None, "bilinear")], ids=str
)
def test_an_image_is_scaled_as_the_run_scaled_its_images_and_a_test_image_is_not_scaled_twice(
    scaling: Scaling, page: Tab, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    what = playground(height=16, width=12, scaling=scaling)
    opened(page, what, runtime, tmp_path)
    page.wait(TIMED)
    sample = np.asarray(Image.open(io.BytesIO(what.samples[0].png))).transpose(2, 0, 1)
    assert np.array_equal(seen(page, what), sample)
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate([(12, 16), (47, 33), (5, 9), (300, 401), (90, 20)], 2):
        file = tmp_path / f"{width}x{height}.png"
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        image.save(file)
        page.choose("#file", file)
        page.wait(SHOWN.format(number))
        assert np.array_equal(seen(page, what), fitted(image, what)), f"{width} x {height}"


def test_a_photograph_from_a_camera_held_sideways_is_turned_upright(
    page: Tab, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    what = playground(height=16, width=16, n_samples=0)
    opened(page, what, runtime, tmp_path)
    page.wait("document.body?.dataset.state == 'ready'")
    image = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95, exif=exif)
    drop(page, content.getvalue(), "sideways.jpg", "image/jpeg")
    page.wait(SHOWN.format(1))
    found, upright = seen(page, what).astype(int), fitted(Image.open(content), what).astype(int)
    assert np.abs(found - upright).max() <= 2
    assert np.abs(found - fitted(image, what)).max() > 100, "turning makes no difference to this image"


def test_a_file_that_is_no_image_is_answered_in_words_and_the_next_image_as_usual(page: Tab, small: Playground) -> None:
    before = int(page.run("document.body.dataset.shown"))
    drop(page, b"Dear diary", "<i>diary</i>.txt", "text/plain")
    page.wait("!document.getElementById('problem').hidden")
    assert page.run("document.getElementById('problem').textContent").startswith(
        "<i>diary</i>.txt is not an image that"
    )
    drop(page, small.samples[1].png, "next.png", "image/png")
    page.wait(SHOWN.format(before + 1))
    assert page.run("document.getElementById('problem').hidden")
    assert page.console == []


def test_names_of_classes_are_text_and_never_markup(page: Tab, small: Playground) -> None:
    found = page.run("[...document.querySelectorAll('#answers-0 .class')].map(name => name.textContent)")
    assert found == [CLASSES[place] for place in shown(page, small)[0]]
    assert page.run("document.title") == "tiny on <noise>: side by side"
    assert page.run("document.querySelectorAll('main b, main noise, main script').length") == 0


def test_the_page_may_not_reach_any_network(page: Tab, small: Playground) -> None:
    script = "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.violatedDirective)); "
    assert page.run(script + "fetch('http://127.0.0.1:9/').catch(() => 0); })") == "connect-src"
    assert page.run(script + "document.createElement('img').src = 'http://127.0.0.1:9/'; })") == "img-src"


def test_networks_that_do_not_start_are_said_in_words(page: Tab, runtime: dict[str, bytes], tmp_path: Path) -> None:
    what = playground()
    broken = replace(what, networks=(what.networks[0], ShownNetwork("compressed", b"no network")))
    opened(page, broken, runtime, tmp_path)
    page.wait("document.body?.dataset.state == 'failed' && !document.getElementById('problem').hidden")
    assert "do not start in this browser" in page.run("document.getElementById('problem').textContent")


def test_the_served_page_answers_too_and_asks_for_nothing_else(
    page: Tab, runtime: dict[str, bytes], tmp_path: Path
) -> None:
    what = playground()
    write_playground(what, runtime, tmp_path)
    with served(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            page.requests.clear()
            page.visit(f"http://127.0.0.1:{server.server_port}/")
            page.wait(f"location.protocol == 'http:' && {TIMED}")
            assert_answers(page, what, fitted(Image.open(io.BytesIO(what.samples[0].png)), what))
            asked = [address for address in page.requests if address.startswith("http")]
            assert asked == [f"http://127.0.0.1:{server.server_port}/"]
        finally:
            server.shutdown()
            thread.join()


def test_nothing_sticks_out_sideways_on_a_phone_or_a_desk(page: Tab, small: Playground) -> None:
    for width in (320, 360, 1200):
        page("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        root = "document.documentElement"
        assert page.run(f"{root}.scrollWidth - {root}.clientWidth") == 0, width
    page("Emulation.clearDeviceMetricsOverride")


def test_all_can_be_reached_by_keyboard_and_pictures_have_a_text(page: Tab, small: Playground) -> None:
    before = int(page.run("document.activeElement.blur(), document.body.dataset.shown"))
    page.run("getSelection().removeAllRanges(), document.querySelector('h1').tabIndex = -1")
    page.run("document.querySelector('h1').focus()")
    reached = []
    for _ in range(5):
        for kind in ("keyDown", "keyUp"):
            page("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.run("document.activeElement.id || document.activeElement.title"))
    assert reached == ["file", *(f"Test image {i + 1}: {CLASSES[i]}" for i in range(3)), "again"]
    page("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9, modifiers=8)
    page("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.wait(SHOWN.format(before + 1))
    images = json.loads(page.run("JSON.stringify([...document.images].map(image => image.alt))"))
    assert images == [f"Test image {i + 1}: {CLASSES[i]}" for i in range(3)]
