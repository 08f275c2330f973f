"""Layers that make, or read, only some channels of a stream that keeps its width, and know at which places they are.

A residual stream is as wide as the widest layer that adds into it. A layer that lost channels puts those that it
still makes where they belong, and zeros elsewhere (`Scattering`); one that reads a stream into which only such a layer
has written takes just those out of it (`Gathering`). Layers keep their names and their classes, with one more above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.layers.mixing import mixed


class Scattering(nn.Module):
    """Put what a layer makes, ``(n, k, ...)``, at its places of a stream, ``(n, width, ...)``; zeros elsewhere.

    ``places`` is a buffer (k,) of whole numbers, ascending; cutting channels cuts it too.
    """

    places: Tensor
    width: int

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer and spread out what it makes."""
        made: Tensor = super().forward(*args, **kwargs)
        stream = torch.zeros(made.shape[0], self.width, *made.shape[2:], dtype=made.dtype, device=made.device)
        if made.dim() == 4 and made.is_contiguous(memory_format=torch.channels_last):
            stream = stream.contiguous(memory_format=torch.channels_last)
        return stream.index_copy_(1, self.places, made)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{super().extra_repr()}, stream={self.width}"


class Gathering(nn.Module):
    """Let a layer read, of a stream ``(n, width, ...)``, only the channels that `source` wrote into it."""

    source: Scattering

    def forward(self, x: Tensor) -> Tensor:
        """Take the channels out and run the layer on them."""
        made: Tensor = super().forward(x.index_select(1, self.source.places))
        return made


def scatter(layer: nn.Module, width: int) -> None:
    """Let a layer put its channels into a stream of this width, for now channel i at place i; in place.

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
    """Let a layer read only what `source`, a layer that scatters, writes; in place."""
    layer.__class__ = mixed(Gathering, type(layer))
    object.__setattr__(layer, "source", source)  # not as a part of the layer: it has a place of its own


def placing_of(model: nn.Module) -> dict[str, Any]:
    """Describe what scatters and gathers in a network, as JSON can hold it; empty if nothing does."""
    names = {module: name for name, module in model.named_modules()}
    scattering = {name: module.width for module, name in names.items() if isinstance(module, Scattering)}
    gathering = {name: names[module.source] for module, name in names.items() if isinstance(module, Gathering)}
    return {"scatter": scattering, "gather": gathering} if scattering else {}


def place(model: nn.Module, placing: Mapping[str, Any]) -> None:
    """Let the layers that `placing_of` described in another copy of the network scatter and gather; in place.

    Raises:
        ModelError: the network has no such layers.
    """
    modules = dict(model.named_modules())
    absent = [name for table in placing.values() for name in table if name not in modules]
    if absent:
        raise ModelError(f"the network has no layer {absent[0]!r} that could scatter or gather")
    for name, width in placing.get("scatter", {}).items():
        layer = modules[name]
        size = getattr(layer, "num_features", getattr(layer, "out_channels", 0))
        # Fewer than the layer makes: the stream had been cut before it was rewritten.
        if not (isinstance(width, int) and 0 < width <= size):
            raise ModelError(f"layer {name!r} makes {size} channels: it cannot put them into a stream of {width}")
        scatter(layer, width)
    for name, source in placing.get("gather", {}).items():
        if not isinstance(modules.get(source), Scattering):
            raise ModelError(f"layer {name!r} cannot read what {source!r} writes: it does not scatter")
        gather(modules[name], modules[source])


def _device_of(layer: nn.Module) -> torch.device | None:
    tensors = (*layer.parameters(), *layer.buffers())
    return tensors[0].device if tensors else None
