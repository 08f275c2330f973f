"""What a run can do: one file a step, found by scanning this folder. docs/extending.md adds one.

>>> from slimcnn.steps import LeastSquares, Prune
>>> [step.name for step in (Prune(macs=0.5), LeastSquares())]
['prune', 'least_squares']
"""

from __future__ import annotations


def __getattr__(name: str) -> object:
    # Not imported above: a plugin's steps are found here too, and importing the package stays cheap.
    from slimcnn.running.step import steps

    if not name.startswith("_"):
        for entry in steps:
            if entry.value.__name__ == name:
                return entry.value
    raise AttributeError(f"there is no step {name!r}: see slimcnn list steps")
