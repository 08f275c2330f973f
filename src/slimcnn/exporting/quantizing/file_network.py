"""A file in its runtime, called like the network that it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.exporting.parity import AT_ONCE
from slimcnn.exporting.runtimes import open_in


class FileNetwork(nn.Module):
    """A file in its runtime: any number of samples in, and from a detector a dict of tensors for each image out."""

    def __init__(
        self, runtime: str, path: Path, batch: int | None = None, outputs: Sequence[str] = (),
        converted: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda given: given,
    ) -> None:  # fmt: skip
        """Open the file.

        Args:
            runtime: a key of `RUNTIMES`.
            path: the file to open.
            batch: its batch size; None: any.
            outputs: names of a detector's outputs; empty for other networks.
            converted: turns samples as they are given into those that the file takes, some at a time.

        Raises:
            ExportError: the runtime cannot open the file.
        """
        super().__init__()
        self._opened = open_in(runtime, path)
        self._batch, self._outputs, self._converted = batch, tuple(outputs), converted

    def forward(self, *inputs: Tensor) -> Any:
        """Return the output for all samples."""
        size, parts = self._batch or AT_ONCE, list[Any]()
        for start in range(0, len(inputs[0]), size):
            rows = self._converted([one[start : start + size] for one in inputs])
            n = len(rows[0])
            if self._batch and n < self._batch:  # the last row fills the batch
                rows = [torch.cat([one, one[-1:].expand(self._batch - n, *one.shape[1:])]) for one in rows]
            found = self._opened(*rows)
            if self._outputs:
                parts.append(dict(zip(self._outputs, found, strict=True)))
            else:
                parts.append(tuple(one[:n] for one in (found if isinstance(found, tuple) else (found,))))
        if self._outputs:
            return parts
        whole = tuple(torch.cat(each) for each in zip(*parts, strict=True))
        return whole[0] if len(whole) == 1 else whole
