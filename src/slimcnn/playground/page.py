"""Write the page: one self-contained HTML file with the networks, the runtime and the images.

A page opened from disk cannot read other files, such as WebAssembly or ONNX. So everything is embedded as base64 (the
runtime compressed, 4.9 MB). The page opens with a double click, without a server, and can be sent by email.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimcnn.errors import ModelError
from slimcnn.files import replacing, write_text
from slimcnn.playground.contents import Playground
from slimcnn.playground.runtime import BINARY, SCRIPT, VERSION
from slimcnn.reporting.formatting import size

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"
LARGEST = 300_000_000
"""Maximum bytes of all networks together; browsers limit strings to 512 MB."""


def write_playground(what: Playground, runtime: Mapping[str, bytes], folder: Path) -> Path:
    """Write the page and each network as an ONNX file into a folder; return the page's path.

    Args:
        what: content of the page.
        runtime: the files of `browser_runtime()`.
        folder: the output folder.

    Raises:
        RunError: the folder cannot be written to.
        ModelError: the networks are too large for a page.
    """
    page = render_playground(what, runtime)
    for network in what.networks:
        with replacing(folder / f"{network.title.replace(', ', '_')}.onnx") as temporary:
            temporary.write_bytes(network.onnx)
    write_text(folder / PAGE, page)
    return folder / PAGE


def render_playground(what: Playground, runtime: Mapping[str, bytes]) -> str:
    """Return the page as text; all content is escaped, and the output is deterministic."""
    whole = sum(len(network.onnx) for network in what.networks)
    if whole > LARGEST:
        raise ModelError(f"the networks have {size(whole)}: a page holds at most {size(LARGEST)}")
    script = (Path(__file__).parent / "templates" / "playground.js").read_text(encoding="utf-8")
    return _environment().get_template("playground.html").render(
        what=what,
        script=script,
        script_digest=_base64(sha256(script.encode()).digest()),
        settings=_settings(what),
        data=[
            ("runtime-script", _base64(runtime[SCRIPT])),
            ("runtime-binary", _packed(runtime[BINARY])),
            *((f"network-{number}", _base64(network.onnx)) for number, network in enumerate(what.networks)),
        ],
        version=VERSION,
    )  # fmt: skip


def _settings(what: Playground) -> dict[str, Any]:
    """Settings for the page's script."""
    return {
        "input": what.input,
        "mean": what.normalization.mean,
        "std": what.normalization.std,
        "resize": what.scaling.resize,
        "interpolation": what.scaling.interpolation,
        "classes": what.classes,
        "networks": [network.title for network in what.networks],
        "samples": [{"png": _base64(sample.png), "label": sample.label} for sample in what.samples],
    }


@lru_cache(maxsize=1)
def _packed(binary: bytes) -> str:
    """Compress the runtime; cached, because it is slow and the same for all pages."""
    return _base64(gzip.compress(binary, 6, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


@cache
def _environment() -> Environment:
    """Templates of the playground and of the reports, whose style sheet the page shares."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("slimcnn.playground"), PackageLoader("slimcnn.reporting")]),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["size"] = size
    return environment
