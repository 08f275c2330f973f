"""Load trained weights from a file into a network that they fit exactly, without running code from the file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from slimcnn.errors import WeightsError
from slimcnn.files import require_readable
from slimcnn.models.content_digest import difference

PICKLED = (".pt", ".pth", ".bin", ".th", ".ckpt", ".tar")
"""Extensions of files that `torch.save` writes."""

NESTINGS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params",
    "state_dict_ema", "model_ema", "params_ema",
)  # fmt: skip
"""Keys under which training scripts store weights; the first one found is used, so averaged weights come last."""

PASSED_OVER = (
    "argparse.Namespace", "types.SimpleNamespace", "torch.torch_version.TorchVersion",
    *(f"{home}.{name}" for home in ("pathlib", "pathlib._local")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)  # fmt: skip
"""Classes and functions that training scripts pickle with the weights: options, paths, dates, numpy values."""


class PassedOver:
    """A stand-in for everything in `PASSED_OVER` while a file is read: it accepts any arguments and stores nothing.

    So these classes and functions are never called with arguments from a file.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


PREFIXES = ("module.", "model.", "_orig_mod.")
"""Prefixes that DataParallel, Lightning and `torch.compile` add to every name."""


AVERAGED = "n_averaged"
"""The counter of `torch.optim.swa_utils.AveragedModel`; the network has no such tensor."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file contained."""

    path: Path
    tensors: int
    metadata: dict[str, str]
    """The metadata of a safetensors file; empty for other files."""
    nesting: tuple[str, ...]
    """The keys that led to the weights, outermost first."""
    prefix: str
    """The prefix that was removed from every name."""


def load_weights(model: nn.Module, path: str | Path) -> WeightsInfo:
    """Copy the weights in a file into `model`; if a name or shape does not match, nothing is changed.

    Reads `.safetensors`, and files of `torch.save` (see `PICKLED`) that `torch.load(weights_only=True)` can read.
    Options, paths, dates and numpy values stored with the weights are ignored (see `PASSED_OVER`). Common nestings and
    a common prefix are removed (see `NESTINGS`, `PREFIXES`); `num_batches_tracked` may be missing. No other name
    matching is attempted. Raises `WeightsError` for a file that is missing, damaged, unreadable without running code,
    made for another network, or that contains NaN or infinite values.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "linear.safetensors"
    >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, file, metadata={"top1": "91.73"})
    >>> load_weights(nn.Linear(2, 1), file).metadata
    {'top1': '91.73'}
    >>> load_weights(nn.Linear(3, 1), file)
    Traceback (most recent call last):
    slimcnn.errors.WeightsError: ...linear.safetensors does not fit the network: 1 tensor differs
    (weight is 1x2 and should be 1x3); check that it is for the same network with the same arguments
    """
    path = Path(path)
    content, metadata = _read(path)
    content, nesting = _unnested(path, content)
    wanted = model.state_dict(keep_vars=True)
    tensors = _tensors(path, content)
    if AVERAGED not in wanted:
        tensors.pop(AVERAGED, None)
    found, prefix = _without_prefix(tensors, wanted)
    _check_names(path, found, wanted)
    _check_shapes(path, found, wanted)
    _check_finite(path, found)
    model.load_state_dict(found, strict=False)
    return WeightsInfo(path, len(found), metadata, nesting, prefix)


def classes_in(path: str | Path, model: nn.Module, classes: int | None) -> int | None:
    """Return the number of classes of the head in a weights file, if it differs from the network's in nothing else.

    `classes` is the network's own number. Return None if the file differs in another way, or not at all.

    Raises:
        WeightsError: the file cannot be read.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "linear.safetensors"
    >>> save_file(nn.Linear(2, 10).state_dict(), file)
    >>> classes_in(file, nn.Linear(2, 4), 4), classes_in(file, nn.Linear(3, 4), 4)
    (10, None)
    """
    path = Path(path)
    wanted = model.state_dict()
    found, _ = _without_prefix(_tensors(path, _unnested(path, _read(path)[0])[0]), wanted)
    differing = (
        [(tensor, wanted[name]) for name, tensor in found.items() if tensor.shape != wanted[name].shape]
        if (found.keys() <= wanted.keys())
        else []
    )
    heads = {tensor.shape[0] if tensor.dim() else None for tensor, _ in differing}
    only_heads = all(
        own.dim() and own.shape[0] == classes and tensor.shape[1:] == own.shape[1:] for tensor, own in differing
    )
    return heads.pop() if len(heads) == 1 and only_heads else None


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    require_readable(path, WeightsError, "weights file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path), {}
    raise WeightsError(f"{path} has an unknown file extension: weights are .safetensors, or {', '.join(PICKLED)}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata() or {})
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or _first_line(error)}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is truncated or not a safetensors file: {_first_line(error)}") from error
    if reason := difference(tensors, metadata):
        raise WeightsError(f"{path}: {reason}; restore it")
    return tensors, metadata


def _read_pickled(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([(PassedOver, name) for name in PASSED_OVER]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not path.read_bytes().startswith((b"PK", b"\x80")):  # a zip archive or, before torch 1.6, a pickle
            raise WeightsError(f"{path} is damaged or was not written by torch.save") from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it contains a {named.group(1)}" if named else "it contains more than tensors"
        raise WeightsError(
            f"{path} cannot be read without unpickling code: {what}; save only the state dict, as safetensors"
        ) from error
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or _first_line(error)}") from error
    except Exception as error:  # damaged bytes make torch.load raise almost any exception
        raise WeightsError(f"{path} is damaged or was not written by torch.save: {_first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} contains a {type(content).__name__}, not a state dict; save model.state_dict()")
    return content


def _unnested(path: Path, content: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the innermost state dict, and the keys that lead to it."""
    nesting: tuple[str, ...] = ()
    passed = {id(content)}
    while key := next((key for key in NESTINGS if isinstance(content.get(key), Mapping)), None):
        content, nesting = content[key], (*nesting, key)
        if id(content) in passed:
            raise WeightsError(f"{path} holds a {key!r} that contains itself; save model.state_dict()")
        passed.add(id(content))
    return content, nesting


def _tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    strange = [
        str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange or not content:
        held = f"{_few(strange)} besides or instead of tensors" if strange else "nothing"
        raise WeightsError(
            f"{path} is not a plain state dict: it contains {held}; expected tensors, or one of {', '.join(NESTINGS)}"
        )
    _refuse(path, [f"{name} is {kind}" for name, tensor in content.items() if (kind := _unusable(tensor))][:3])
    return dict(content)


def _unusable(tensor: Tensor) -> str:
    """Return why a tensor has no plain values that could be copied into a network; empty if it has."""
    if tensor.is_meta:
        return "on the device meta, without values"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"sparse or nested ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.itemsize == 1):
        return f"quantized ({_dtype(tensor)})"
    return ""


def _without_prefix(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Remove common prefixes from the names in the file until one matches a name of the network."""
    taken = ""
    while not any(name in wanted for name in found):
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        taken += prefix
    return found, taken


def _check_names(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    # a parameter shared by two layers has two names; the file needs only one of them
    given = {id(tensor) for name, tensor in wanted.items() if name in found}
    missing = [
        name
        for name, tensor in wanted.items()
        if name not in found and id(tensor) not in given and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in wanted]
    complaints = [
        f"{len(names)} of {total} names {what} ({_few(names)})"
        for names, total, what in (
            (missing, len(wanted), "missing from the file"),
            (unexpected, len(found), "unknown to the network"),
        )
        if names
    ]
    _refuse(path, complaints)


def _check_shapes(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    differences = []
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            differences.append(f"{name} is {_shape(tensor)} and should be {_shape(wanted[name])}")
        elif wanted[name].is_floating_point() and not tensor.is_floating_point():
            differences.append(f"{name} is {_dtype(tensor)} and should be {_dtype(wanted[name])}")
    noun = "tensor differs" if len(differences) == 1 else "tensors differ"
    _refuse(path, [f"{len(differences)} {noun} ({_few(differences)})"] if differences else [])


def _check_finite(path: Path, found: Mapping[str, Tensor]) -> None:
    counts = {name: int((~torch.isfinite(tensor)).sum()) for name, tensor in found.items()}
    bad = [f"{name} has {count} of {found[name].numel()}" for name, count in counts.items() if count]
    if bad:
        raise WeightsError(f"{path} contains NaN or infinite values: {_few(bad)}; the training run diverged")


def _refuse(path: Path, complaints: list[str]) -> None:
    if complaints:
        advice = "check that it is for the same network with the same arguments"
        raise WeightsError(f"{path} does not fit the network: {'; '.join(complaints)}; {advice}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
