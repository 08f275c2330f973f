"""Run a recipe: a chain of steps, from the input network to the report.

Reading order: step (the step interface), recipe (settings of a run), starting (a run from recipe to report), order
(check the order of steps), loading (network and data), chain (run the steps), saving and folder (files on disk),
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
