"""Checkpoints: one safetensors file with the weights and, as JSON metadata, the structure. Nothing is unpickled.

A file holds every parameter and buffer, the name and arguments of the original network, and the size attributes of
each module. Loading builds the original network and resizes it to match the file. A pruned network therefore loads
without the original weights.

Any sequence of edits (rewrite, prune, relate, scatter, fold, train, repeated) can be restored, because the file
describes the final network, not its history: materialized weights, feature reuse units, then relations, then placements
in residual streams, then sizes. Each description refers to modules that exist after the previous ones are applied, so
this fixed order rebuilds every final network, whatever the order of the edits was.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from slimcnn.digests import tensors_digest
from slimcnn.errors import CheckpointError, ModelError, Note, SlimcnnError
from slimcnn.files import replacing, require_readable
from slimcnn.graph.copying import duplicate
from slimcnn.graph.shrinking import MARKER, contradicts, sizes
from slimcnn.layers.emptied import make_empty
from slimcnn.layers.materializing import materialize_as, materialized_of
from slimcnn.layers.placing import place, placing_of
from slimcnn.layers.relating import relate_as, relating_of
from slimcnn.layers.reusing import reuse_as, reusing_of
from slimcnn.models import resolve
from slimcnn.models.content_digest import DIGEST, difference

FORMAT = 1
KEY = "slimcnn"
"""Metadata key of the JSON description; files without it were not written by slimcnn."""


def save(model: nn.Module, path: str | Path, *, information: Mapping[str, Any] | None = None) -> Path:
    """Write a network to one file, atomically.

    Args:
        model: any network. A network from `build` or `resolve`, pruned or not, can be loaded from the file alone;
            for any other, `load` needs a freshly built original.
        path: the file to write, by convention `.safetensors`.
        information: extra data to store, as JSON; see `read_information`.

    Raises:
        RunError: the file cannot be written.

    >>> import tempfile, slimcnn
    >>> path = save(slimcnn.build("resnet20"), Path(tempfile.mkdtemp()) / "net.safetensors", information={"top1": 91.7})
    >>> load(path).linear.out_features, read_information(path)
    (10, {'top1': 91.7})
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in _all_tensors(model):
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    content = {
        "format": FORMAT,
        "architecture": getattr(model, "architecture", None),
        "sizes": {name: size for name, module in model.named_modules() if (size := sizes(module))},
        "materialized": materialized_of(model),
        "reusing": reusing_of(model),
        "placing": placing_of(model),
        "relating": relating_of(model),
        "aliases": aliases,
        "channels_last": [name for name, tensor in _all_tensors(model) if _is_channels_last(tensor)],
        "information": dict(information or {}),
    }
    # Sorted keys make the files of equal networks bit-identical.
    metadata = {KEY: json.dumps(content, sort_keys=True), DIGEST: tensors_digest(tensors), "format": "pt"}
    with replacing(path) as temporary:
        temporary.write_bytes(_in_fixed_order(to_bytes(tensors, metadata=metadata)))
    return path


def load(path: str | Path, model: nn.Module | None = None, *, verify: bool = True) -> nn.Module:
    """Load a network saved by `save`; its outputs are bit-identical to those of the saved network.

    Args:
        path: the file.
        model: a freshly built original, needed if the file does not name a registered network. It is copied.
        verify: compare the tensors with the digest that `save` stored. A file of an older version has none; it is
            loaded with a warning.

    Returns:
        the network, on the CPU, in eval mode.

    Raises:
        CheckpointError: the file is missing, truncated, not written by slimcnn, of a newer format, for another
            network, or changed after it was written; or it names a user's Python function, which is never called:
            pass the network it builds as `model`.
    """
    path = Path(path)
    content, tensors = _read(path, verify)
    network = duplicate(model).cpu() if model is not None else _build(path, content)
    network = _rewrite(path, network, content)
    _fit(path, network, content, tensors)
    if getattr(network, "architecture", None) is None and content.get("architecture") is not None:
        network.architecture = content["architecture"]  # kept for the next `save`
    return network.eval()


def read_information(path: str | Path) -> dict[str, Any]:
    """Read the extra data of a checkpoint without its weights."""
    content = _header(Path(path))
    found: dict[str, Any] = content["information"]
    return found


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file was written by `save`; raises `CheckpointError` if the file does not exist."""
    require_readable(Path(path), CheckpointError, "weights file")
    try:
        _header(Path(path))
    except CheckpointError:
        return False
    return True


def read_architecture(path: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Read the name and arguments from which a checkpoint's network was built; None if it has no name."""
    content = _header(Path(path))
    spec = _architecture(content)
    return None if spec is None else (spec, dict(content["architecture"].get("arguments", {})))


def is_users_code(spec: str) -> bool:
    """Return whether a network name refers to a user's Python function, which `load` never calls.

    >>> is_users_code("package.module:function"), is_users_code("timm:resnet18"), is_users_code("resnet20")
    (True, False, False)
    """
    return ":" in spec and not spec.startswith(("timm:", "torchvision:"))


def _in_fixed_order(file: bytes) -> bytes:
    """Sort the header of a safetensors file; the library's order differs from process to process.

    File format: 8 bytes with the header length, the header as JSON (padded to a multiple of 8), the tensors.
    """
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def _all_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    parameters = list(model.named_parameters(remove_duplicate=False))
    return parameters + [(n, b) for n, b in model.named_buffers(remove_duplicate=False) if b is not None]


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _header(path: Path) -> dict[str, Any]:
    require_readable(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} cannot be read ({reason}): it is truncated or not a safetensors file") from error
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} holds weights but no structure: it was not written by slimcnn; load it as weights"
        )
    try:
        content: dict[str, Any] = json.loads(metadata[KEY])
        if type(content["format"]) is not int:
            raise TypeError("format is not a whole number")
        if content["format"] <= FORMAT:
            _check_content(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged description ({error!r:.200}); save the network again") from error
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']}, but this slimcnn reads formats up to {FORMAT}: upgrade slimcnn"
        )
    return content


def _check_content(content: dict[str, Any]) -> None:
    """Raise `TypeError` or `KeyError` for a description whose parts have other types than `save` writes."""
    for key in ("sizes", "aliases", "information"):
        if not isinstance(content[key], dict):
            raise TypeError(f"{key} is not a table")
    if not all(isinstance(one, dict) for one in content["sizes"].values()):
        raise TypeError("the sizes of a module are not a table")
    named = content["channels_last"]
    if not (isinstance(named, list) and all(isinstance(name, str) for name in (*named, *content["aliases"].values()))):
        raise TypeError("channels_last or aliases holds something other than names")
    architecture = content.get("architecture")
    if isinstance(architecture, dict) and not isinstance(architecture.get("arguments", {}), dict):
        raise TypeError("the arguments of the architecture are not a table")


def _read(path: Path, verify: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # Copies do not depend on the file and are aligned; on unaligned tensors, kernels sum in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): it is truncated") from error
    if verify:
        _verify(path, tensors, metadata)
    for alias, name in content["aliases"].items():
        if name not in tensors:
            raise CheckpointError(
                f"{path} is damaged: {alias} shares the tensor {name}, which is missing; save the network again"
            )
        tensors[alias] = tensors[name]
    return content, tensors


def _verify(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    if DIGEST not in metadata:
        warnings.warn(
            f"{path} has no digest, so damage cannot be detected: an older slimcnn wrote it; save it again",
            Note,
            stacklevel=4,
        )
    elif reason := difference(tensors, metadata):
        raise CheckpointError(f"{path}: {reason}; restore it, or pass verify=False (--no-verify) to load it anyway")


def _architecture(content: Mapping[str, Any]) -> str | None:
    architecture = content.get("architecture")
    spec = architecture.get("model") if isinstance(architecture, dict) else None
    return spec if isinstance(spec, str) else None


def _build(path: Path, content: Mapping[str, Any]) -> nn.Module:
    spec = _architecture(content)
    if spec is None:
        raise CheckpointError(
            f"{path} does not name a network to build: pass a freshly built original, load(path, model=...)"
        )
    if is_users_code(spec):
        raise CheckpointError(
            f"{path} was built by {spec}, and loading a checkpoint never runs user code: pass a freshly built "
            "original, load(path, model=...), or --model on the command line"
        )
    try:
        return resolve(spec, **content["architecture"].get("arguments", {}))
    except SlimcnnError as error:
        raise CheckpointError(f"{path} cannot be built here: {error}") from error


def _rewrite(path: Path, network: nn.Module, content: dict[str, Any]) -> nn.Module:
    """Restore the structure: materialized weights, feature reuse, relations and scattering, in this order."""
    try:
        if not materialized_of(network):
            network = materialize_as(network, content.get("materialized", {}))
        if not reusing_of(network):
            reuse_as(network, content.get("reusing", []))
        if not relating_of(network):
            relate_as(network, content.get("relating", {}))
        if not placing_of(network):
            place(network, content.get("placing", {}))
    except (ModelError, AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} is for another network: {reason}") from error
    return network


def _fit(path: Path, network: nn.Module, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Set the sizes and tensors of every module from the file; names that do not match are an error."""
    wanted = {name for name, _ in _all_tensors(network)}
    missing, unexpected = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
    if missing or unexpected:
        parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
        parts += [f"holds unknown {', '.join(unexpected[:3])}"] if unexpected else []
        raise CheckpointError(f"{path} is for another network: it {' and '.join(parts)}")
    made: dict[str, Tensor] = {}
    for prefix, module in network.named_modules():
        for store in (module._parameters, module._buffers):
            for name, old in store.items():
                if old is not None:
                    full = f"{prefix}.{name}" if prefix else name
                    if tensors[full].dim() != old.dim():
                        raise CheckpointError(
                            f"{path} is for another network: {full} has {tensors[full].dim()} axes, not {old.dim()}"
                        )
                    made[full] = store[name] = _like(old, full, content, tensors, made)
        _set_sizes(path, prefix, module, content["sizes"].get(prefix, {}))


def _like(
    old: Tensor, name: str, content: dict[str, Any], tensors: dict[str, Tensor], made: dict[str, Tensor]
) -> Tensor:
    shared = content["aliases"].get(name)
    if shared in made:
        return made[shared]
    new = tensors[name]
    if name in content["channels_last"]:
        new = new.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _set_sizes(path: Path, name: str, module: nn.Module, stored: dict[str, Any]) -> None:
    known = sizes(module)
    more = {attribute: value for attribute, value in stored.items() if attribute not in known}
    here = vars(module) | known
    if known.keys() - stored.keys() or not all(_is_count_like(here.get(key), stored[key]) for key in stored):
        raise CheckpointError(f"{path} is for another network: module {name!r} is a {type(module).__name__} here")
    for attribute, value in stored.items():
        before = getattr(module, attribute)
        setattr(module, attribute, type(before)(value) if isinstance(before, list | tuple) else value)
    if more:
        setattr(module, MARKER, tuple(more))
    if contradicts(module):
        raise CheckpointError(
            f"{path} is damaged: the sizes {stored} of {name!r} contradict its tensors; save the network again"
        )
    make_empty(module)


def _is_count_like(here: Any, stored: Any) -> bool:
    """Return whether a stored value may replace an attribute: both are counts, or sequences of equally many counts."""
    if isinstance(here, list | tuple) and isinstance(stored, list):
        return len(here) == len(stored) and all(map(_is_count_like, here, stored))
    return type(here) is type(stored) is int and stored >= 0
