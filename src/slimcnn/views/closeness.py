"""Compare the class closeness of several networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from slimcnn.datasets import Dataset, Normalization, batches
from slimcnn.distillation.closeness import TEMPERATURE, closeness_of, closest_pairs
from slimcnn.reporting.figures.closeness import Closeness
from slimcnn.reporting.sections import Column, Section, Table, Text, Value
from slimcnn.views.view import View


def closeness(
    networks: Mapping[str, nn.Module], data: Dataset, normalizations: Mapping[str, Normalization] | None = None
) -> View:
    """Compare the class closeness of networks on a dataset's validation images (see `closeness_of`).

    Args:
        networks: name → classifier, the teacher first; not changed.
        data: the dataset.
        normalizations: name → normalization that the network expects; by default that of the dataset.

    Data: `classes`, `images` (number of images) and `networks` (name → matrix).
    """
    expected = normalizations or {}
    found = {
        name: closeness_of(
            network,
            batches(data.validation, 256, normalization=expected.get(name, data.normalization)),
            len(data.classes),
        )
        for name, network in networks.items()
    }
    images = len(data.validation)
    drawn = Closeness(classes=data.classes, networks=found, temperature=TEMPERATURE, images=images)
    return View(
        title=f"Class closeness on {data.name}",
        headline="How close the classes are in each network",
        sections=(Section(title="Maps", blocks=(drawn.block(),)), _pairs(drawn)),
        data=drawn.model_dump(mode="json", include={"classes", "images", "networks"}),
    )


def _pairs(drawn: Closeness) -> Section:
    # A list of columns, not a mapping by title: a network may have the same name as another column.
    columns = [Column(title="images of"), Column(title="other class")]
    columns += [Column(title=name, format="small") for name in drawn.networks]
    pairs = closest_pairs(drawn.classes, drawn.networks)
    rows: list[tuple[Value, ...]] = [(one, other, *values) for one, other, values in pairs]
    note = (
        "Log ratio of the softened probabilities of the other class and the correct class, mean over the images; 0: "
        "as close as the class itself."
    )
    return Section(
        title=f"Closest pairs of classes in {next(iter(drawn.networks))}",
        blocks=(Table(columns=tuple(columns), rows=tuple(rows)), Text(text=note, tone="note")),
    )
