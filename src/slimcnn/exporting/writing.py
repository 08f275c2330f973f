"""Export a network to runtime files; run each file in a fresh process and compare it with the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError, SlimcnnError
from slimcnn.exporting.detection_parity import check_detections, detections
from slimcnn.exporting.exported import ExportedFile, record, refuse_another
from slimcnn.exporting.format import Contents, FileFormat, Options, facts_of, formats
from slimcnn.exporting.parity import AT_ONCE, Parity, answers, check_parity, plain
from slimcnn.exporting.preparing import (
    FlatCall,
    PerChannel,
    copied,
    example_and_outputs,
    inputs_of,
    prepare,
    reason_of,
    unknown_operation,
)
from slimcnn.exporting.quiet import quiet
from slimcnn.exporting.runtimes import Opened, open_in, why_not
from slimcnn.exporting.source import file_digest, source_digest
from slimcnn.files import part_of, write_text
from slimcnn.measuring.examples import Example, batch_size

RANDOM = 16
"""Number of random samples for the comparison if no images are given."""

CompareFile = Callable[[str, Path, Sequence[Tensor], int], Parity]
"""Runtime, file, input tensors and batch size → how closely the file's outputs match the network's."""


def export(
    model: nn.Module,
    example: Example,
    to: str | Sequence[str] = ("onnx",),
    *,
    out: Path | str,
    images: Tensor | Sequence[Tensor] | None = None,
    classes: Sequence[str] = (),
    normalization: PerChannel | None = None,
    bake_normalization: bool = False,
    scaling: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    opset: int = 18,
    compared_on: str = "",
    classifies: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[ExportedFile, ...]:
    """Export a network to runtime files and check that each file reproduces the network's outputs.

    Every file runs in a fresh process that cannot import slimcnn (nor PyTorch, if the runtime works without it). The
    largest relative error and the top-1 agreement are written to `OUT/parity.json`.

    The file of a detector (images (c, h, w) in, a dict of boxes, labels and scores for each image out) takes one image
    (1, c, h, w) and returns the tensors of its dict. The images of the comparison should contain objects that it finds.

    Args:
        model: any network; it is not changed.
        example: one tensor (n, c, h, w), a sequence of arguments, a mapping of keyword arguments, or a list of images
            (c, h, w) of which the first is taken, with the shapes and types of the inputs.
        to: format names (`slimcnn list formats`).
        out: the output folder; files are named model.onnx, model.xml ...
        images: real samples to compare on: as the network expects them, or uint8 pixels with a normalization; for
            several inputs, a sequence of tensors. None: 16 random samples.
        classes: class names, stored in the file.
        normalization: x = (pixels / 255 - mean) / std, stored in the file.
        bake_normalization: include the normalization in the graph, which then takes uint8 pixels.
        scaling: how pictures of any size became images, such as {"resize": 256, "interpolation": "bilinear"} (then the
            center is cropped), stored in the file.
        dynamic_batch: accept any batch size, if the runtime supports it; otherwise only that of the example. The file
            of a detector takes one image.
        dynamic_size: accept images of any height and width.
        opset: ONNX opset version.
        compared_on: description of the images, for parity.json.
        classifies: whether an output (n, k) holds scores of classes, so that top-1 is compared too.
        force: replace the export of another network.
        say: called with one line of text per file.

    Raises:
        UnknownName: the format is unknown.
        ExportError: a package is missing, an option or an operation is not supported, or a file's outputs differ from
            the network's; that file is kept as model.mismatch.onnx.
        ModelError: the network does not accept the example.

    >>> import tempfile
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> (file,) = export(net, torch.zeros(1, 3, 8, 8), ["onnx"], out=tempfile.mkdtemp())
    >>> file.path.name, file.parity.status, file.parity.max_error < 1e-5
    ('model.onnx', 'equal', True)
    """
    names = [to] if isinstance(to, str) else list(dict.fromkeys(to))
    options = Options(dynamic_batch, dynamic_size, opset)
    chosen = {name: formats[name].value() for name in names}
    if bake_normalization and normalization is None:
        raise ExportError(
            "bake_normalization needs a normalization: give normalization=, or --data on the command line"
        )
    for name, one in chosen.items():
        one.check(name, options, bake_normalization)
    folder, source = Path(out), source_digest(model)
    refuse_another(folder, source, force)
    baked = normalization if bake_normalization else None
    plain_model = _on_cpu(model)
    example, detected = example_and_outputs(plain_model, example)
    if detected:
        _refuse_for_detectors(chosen, dynamic_batch, say)
    inputs = samples_of(example, images, normalization, bake_normalization, from_0_to_1=bool(detected))
    check = _check_of(FlatCall(plain_model, example, baked), inputs, detected, classifies)
    facts = _facts(model, inputs_of(example), source, classes, normalization, options, bake_normalization)
    facts |= {"outputs": list(detected), "input": [1, *facts["input"][1:]]} if detected else {}
    facts |= {"scaling": dict(scaling)} if scaling else {}
    prepared: dict[bool, Contents] = {}
    written = []
    for name, one in chosen.items():
        batch = one.dynamic_batch and dynamic_batch and not detected
        # A converter uses up the symbols for numbers of detections, so that the next one needs a new graph.
        if batch not in prepared or detected:
            prepared[batch] = prepare(
                model,
                example,
                dynamic_batch=batch,
                dynamic_size=dynamic_size,
                normalization=baked,
                facts=facts_of(**facts),
                detected=detected,
            )
        contents = prepared[batch]
        at_once = AT_ONCE if batch else batch_size(example)
        usable = [one[: len(one) // at_once * at_once] for one in inputs] if not batch else inputs
        where = compared_on or ("random samples" if images is None else "the given images")
        known = facts | {"batch": "any" if batch else at_once, "compared_on": where}
        found = _write_checked(name, one, contents, options, folder, usable, check, at_once, known)
        say(f"  {name}: {found}")
        written.append(found)
    return tuple(written)


def write_model(
    model: nn.Module, example: Example, to: str, path: Path | str, detected: Sequence[str] | None = None, **options: Any
) -> tuple[Path, ...]:
    """Export a network in one format for timing, without checks; return the files, the one to open first.

    Args:
        model: any network; it is not changed.
        example: as for `export`.
        to: the format.
        path: the path without suffix, `DIR/model`.
        detected: what `example_and_outputs` returned with this example; None: the network is run to learn it.
        options: `dynamic_batch`, `dynamic_size`, `opset` (see `export`).

    Raises:
        ExportError, ModelError, UnknownName: as `export`.
    """
    chosen, settings = formats[to].value(), Options(**options)
    chosen.check(to, settings, pixels=False)
    batch = chosen.dynamic_batch and settings.dynamic_batch
    if detected is None:
        example, detected = example_and_outputs(_on_cpu(model), example)
    if detected:
        chosen.check_detector(to)
    contents = prepare(model, example, dynamic_batch=batch, dynamic_size=settings.dynamic_size, detected=detected)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(to, chosen, contents, path, settings)
    return chosen.files(path)


def transfer(model: nn.Module, example: Example, runtime: str, threads: int | None = None, **options: Any) -> Opened:
    """Open a network in a runtime, as a module; no file is kept and nothing is checked.

    Args:
        model: any network; it is not changed.
        example: as for `export`.
        runtime: a key of `RUNTIMES`.
        threads: CPU threads; None: as many as PyTorch uses.
        options: `dynamic_batch`, `dynamic_size`, `opset` (see `export`).

    Raises:
        ExportError, ModelError, UnknownName: as `export` and `open_in`.
    """
    reason = why_not(runtime)
    if reason:
        raise ExportError(reason)
    name = next(entry.name for entry in formats if entry.value.runtime == runtime)
    with TemporaryDirectory(prefix="slimcnn-", ignore_cleanup_errors=True) as folder:
        return open_in(runtime, write_model(model, example, name, Path(folder) / "model", **options)[0], threads)


def _refuse_for_detectors(chosen: Mapping[str, FileFormat], dynamic_batch: bool, say: Callable[[str], None]) -> None:
    """Raise `ExportError` for formats that cannot hold detectors; say what a file takes."""
    for name, one in chosen.items():
        one.check_detector(name)
    if dynamic_batch:
        say("  a detector: its files take one image at a time, (1, c, h, w)")


def _check_of(network: FlatCall, inputs: Sequence[Tensor], detected: Sequence[str], classifies: bool) -> CompareFile:
    """Run the network on the samples; return the comparison with it, of all samples or the first ones."""
    if detected:
        known = detections(network, inputs, detected)

        def check_images(runtime: str, path: Path, given: Sequence[Tensor], batch: int) -> Parity:
            return check_detections(runtime, path, given, network, known[: len(given[0])])

        return check_images
    expected = answers(network, inputs)

    def check(runtime: str, path: Path, given: Sequence[Tensor], batch: int) -> Parity:
        answered = [y[: len(given[0])] for y in expected]
        return check_parity(runtime, path, given, answered, batch=batch, classifies=classifies)

    return check


def _on_cpu(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    plain_ = all(t.device.type == "cpu" and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors)
    if plain_:
        return model
    return copied(model)


def samples_of(
    example: Example, images: Tensor | Sequence[Tensor] | None, normalization: PerChannel | None, pixels: bool,
    from_0_to_1: bool = False,
) -> list[Tensor]:  # fmt: skip
    """Return the samples to compare on: tensors with one row per sample.

    Without images they are drawn: from a normal distribution, uniformly `from_0_to_1`, or uint8 `pixels`.
    """
    like = inputs_of(example)
    if images is None:
        draw = torch.Generator().manual_seed(0)
        size = batch_size(example)
        n = -(-RANDOM // size) * size

        def drawn(x: Tensor, first: bool) -> Tensor:
            if pixels and first:
                return torch.randint(0, 256, (n, *x.shape[1:]), dtype=torch.uint8, generator=draw)
            if x.is_floating_point() and from_0_to_1:
                return torch.rand(n, *x.shape[1:], generator=draw)
            if x.is_floating_point():
                return torch.randn(n, *x.shape[1:], generator=draw)
            return x[torch.arange(n) % size]

        return [drawn(x, i == 0) for i, x in enumerate(like)]
    given = [images] if isinstance(images, Tensor) else list(images)
    if len(like) == 1 and given and all(x.dim() == 3 and x.shape == like[0].shape[1:] for x in given):
        given = [torch.stack(given)]  # a list of images (c, h, w)
    if len(given) != len(like) or any(a.shape[1:] != b.shape[1:] for a, b in zip(given, like, strict=True)):
        shapes = ["x".join(map(str, ("n", *x.shape[1:]))) for x in like]
        raise ExportError(
            f"images must have the shape of the example ({', '.join(shapes)}); found {[tuple(x.shape) for x in given]}"
        )
    first = given[0].detach().cpu()
    if pixels and first.dtype != torch.uint8:
        raise ExportError(f"images must be uint8 pixels with bake_normalization; found {first.dtype}")
    if first.dtype == torch.uint8 and not pixels and like[0].is_floating_point():
        if normalization is None:
            raise ExportError("the images are uint8 pixels: give the normalization that the network expects")
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (normalization.mean, normalization.std))
        first = (first.float() / 255 - mean) / std
    return [first, *(x.detach().cpu() for x in given[1:])]


def _facts(
    model: nn.Module, inputs: Sequence[Tensor], source: str, classes: Sequence[str], normalization: PerChannel | None,
    options: Options, pixels: bool,
) -> dict[str, Any]:  # fmt: skip
    """Metadata for the files and parity.json."""
    x = inputs[0]
    kind = "uint8 pixels" if pixels else str(x.dtype).removeprefix("torch.")
    layout = {4: "NCHW", 3: "NCL", 2: "NC"}.get(x.dim(), "")
    known = None if normalization is None else {"mean": list(normalization.mean), "std": list(normalization.std)}
    size = ["height", "width"] if options.dynamic_size and x.dim() == 4 else list(x.shape[2:])
    return {
        "source": source, "network": type(model).__name__, "classes": list(classes), "layout": layout,
        "input": ["n", *x.shape[1:2], *size], "dtype": kind,
        "normalization": known if not pixels else None,
        "normalization_baked_in": known if pixels else None,
        "opset": options.opset,
    }  # fmt: skip


def _write(name: str, one: FileFormat, contents: Contents, path: Path, options: Options) -> None:
    try:
        with quiet(), torch.no_grad():
            one.write(contents, path, options)
    except SlimcnnError:
        raise
    except Exception as error:
        unknown = unknown_operation(contents.program, error)
        if unknown:
            raise ExportError(
                f"{one.title} ({name}) does not support {unknown}: replace it, or choose another format"
            ) from error
        raise ExportError(f"{one.title} ({name}) cannot represent this network: {reason_of(error)}") from error


def _write_checked(
    name: str, one: FileFormat, contents: Contents, options: Options, folder: Path, inputs: Sequence[Tensor],
    check: CompareFile, at_once: int, facts: Mapping[str, Any],
) -> ExportedFile:  # fmt: skip
    """Write and check the files in a temporary folder, then move them to `folder`."""
    import json

    temporary = part_of(folder / f"export_{name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"cannot use {folder}: {error.strerror or error}; choose another --out") from error
    try:
        stem = temporary / "model"
        _write(name, one, contents, stem, options)
        made = one.files(stem)
        if not one.holds_facts:
            write_text(beside := made[0].with_name(made[0].name + ".json"), json.dumps(dict(facts), indent=1) + "\n")
            made = (*made, beside)
        parity = check(one.runtime, made[0], inputs, at_once)
        wrong = parity.status == "mismatch"
        places = tuple(
            _move(file, folder / file.name.replace("model.", "model.mismatch." if wrong else "model.", 1))
            for file in made
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = ExportedFile(
        name, one.runtime, places[0], places, sum(map(_size, places)), parity, str(facts["source"]), facts
    )
    if wrong:
        raise ExportError(f"the {one.title} file's outputs differ from the network's: {parity}; kept as {places[0]}")
    record(folder, name, entry_of(found))
    return found


def entry_of(found: ExportedFile) -> dict[str, Any]:
    """Return the entry of a file in parity.json."""
    facts = {key: value for key, value in found.facts.items() if key != "source"}
    files = {path.name: file_digest(path) for path in found.files}
    return plain(found.parity) | {
        "runtime": found.runtime, "files": files, "bytes": found.bytes, "source": found.source, "facts": facts,
    }  # fmt: skip


def _move(path: Path, to: Path) -> Path:
    if to.is_dir():
        shutil.rmtree(to)
    os.replace(path, to)
    return to


def _size(path: Path) -> int:
    return (
        sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
