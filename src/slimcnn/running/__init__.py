"""From a recipe to a result: a run is a chain of steps.

Read top to bottom: step (what a step is), recipe (a run as data), starting (a run from recipe to report), order (does
it make sense), loading (network and data), chain (one step after the other), saving and folder (what stays on disk),
finishing (the report).
"""

from slimcnn.running.finishing import Result
from slimcnn.running.recipe import Recipe, parse_recipe, read_recipe, recipe_from
from slimcnn.running.starting import run
from slimcnn.running.step import Artifact, Context, Origin, State, Step, steps

__all__ = [
    "Artifact",
    "Context",
    "Origin",
    "Recipe",
    "Result",
    "State",
    "Step",
    "parse_recipe",
    "read_recipe",
    "recipe_from",
    "run",
    "steps",
]
