"""A headless Chromium that a test drives: the DevTools protocol over a pipe, JSON ended by a zero byte."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()
LAUNCH = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
"""Chromium reads commands from descriptor 3 and answers on descriptor 4."""


class Tab:
    """One page; `console` collects what it says and every error that it does not catch."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.number, self.rest, self.session = 0, b"", ""
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, seconds: float = 60, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        end = monotonic() + seconds
        while True:
            found = self._next(end - monotonic())
            assert found is not None, f"{method}: no answer in {seconds} s"
            if found.get("id") == self.number:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], max(seconds, 0))[0]:
                return None
            block = os.read(self.answers, 1 << 20)
            assert block, "the browser ended"
            self.rest += block
        message, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        kind, about = event.get("method"), event.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in about["args"]))
        elif kind == "Runtime.exceptionThrown":
            self.console.append(json.dumps(about["exceptionDetails"]))
        elif kind == "Log.entryAdded":
            self.console.append(about["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def visit(self, address: str) -> None:
        """Go to an address; does not wait for what the page does then."""
        self("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page and give its value."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true; say what the console said if it never is."""
        end = monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert monotonic() < end, f"{condition} is not true after {seconds} s: {self.console}"
            self._pause()

    def _pause(self) -> None:
        event = self._next(0.05)
        if event is not None:
            self._note(event)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def picture(self, path: Path, width: int, dark: bool = False) -> None:
        """Save a picture of the whole page."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=scheme)
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        path.write_bytes(b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


def browser() -> str | None:
    """The path of a browser on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def tab(program: str, profile: Path) -> Iterator[Tab]:
    """Start a browser with one page; it ends with the block."""
    inner, outer = os.pipe(), os.pipe()
    # Away from 3 and 4, which the launcher overwrites one after the other.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (inner[0], outer[1])]
    command = [sys.executable, "-S", "-c", LAUNCH, *map(str, theirs), program, *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for end in (inner[0], outer[1], *theirs):
            os.close(end)
        try:
            page = Tab(inner[1], outer[0])
            yield page
            page.session = ""
            page("Browser.close")
        finally:
            for end in (inner[1], outer[0]):
                os.close(end)
            process.kill()
