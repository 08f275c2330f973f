"""Channel ids: integer tensors that accompany the network's tensors.

A *facet* is an int64 tensor with the shape of the tensor it describes. Each entry is the channel id of that position,
or -1 for none. The weight of a convolution has two facets (output and input channels), an activation usually has one,
so a *label* is a tuple of facets.

Facets are compact: a dimension along which the id does not change has stride 0. The strides therefore show along
which dimensions a facet varies, and a facet of shape (1, 64, 112, 112) stores 64 numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

Label = tuple[Tensor, ...]
NONE = -1


def axis_facet(ids: Tensor, shape: torch.Size | tuple[int, ...], axis: int) -> Tensor:
    """Broadcast one id per position of `axis` to a shape.

    >>> axis_facet(torch.tensor([7, 8]), (2, 3), 0).tolist()
    [[7, 7, 7], [8, 8, 8]]
    """
    view = [1] * len(shape)
    view[axis] = -1
    return ids.view(view).expand(shape)


def varying(facet: Tensor) -> frozenset[int]:
    """Return the dimensions along which a compact facet varies.

    >>> sorted(varying(axis_facet(torch.tensor([7, 8]), (5, 2, 3), 1)))
    [1]
    """
    steps = zip(facet.shape, facet.stride(), strict=True)
    return frozenset([d for d, (size, stride) in enumerate(steps) if size > 1 and stride])


def varies(facet: Tensor, apart_from: int = -1) -> bool:
    """Return whether a compact facet varies along any dimension, or along another one than `apart_from`.

    >>> varies(axis_facet(torch.tensor([7, 8]), (5, 2, 3), 1)), varies(torch.tensor([7]).expand(5))
    (True, False)
    """
    for d, (size, stride) in enumerate(zip(facet.shape, facet.stride(), strict=True)):
        if stride and size > 1 and d != apart_from:
            return True
    return False


def core(facet: Tensor, keep: frozenset[int] | set[int] = frozenset()) -> Tensor:
    """Reduce every dimension along which the facet does not vary to size 1, except those in `keep`."""
    for d, (size, stride) in enumerate(zip(facet.shape, facet.stride(), strict=True)):
        if size > 1 and not stride and d not in keep:
            facet = facet.narrow(d, 0, 1)
    return facet


def compact(facet: Tensor) -> Tensor:
    """Set the stride of dimensions along which the ids do not change to 0.

    >>> compact(torch.tensor([[7, 7, 7], [8, 8, 8]])).stride()
    (1, 0)
    """
    shape = facet.shape
    if 0 in shape:
        return facet
    facet = core(facet)
    for d in range(facet.dim()):
        if facet.size(d) > 1:
            first = facet.narrow(d, 0, 1)
            if bool((facet == first).all()):
                facet = first
    return facet.contiguous().expand(shape)


def along(facet: Tensor, axis: int) -> Tensor | None:
    """Return the ids along one axis; None if they also vary along another axis.

    >>> along(axis_facet(torch.tensor([7, 8]), (5, 2, 3), 1), 1).tolist()
    [7, 8]
    """
    axis %= facet.dim()
    if varies(facet, apart_from=axis):
        return None
    return facet.as_strided((facet.size(axis),), (facet.stride(axis),), facet.storage_offset())


def ids_in(label: Label) -> Tensor:
    """Return the distinct ids of a label."""
    facets = [core(facet).reshape(-1) for facet in label]
    return distinct(torch.cat([torch.empty(0, dtype=torch.int64), *facets]))


def distinct(ids: Tensor) -> Tensor:
    """Return the distinct ids, sorted, without -1; the input is usually sorted already.

    >>> distinct(torch.tensor([5, NONE, 3, 5])).tolist(), distinct(torch.tensor([99, 3])).tolist()
    ([3, 5], [3, 99])
    """
    found = ids[ids >= 0]
    if bool((found[1:] > found[:-1]).all()):
        return found
    ids_below = int(found.max()) + 1
    if ids_below > 8 * len(found):
        once: Tensor = torch.unique(found)
        return once
    occurs = torch.zeros(ids_below, dtype=torch.bool)  # many entries, few ids: faster than sorting
    occurs[found] = True
    return occurs.nonzero().view(-1)


def same(a: Label, b: Label) -> bool:
    """Return whether two labels are equal."""
    return len(a) == len(b) and all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))
