"""No command line ends in a traceback or hangs: lines are drawn from the commands' own signatures.

Each runs in a fork of this process. The lines are the same in every run; with the environment variable FUZZ set, new
ones are drawn.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
import traceback
import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

import pytest
import torch
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import slimcnn
from slimcnn.cli import main
from slimcnn.cli.app import app
from slimcnn.running import recipe_from, run

LINES = 500
INTERRUPT, AGAIN, HANG = 10, 5, 60
"""Seconds after which a line is interrupted as by Ctrl-C, how often then, and after which it counts as hanging.

Libraries swallow some interrupts; a user presses Ctrl-C again.
"""

MEMORY = 12 * 2**30
"""Bytes that a line may allocate."""

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CALLED = {one.name or str(one.callback.__name__): one.callback for one in app.registered_commands if one.callback}

FILES = "net.safetensors weights.safetensors run run/report.json run/plan.json run/recipe.toml run/model.onnx".split()
BAD_FILES = ["nowhere", "empty", "text.txt", "pictures", "/dev/null", "", ".", "nowhere/deep", "text.txt/below"]

PLAUSIBLE: dict[str, list[str]] = {
    "model": ["resnet8", "resnet20", "torchvision:squeezenet1_0", "timm:no_such", "json:loads", "builtins:list"],
    "data": ["digits", "pictures", "digits:pictures", "cifar10", "nowhere"],
    "arg": ["in_channels=1", "num_classes=10", "num_classes=0", "width=-1", "shortcut=B", "nothing=1"],
    "input": ["1x8x8", "3x32x32", "1x1x1", "0x8x8", "8", "1x8", "3x224", "x", "1x100000x100000"],
    "criterion": ["l1", "l2", "fpgm", "taylor", "random", "gfr", "fpdf:bins=4", "fpdf:bins=0", "l2:x=1", ":", "l3"],
    "size": ["20kB", "1MiB", "0", "-1kB", "1e400B", "1"],
    "latency": ["0.5", "0.4ms", "-1ms", "nan", "inf", "0", "1e-9ms", "2"],
    "runtime": ["torch", "onnxruntime", "openvino", "torch,torch", "torch_compile", ",", "tpu"],
    "curve": ["0.8,0.5", "0", "1,1", "nan", "0.5,", "2"],
    "scope": ["local", "global", "sensitivity", "nowhere"],
    "residual": ["inner", "cut", "scatter", "auto", "all"],
    "protect": ["layer1", "layer1.*", "layr1", "linear", "[", "*"],
    "recover": ["none", "recalibrate", "least_squares:images=20", "train", "fold_constants+train", "+", "prune:"],
    "method": ["gfr", "magic"],
    "storage": ["sqlite:///search.db", "points.log", "nonsense://x", "sqlite:////nowhere/search.db", "://"],
    "to": ["none", "onnx", "torchscript", "onnx,onnx", ",", "tape"],
    "loss": ["kd", "cross_entropy", "0.1*cross_entropy+0.9*kd:temperature=4", "kd:temperature=0", "-1*kd", "*", "kd+"],
    "rewrite": ["feature_reuse", "feature_reuse:variant=chain", "feature_reuse:variant=odd", "relations", "scatter"],
    "init": ["reuse", "random", "magic"],
    "steps": ["prune:macs=0.5", "prune + recalibrate", "train:epochs=1", "recalibrate", "prune:", "prune +",
              "export:to=none", "least_squares:images=20", "prune:search.max_drop=50", "walk"],
    "set": ["latency_seconds=0.01", "prune.batches=1", "prune.nothing=1", "=", "a=b", "network.model=1", "steps=1",
            "data.limit=NaN", "out=3", "1.batches=[]", "data={}", "prune.per_layer={}", "data.seed=-1"],
    "part": ["test", "validation", "train", "all"],
    "criteria": ["l1,l2", "l2", ",", "l3"],
    "kind": ["all", "criteria", "networks", "nothing"],
    "batch": ["1", "1,2", "0", "-1", "x", "100000000"],
    "threads": ["1", "1,2", "0", "1000000"],
    "names": ["shiftnet_a", "mobilenet_v2", "resnet8", "nothing"],
    "engine": ["nncf", "onnxruntime", "steam"],
    "import": ["json", "no_such_module", "os.path", "", "slimcnn.nothing"],
    "devices": ["1", "x", "1.5"],  # more would start this file again in other processes
    "manifest": ["0" * 64, "x"],
    "epochs": ["1", "0", "-1", "2", "100000"],
    "seconds": ["0", "0.1", "-1", "nan"],
    "samples": ["1", "0", "100", "101"],
    "images": ["1", "20", "0", "100000000"],
    "image_size": ["8", "1", "0", "-3", "30000"],
    "limit": ["20", "10", "1", "0", "-1", "100000000"],
    "opset": ["18", "1", "-1", "100"],
    "port": ["0", "-1", "99999"],
    "processes": ["0", "1", "-1"],
}  # fmt: skip
"""Values of options, by the end of their names; for all others, by type."""

BASE = {
    "compress": "--model resnet8 --limit 20 --to none --set latency_seconds=0.01 --weights weights.safetensors",
    "train": "--model resnet8 --limit 20 --epochs 1 --set latency_seconds=0.01 --deterministic",
    "distill": "--teacher-weights net.safetensors --student resnet8 --limit 20 --epochs 1 --set latency_seconds=0.01",
    "rewrite": "--weights net.safetensors --limit 20 --set latency_seconds=0.01",
    "run": "run/recipe.toml --out run",
    "evaluate": "--weights net.safetensors --limit 20",
    "benchmark": "net.safetensors --seconds 0 --runtime torch --processes 0",
    "closeness": "net.safetensors --limit 20",
    "export": "net.safetensors --images 2",
    "quantize": "net.safetensors --images 2",
    "zoo": "squeezenet1_1 --runtimes eager --seconds 0",
    "show": "run --no-open",
    "search": "--join run",
    "report": "run",
    "verify": "run",
    "inspect": "--weights net.safetensors",
    "norms": "--weights net.safetensors",
    "measure": "--weights net.safetensors",
}
"""Arguments with which a command works, before options are added."""


def kind_of(name: str, option: str) -> type:
    """The type of an option: int, float, str, bool or Path."""
    hint = get_type_hints(CALLED[name])[option]
    while get_args(hint):
        hint = get_args(hint)[0]  # of X | None, list[X], and lists that may be None
    return hint  # type: ignore[no-any-return]


def values(option: str, kind: type) -> st.SearchStrategy[str]:
    """Plausible, extreme and wrong values of an option."""
    by_length = sorted(PLAUSIBLE, key=len, reverse=True)
    known = next((PLAUSIBLE[key] for key in by_length if option.rstrip("_").endswith(key)), None)
    wrong = ["", "x", "-", "nan", "1e999", "层🙂", "a" * 5000, "--", "[bold]", "%s{}"]
    if known is not None:
        return st.sampled_from([*known] * 3 + wrong)
    if kind is Path:
        return st.sampled_from(FILES * 2 + BAD_FILES)
    if kind is int:
        return st.sampled_from(["1", "2", "3", "8", "0", "-1", str(2**31), str(2**63), str(10**30), "1.5", "x", ""])
    if kind is float:
        return st.sampled_from("0.5 0.9 0.1 1e-12 -1 0 1 1e308 nan inf -inf x".split())
    return st.sampled_from([*FILES, *wrong])


@st.composite
def lines(draw: DrawFn) -> list[str]:
    """A command with some of its options."""
    name = draw(st.sampled_from(sorted(CALLED)))
    line = shlex.split(BASE.get(name, "")) if draw(st.integers(0, 9)) < 7 else []
    options = [one for one in COMMANDS[name].params if one.name != "help"]
    for option in draw(st.lists(st.sampled_from(options), max_size=4, unique=True)):
        if getattr(option, "is_flag", False):
            line.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
            continue
        for _ in range(draw(st.integers(1, 2))):
            value = draw(values(option.name, kind_of(name, option.name)))
            line += [option.opts[0], value] if option.opts[0].startswith("-") else [value]
    if draw(st.integers(0, 30)) == 0:
        line += ["--import", draw(values("import", str))]
    if draw(st.integers(0, 30)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(st.sampled_from(["--help", "--nothing", "-x", "extra"])))
    return [name, *line]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that lines can name."""
    home = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    slimcnn.save(slimcnn.build("resnet8", in_channels=1), home / "net.safetensors", information={
        "dataset": "digits", "classes": list("0123456789"), "input": [1, 8, 8],
        "normalization": {"mean": [0.5], "std": [0.5]},
    })  # fmt: skip
    from safetensors.torch import save_file

    save_file(slimcnn.build("resnet8", in_channels=1).state_dict(), home / "weights.safetensors")
    (home / "empty").touch()
    (home / "text.txt").write_text("some text")
    (home / "pictures" / "cats").mkdir(parents=True)
    (home / "pictures" / "cats" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    plain: dict[str, Any] = {
        "network": {"weights": str(home / "net.safetensors")}, "data": {"name": "digits", "limit": 20},
        "steps": [{"step": "prune", "batches": 1}, {"step": "recalibrate", "images": 20}],
        "deterministic": True, "latency_seconds": 0.01, "out": str(home / "run"),
    }  # fmt: skip
    run(recipe_from(plain))
    return home


def child(line: list[str], folder: Path, said: Path) -> None:
    """Run a line in this process, which a fork made for it: no network, no browser, limited memory."""
    os.chdir(folder)
    os.environ["SLIMCNN_CACHE"] = str(folder / "cache")
    socket.socket.connect = socket.getaddrinfo = _no_network  # type: ignore[assignment, method-assign]
    webbrowser.open = lambda *_, **__: False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    sys.argv = ["slimcnn", *line]
    with said.open("w", buffering=1) as file:  # from here on, this process may be interrupted
        sys.stdout = sys.stderr = file
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        file.flush()
        os._exit(code if isinstance(code, int) else 98)


def ended(line: list[str], files: Path) -> tuple[int, str]:
    """Run a line in a fork with a folder of its own; its exit code (negative: a signal) and what it said."""
    with TemporaryDirectory() as folder, TemporaryDirectory() as log:
        said = Path(log) / "said"
        shutil.copytree(files, folder, dirs_exist_ok=True)
        number = os.fork()
        if number == 0:
            child(line, Path(folder), said)
        start, interrupted = time.monotonic(), 0.0
        while True:
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")
            if not said.exists():  # on a busy machine, a fork may need seconds to begin
                start = time.monotonic()
            now = time.monotonic() - start
            if now > HANG:
                os.kill(number, signal.SIGKILL)
            elif now > INTERRUPT and now - interrupted > AGAIN:
                os.kill(number, signal.SIGINT)
                interrupted = now
            time.sleep(0.02)


def _no_network(*_: object, **__: object) -> None:
    raise OSError(101, "Network is unreachable")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=LINES, deadline=None, derandomize="FUZZ" not in os.environ, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(line=lines())
def test_every_command_line_ends_well_or_with_one_line(line: list[str], files: Path) -> None:
    code, said = ended(line, files)
    shown = f"slimcnn {shlex.join(line)}\nexit code {code}\n{said[-3000:]}"
    assert code in (0, 2, 130) or (code == 1 and line[0] == "verify"), shown
    assert "Traceback" not in said, shown
    if code == 2:
        told = said.rpartition("slimcnn: ")[2] if "slimcnn: " in said else ""
        assert ("\n" not in told.rstrip("\n") and told) or "Usage: " in said, shown
