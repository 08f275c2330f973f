"""AxisIds: one id for every position of every axis of every parameter and buffer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.graph.channels import Positions
from slimcnn.graph.fast.module_tree import named_modules, named_tensors
from slimcnn.graph.ids import Label, axis_facet
from slimcnn.graph.shrinking import Kept


@dataclass(frozen=True)
class AxisIds:
    """Ids by position: tensor `names[i]`, axis `axes[i]` has the ids starts[i] ... starts[i] + sizes[i] - 1.

    The input axis of a grouped convolution has separate ids for each of its groups, because each group reads different
    channels: it has `blocks[i]` times as many ids as positions.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...]
    starts: Positions
    sizes: Positions
    blocks: tuple[int, ...]
    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, model: nn.Module) -> AxisIds:
        """Assign ids to the axes of a network's tensors; axes of size 1 have no channels."""
        names, axes, sizes, blocks = [], [], [], []
        modules = named_modules(model)
        tensors = named_tensors(model, modules)
        grouped = _grouped(modules, tensors)
        for name, tensor in tensors:
            for axis, size in enumerate(tensor.shape):
                if size > 1:
                    names.append(name)
                    axes.append(axis)
                    blocks.append(grouped.get(name, 1) if axis == 1 else 1)
                    sizes.append(size * blocks[-1])
        counts = np.array(sizes, dtype=np.int64)
        return cls(
            tuple(names),
            tuple(axes),
            np.cumsum(counts) - counts,
            counts,
            tuple(blocks),
            {name: tensor.shape for name, tensor in tensors},
        )

    def __len__(self) -> int:
        return self._number

    @cached_property
    def _number(self) -> int:
        return int(self.sizes.sum())

    def labels(self, model: nn.Module, kept: Kept | None = None) -> dict[str, Label]:
        """Return the label of every tensor; after pruning, with the ids of the kept positions."""
        shapes = self.shapes if kept is None else {name: tensor.shape for name, tensor in named_tensors(model)}
        facets: dict[str, list[Tensor]] = {name: [] for name in shapes}
        every = torch.arange(len(self)).split(self.sizes.tolist())
        for name, axis, ids, blocks in zip(self.names, self.axes, every, self.blocks, strict=True):
            ids = ids.view(blocks, -1)
            if kept is not None and axis in kept.get(name, {}):
                ids = ids.take_along_dim(kept[name][axis].view(blocks, -1), dim=1)
            shape = shapes[name]
            facets[name].append(axis_facet(ids[0], shape, axis) if blocks == 1 else _block_facet(ids, shape))
        return {name: tuple(found) for name, found in facets.items()}

    @cached_property
    def _starts(self) -> list[int]:
        return list(map(int, self.starts))

    def locate_one(self, id_: int) -> int:
        """Return the index of the axis of one id; -1 if it belongs to no tensor."""
        return bisect_right(self._starts, id_) - 1 if 0 <= id_ < len(self) else -1

    def locate(self, ids: Positions) -> Positions:
        """Return the index of the axis of each id; -1 for ids that belong to no tensor."""
        found = np.searchsorted(self.starts, ids, side="right") - 1
        return np.where((ids >= 0) & (ids < len(self)), found, -1)


def _grouped(modules: list[tuple[str, nn.Module]], tensors: list[tuple[str, Tensor]]) -> dict[str, int]:
    """Map the weight name of every convolution that is not transposed to its number of groups."""
    names = {tensor: name for name, tensor in tensors}
    found: dict[str, set[int]] = {}
    for _, module in modules:
        weight = module._parameters.get("weight")
        if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed and weight is not None:
            found.setdefault(names[weight], set()).add(module.groups)
    return {name: groups.pop() for name, groups in found.items() if len(groups) == 1}


def _block_facet(ids: Tensor, shape: torch.Size) -> Tensor:
    """Broadcast ids (groups, inputs of a group) to the weight of a grouped convolution."""
    rows = ids.repeat_interleave(shape[0] // len(ids), dim=0)
    return rows.view(*rows.shape, *[1] * (len(shape) - 2)).expand(shape)
