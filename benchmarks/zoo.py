"""The zoo: prune every network with three libraries, each in its own process, and check all results with one judge.

Results are lines in zoo/LIBRARY.jsonl. Existing results are not run again, so a sweep can be stopped and resumed at any
time. `--again LIBRARY` first deletes that library's results (for the selected networks).

    pip install timm torch-pruning==1.6.1 torch-kirigami==0.2.1
    python benchmarks/zoo.py                                  # the sweep, and the page
    python benchmarks/zoo.py --libraries slimcnn --only 'timm:res*'
    python benchmarks/zoo.py --again slimcnn
    python benchmarks/zoo.py --table                          # only the page, from existing results

    pip install segmentation-models-pytorch transformers pytorchcv
    python benchmarks/zoo.py --packages                       # slimcnn on the networks of these packages
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import zoo_page
from torch import nn

import slimcnn
from slimcnn.files import write_text
from slimcnn.measuring import environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "oracles"))  # the judge shares no code with slimcnn; tests use it too
import zoo_law  # noqa: E402
import zoo_networks  # noqa: E402
import zoo_packages  # noqa: E402
from zoo_libraries import LIBRARIES  # noqa: E402

Result = dict[str, Any]


def examine(library: str, network: str, tell: Callable[[Result], None]) -> None:
    """Build, prune, measure and judge one network with one library; report the result so far after every stage."""
    result: Result = {"stage": "build"}
    try:
        subject = zoo_networks.build(network)
        example, codes = subject.example, zoo_law.address(subject.model)
        whole = slimcnn.measure(subject.model, example).macs
        original = copy.deepcopy(subject.model)
        result |= {"size": example.shape[-1], "macs": whole, "stage": "cut"}
        tell(result)
        small, facts = LIBRARIES[library](subject)
        del subject  # frees memory: the largest network needs nearly all of it
        result |= facts | {"stage": "run"}
        tell(result)
        left = slimcnn.measure(small, example).macs
        if isinstance(small, zoo_networks.Detector):
            result["detects"] = _detects(small, example)
        result |= {"macs_left": left / whole, "stage": "judge"}
        tell(result)
        norms = _cut_norms(original, small)
        judgment = zoo_law.judge(original, small, codes, example)
        result |= {"error": judgment.error, "change": judgment.change, "dtype": judgment.dtype}
        result |= _outcome(judgment, left == whole, norms, result)
        if network in zoo_packages.names():
            result |= _at_larger_size(original, small, example, judgment.dtype, result["outcome"])
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = first.replace(f"{Path(torch.__file__).parents[1]}/", "")[:300]
        result |= {"outcome": "crash", "message": f"{type(error).__name__}: {said}"}
        result |= {"place": f"{Path(place.filename).name}, {place.name}"}
    tell(result)


def _outcome(judgment: zoo_law.Judgment, uncut: bool, norms: list[str], result: Result) -> Result:
    if judgment.note:
        return {"outcome": "crash", "message": judgment.note}
    if uncut:
        return {"outcome": "nothing cut" if judgment.equal else "wrong"}
    if result.get("own_equal", judgment.equal) != judgment.equal:
        return {"outcome": "wrong", "message": f"the judge and slimcnn's own check disagree: {result['own_verdict']}"}
    if judgment.equal:
        vacuous = judgment.change < 1e-6
        return (
            {"outcome": "exact", "message": "the removed channels had no influence"}
            if vacuous
            else {"outcome": "exact"}
        )
    return {"outcome": "norm", "message": norms[0]} if norms else {"outcome": "wrong"}


def _at_larger_size(masked: nn.Module, small: nn.Module, example: torch.Tensor, dtype: str, outcome: str) -> Result:
    """Compare the masked and the pruned network at another image size than the traced one, if the network accepts it."""
    image = zoo_networks.larger(example)
    facts: Result = {"larger": list(image.shape[-2:])}
    try:
        zoo_law.error_at(masked, masked, image, dtype)
    except Exception as error:
        return facts | {"larger_refused": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
    facts["larger_error"] = zoo_law.error_at(masked, small, image, dtype)
    if facts["larger_error"] < zoo_law.TOLERANCE[getattr(torch, dtype)] or outcome == "norm":
        return facts
    return facts | {"outcome": "wrong", "message": f"wrong for images of {facts['larger']} pixels"}


def _cut_norms(original: nn.Module, small: nn.Module) -> list[str]:
    """Return the pruned layers with statistics over channels: no cut through them can be exact."""
    before = {
        name: [tuple(p.shape) for p in module.parameters(recurse=False)] for name, module in original.named_modules()
    }
    return [
        f"{name}: {type(module).__name__}"
        for name, module in small.named_modules()
        if _over_channels(module) and [tuple(p.shape) for p in module.parameters(recurse=False)] != before.get(name)
    ]


def _over_channels(module: nn.Module) -> bool:
    kinds = {parent.__name__ for parent in type(module).__mro__}
    over = ("LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm", "SimpleNorm", "EvoNorm2dS0", "GlobalResponseNorm")
    return any(kind.startswith(over) for kind in kinds) or any("Std" in kind and "Conv" in kind for kind in kinds)


def _detects(wrapper: zoo_networks.Detector, example: torch.Tensor) -> str:
    """Run the whole detector on one image; return the shapes of its outputs."""
    detector: Any = wrapper.detector
    found = detector.eval()([example[0]])[0]
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())


def child(library: str, network: str, memory: int, answers: Connection) -> None:
    """Run one examination in a child process with limits, and send its results."""
    gc.freeze()  # a collection would copy the parent's memory page by page, within the measured time
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory << 30, memory << 30))
    examine(library, network, answers.send)
    answers.close()


def run(library: str, network: str, seconds: int, memory: int) -> Result:
    """Examine in a child process; kill it after the time limit."""
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(library, network, memory, theirs), daemon=True)
    began = time.monotonic()
    process.start()
    theirs.close()
    result: Result = {}
    try:
        while mine.poll(seconds):
            result = mine.recv()
        result |= {
            "outcome": "timeout",
            "message": f"no end of the stage {result.get('stage', 'build')!r} after {seconds} s",
        }
    except EOFError:
        process.join(5)
        if "outcome" not in result:
            result |= {"outcome": "crash", "message": f"the process exited with code {process.exitcode}"}
    process.kill()
    process.join()
    return {"network": network, "library": library} | result | {"wall_seconds": round(time.monotonic() - began, 1)}


def read(folder: Path, library: str) -> dict[str, Result]:
    """Read a library's results, the last line of every network; truncated lines are ignored."""
    known = {}
    path = folder / f"{library}.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            known[row["network"]] = row
    return known


def write(folder: Path, library: str, known: dict[str, Result]) -> None:
    order = {name: i for i, name in enumerate([*zoo_networks.names(), *zoo_packages.names()])}
    rows = sorted(known.values(), key=lambda row: order.get(row["network"], len(order)))
    write_text(folder / f"{library}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def sweep(libraries: list[str], networks: list[str], folder: Path, options: argparse.Namespace) -> None:
    """Run the missing examinations, `jobs` at a time, and write every result immediately."""
    known = {library: read(folder, library) for library in libraries}
    todo = [(library, network) for network in networks for library in libraries if network not in known[library]]
    lock, began = Lock(), time.monotonic()

    def one(number: int, library: str, network: str) -> None:
        result = run(library, network, options.seconds, options.memory)
        with lock:
            known[library][network] = result
            write(folder, library, known[library])
            print(f"{number + 1}/{len(todo)} {time.monotonic() - began:6.0f} s  {zoo_page.line(result)}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(one, number, *job) for number, job in enumerate(todo)]:
            done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns on names like timm:resnet18")
    parser.add_argument("--again", choices=LIBRARIES, help="delete the results of this library and run it alone")
    parser.add_argument("--seconds", type=int, default=120, help="limit for each stage: build, cut, run, judge")
    parser.add_argument("--memory", type=int, default=18, help="limit for one process, in GiB")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes, each with one thread")
    parser.add_argument("--folder", type=Path, default=HERE / "zoo")
    parser.add_argument("--table", action="store_true", help="write the page only")
    parser.add_argument("--packages", action="store_true", help="slimcnn alone, on the networks of other packages")
    options = parser.parse_args()
    loaded = ["segmentation_models_pytorch", "transformers.modeling_utils", "pytorchcv.model_provider"]
    loaded = loaded if options.packages else ["torch_pruning", "torch_kirigami"]
    multiprocessing.set_forkserver_preload(["__main__", "timm", "torchvision", "slimcnn.pruning", *loaded])
    known_names = zoo_packages.names() if options.packages else zoo_networks.names()
    networks = [name for name in _installed(known_names) if any(fnmatchcase(name, only) for only in options.only)]
    results = options.folder / "packages" if options.packages else options.folder
    libraries = [options.again] if options.again else ["slimcnn"] if options.packages else options.libraries
    if options.again:
        known = read(results, options.again)
        write(results, options.again, {n: row for n, row in known.items() if n not in networks})
    if not options.table:
        sweep(libraries, networks, results, options)
        known = _environments(results) | dict.fromkeys(libraries, _circumstances(options))
        write_text(results / "environment.json", json.dumps(known, indent=1) + "\n")
    write_text(options.folder.with_suffix(".md"), _page(options.folder))


def _installed(names: list[str]) -> list[str]:
    """Leave out the networks of packages that are not installed, and say so."""
    missing = zoo_packages.missing_packages()
    for prefix, package in missing.items():
        count = sum(name.startswith(f"{prefix}:") for name in names)
        if count:
            print(f"{package} is not installed: {count} networks {prefix}:... are not run", flush=True)
    return [name for name in names if name.partition(":")[0] not in missing]


def _page(folder: Path) -> str:
    others = folder / "packages"
    return zoo_page.page(
        (zoo_networks.names(), {library: read(folder, library) for library in LIBRARIES}, _environments(folder)),
        (zoo_packages.names(), {"slimcnn": read(others, "slimcnn")}, _environments(others)),
    )


def _environments(folder: Path) -> dict[str, Result]:
    """Return the circumstances of each library's last sweep."""
    path = folder / "environment.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _circumstances(options: argparse.Namespace) -> Result:
    names = ["timm", "torch-pruning", "torch-kirigami"]
    if options.packages:
        names = ["timm", "segmentation-models-pytorch", "transformers", "pytorchcv"]
    packages = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    limits = {"threads": 1, "processes": options.jobs, "seconds": options.seconds, "gigabytes": options.memory}
    return environment() | packages | limits


if __name__ == "__main__":
    main()
