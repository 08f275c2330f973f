"""The steps of a run: one file per step, found by scanning this folder. docs/extending.md shows how to add one.

>>> from slimcnn.steps import LeastSquares, Prune
>>> [step.name for step in (Prune(macs=0.5), LeastSquares())]
['prune', 'least_squares']
"""

from __future__ import annotations


def __getattr__(name: str) -> object:
    # Imported here so that plugin steps are found too and importing the package stays cheap.
    from slimcnn.running.step import steps

    if not name.startswith("_"):
        for entry in steps:
            if entry.value.__name__ == name:
                return entry.value
    raise AttributeError(f"unknown step {name!r}: see slimcnn list steps")
