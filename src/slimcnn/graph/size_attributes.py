"""Module attributes that are channel counts, such as a `self.width` by which the code splits.

If the code of a module fails on a pruned network, attributes of that module that equal the length of a channel axis
there are assumed to be channel counts. The assumption holds only if trial cuts succeed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.graph.fast.module_tree import named_modules
from slimcnn.graph.ids import Label, along, varying
from slimcnn.graph.shrinking import MARKER, sizes
from slimcnn.graph.trace_record import EqualParts, OperationRun, Site, TraceRecord


@dataclass(frozen=True)
class SizeGuess:
    """An attribute (or an entry of a list or tuple) that is assumed to be the number of these channels."""

    module: str
    name: str
    index: int | None
    ids: Tensor

    @property
    def key(self) -> tuple[str, str, int | None]:
        """Module, attribute and index."""
        return self.module, self.name, self.index


def modules_at(record: TraceRecord, sites: list[Site]) -> list[str]:
    """Return the modules in which these lines of code ran."""
    lines = {site.code for site in sites}
    return list(dict.fromkeys(run.site.module for run in record.runs if run.activations and run.site.code in lines))


def modules_running(record: TraceRecord, function: tuple[str, str]) -> list[str]:
    """Return the modules in which this function (file and name) called operations."""
    runs = (run for run in record.runs if (run.site.file, run.site.function) == function)
    return list(dict.fromkeys(run.site.module for run in runs))


def guess_sizes(model: nn.Module, record: TraceRecord, places: list[str]) -> list[SizeGuess]:
    """Find attributes of modules that may be channel counts."""
    modules = dict(named_modules(model))
    return [guess for place in places for guess in _guesses_in(place, modules[place], record)]


def shared_sizes(
    model: nn.Module, record: TraceRecord, places: list[str], is_locked: Callable[[Tensor], bool]
) -> tuple[list[SizeGuess], list[EqualParts]]:
    """Find attributes that may count several channel axes at once, such as a width that all heads of a module share.

    These axes must keep equal numbers of channels. Attributes that equal the length of a locked axis too are left out:
    they may be its length.
    """
    modules = dict(named_modules(model))
    guesses: list[SizeGuess] = []
    parts: list[EqualParts] = []
    for place in places:
        here = [run for run in record.runs if run.site.module == place]
        axes = [ids for pieces in _parted(here) for ids in pieces if ids is not None] + _passed(here)
        distinct = list({tuple(ids.tolist()): ids for ids in axes}.values())
        fixed = {len(ids) for ids in distinct if is_locked(ids)}
        for name, value in _attributes(modules[place]):
            counted = [ids for ids in distinct if len(ids) == value]
            if _is_count(value) and counted and value not in fixed:
                guesses.append(SizeGuess(place, name, None, counted[0]))
                if len(counted) > 1:
                    parts.append(EqualParts(torch.stack(counted), here[0].site))
    return guesses, parts


def _parted(runs: list[OperationRun]) -> list[list[Tensor | None]]:
    return [[_channels(label) for label in run.pieces] for run in runs if run.pieces]


def _passed(runs: list[OperationRun]) -> list[Tensor]:
    found = (_channels(label) for run in runs for label in run.activations)
    return [ids for ids in found if ids is not None]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that are neither private nor known sizes of PyTorch's modules."""
    found_before = vars(module).get(MARKER, ())
    known = [name for name in sizes(module) if name not in found_before]
    return ((name, value) for name, value in vars(module).items() if name not in known and not name.startswith("_"))


def _guesses_in(place: str, module: nn.Module, record: TraceRecord) -> Iterator[SizeGuess]:
    here = [run for run in record.runs if run.site.module == place]
    parted = _parted(here)
    axes = [ids for pieces in parted for ids in pieces if ids is not None] + _passed(here)
    by_length = {len(ids): ids for ids in reversed(axes)}
    for name, value in _attributes(module):
        if _is_count(value) and value in by_length:
            yield SizeGuess(place, name, None, by_length[value])
        elif type(value) in (list, tuple) and value and all(isinstance(item, int) for item in value):
            lengths = [[len(ids) for ids in pieces if ids is not None] for pieces in parted]
            pieces = parted[lengths.index(list(value))] if list(value) in lengths else None
            for index, item in enumerate(value):
                ids = pieces[index] if pieces else by_length.get(item)
                if _is_count(item) and ids is not None:
                    yield SizeGuess(place, name, index, ids)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _channels(label: Label) -> Tensor | None:
    """Return the ids of a tensor with a single channel axis, else None; axis 1 of an image made by a linear layer."""
    if len(label) == 1 and label[0].dim() == 4 and len(varying(label[0])) > 1 and 1 in varying(label[0]):
        others = [0 if d != 1 else slice(None) for d in range(label[0].dim())]
        return label[0][tuple(others)]
    axes = [next(iter(varying(facet))) for facet in label if len(varying(facet)) == 1]
    empty = any(facet.numel() == 0 for facet in label)  # a selection by value found nothing
    return along(label[0], axes[0]) if len(axes) == len(label) == 1 and not empty else None
