"""Layers that write or read only some channels of a residual stream that keeps its width.

A residual stream is as wide as the widest layer that adds into it. A layer that lost channels writes its remaining
ones to their positions in the stream, and zeros elsewhere (`Scattering`). A layer that reads a stream with only one
such source selects just those channels (`Gathering`). Layers keep their names and their `isinstance` type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.layers.mixing import mixed


class Scattering(nn.Module):
    """Write a layer's output ``(n, k, ...)`` to its positions in a stream ``(n, width, ...)``; zeros elsewhere.

    ``places`` is a buffer (k,) of ascending integers; pruning channels prunes it, too.
    """

    places: Tensor
    width: int

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer and scatter its output."""
        made: Tensor = super().forward(*args, **kwargs)
        stream = torch.zeros(made.shape[0], self.width, *made.shape[2:], dtype=made.dtype, device=made.device)
        if made.dim() == 4 and made.is_contiguous(memory_format=torch.channels_last):
            stream = stream.contiguous(memory_format=torch.channels_last)
        return stream.index_copy_(1, self.places, made)

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{super().extra_repr()}, stream={self.width}"


class Gathering(nn.Module):
    """Read only the channels of a stream ``(n, width, ...)`` that `source` writes."""

    source: Scattering

    def forward(self, x: Tensor) -> Tensor:
        """Select the channels and run the layer on them."""
        made: Tensor = super().forward(x.index_select(1, self.source.places))
        return made


def scatter(layer: nn.Module, width: int) -> None:
    """Make a layer scatter its channels into a stream of this width, at first channel i to position i; in place.

    >>> layer = nn.Linear(1, 2)
    >>> scatter(layer, 2)
    >>> layer.width, layer.places = 4, torch.tensor([0, 3])
    >>> [made != 0 for made in layer(torch.ones(1, 1))[0].tolist()], isinstance(layer, nn.Linear)
    ([True, False, False, True], True)
    """
    layer.__class__ = mixed(Scattering, type(layer))
    layer.register_buffer("places", torch.arange(width, device=_device_of(layer)))
    layer.width = width  # type: ignore[assignment]


def gather(layer: nn.Module, source: nn.Module) -> None:
    """Make a layer read only the channels that `source`, a scattering layer, writes; in place."""
    layer.__class__ = mixed(Gathering, type(layer))
    object.__setattr__(layer, "source", source)  # not registered as a submodule: it already is one elsewhere


def placing_of(model: nn.Module) -> dict[str, Any]:
    """Return a JSON description of the scattering and gathering layers of a network; empty if there are none."""
    names = {module: name for name, module in model.named_modules()}
    scattering = {name: module.width for module, name in names.items() if isinstance(module, Scattering)}
    gathering = {name: names[module.source] for module, name in names.items() if isinstance(module, Gathering)}
    return {"scatter": scattering, "gather": gathering} if scattering else {}


def place(model: nn.Module, placing: Mapping[str, Any]) -> None:
    """Apply a description by `placing_of` to another copy of the network, in place.

    Raises:
        ModelError: the network does not have these layers.
    """
    modules = dict(model.named_modules())
    absent = [name for table in placing.values() for name in table if name not in modules]
    if absent:
        raise ModelError(f"the network has no layer {absent[0]!r} to scatter or gather: use the matching network")
    for name, width in placing.get("scatter", {}).items():
        layer = modules[name]
        size = getattr(layer, "num_features", getattr(layer, "out_channels", 0))
        # The width may be smaller than the layer's: the stream may have been pruned before the rewrite.
        if not (isinstance(width, int) and 0 < width <= size):
            raise ModelError(f"layer {name!r} has {size} output channels: it cannot write to a stream of {width}")
        scatter(layer, width)
    for name, source in placing.get("gather", {}).items():
        if not isinstance(modules.get(source), Scattering):
            raise ModelError(f"layer {name!r} cannot gather from {source!r}: {source!r} does not scatter")
        gather(modules[name], modules[source])


def _device_of(layer: nn.Module) -> torch.device | None:
    tensors = (*layer.parameters(), *layer.buffers())
    return tensors[0].device if tensors else None
