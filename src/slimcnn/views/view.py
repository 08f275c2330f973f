"""A view: sections for readers, plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimcnn.reporting.sections import Column, Format, Section, Table, Value


@dataclass(frozen=True)
class View:
    """A result that the command line prints and a notebook shows.

    >>> View("Evaluation", "top-1 93.39 % on 10000 test images", (), {"top1": 93.39})
    View('Evaluation': top-1 93.39 % on 10000 test images)
    """

    title: str
    headline: str
    """The result in one sentence."""
    sections: tuple[Section, ...]
    data: Any
    """The output of `--json`: dicts, lists, strings and numbers."""

    def __repr__(self) -> str:
        return f"View({self.title!r}: {self.headline})"

    def _repr_html_(self) -> str:
        from slimcnn.reporting import fragment

        return fragment(self.title, self.headline, self.sections)


def table(
    columns: Mapping[str, Format], rows: Iterable[Sequence[Value]], *, title: str = "", folded: bool = False
) -> Table:
    """Build a table from column titles with their formats, and rows of values.

    >>> table({"layer": "name", "MACs": "exact"}, [("conv1", 442368)]).columns[1]
    Column(title='MACs', format='exact')
    """
    heads = tuple(Column(title=name, format=format_) for name, format_ in columns.items())
    return Table(columns=heads, rows=tuple(tuple(row) for row in rows), title=title, folded=folded)


COSTS = {"macs": "MACs", "params": "params", "bytes": "bytes of weights", "peak_memory": "running memory"}


def costs(before: Mapping[str, int], after: Mapping[str, int]) -> Table:
    """Build a table of costs before and after, and the share that remains.

    >>> costs({"macs": 40, "params": 9}, {"macs": 10, "params": 9}).rows
    (('MACs', 40, 10, 0.25), ('params', 9, 9, 1.0))
    """
    return table(
        {"": "text", "before": "exact", "after": "exact", "remains": "share"},
        [
            (title, before[name], after[name], after[name] / max(before[name], 1))
            for name, title in COSTS.items()
            if name in before
        ],
    )
