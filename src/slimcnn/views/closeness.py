"""How close networks find classes to each other."""

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
    """Compare how close networks find the classes of a dataset, on its validation images (see `closeness_of`).

    Args:
        networks: name → classifier, the teacher first; not changed.
        data: the images.
        normalizations: name → what that network expects; by default the dataset's own.

    Data: `classes`, `images` (how many) and `networks` (name → matrix).
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
        title=f"Closeness of classes on {data.name}",
        headline="How close networks find the classes to each other",
        sections=(Section(title="Maps", blocks=(drawn.block(),)), _pairs(drawn)),
        data=drawn.model_dump(mode="json", include={"classes", "images", "networks"}),
    )


def _pairs(drawn: Closeness) -> Section:
    # Columns, not a mapping of titles: two may have the same, where a network is called "class".
    columns = [Column(title="images of"), Column(title="are taken for")]
    columns += [Column(title=name, format="small") for name in drawn.networks]
    pairs = closest_pairs(drawn.classes, drawn.networks)
    rows: list[tuple[Value, ...]] = [(one, other, *values) for one, other, values in pairs]
    note = (
        "Log of the ratio of softened probabilities, mean over the images of a class; 0: as close as the class itself."
    )
    return Section(
        title=f"The closest pairs of classes in {next(iter(drawn.networks))}",
        blocks=(Table(columns=tuple(columns), rows=tuple(rows)), Text(text=note, tone="note")),
    )
