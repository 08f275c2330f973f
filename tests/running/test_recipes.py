"""A run is data: TOML there and back, and one line for what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slimcnn
from slimcnn.distillation import Teacher, objective_named
from slimcnn.errors import RecipeError, SlimcnnError, TargetError
from slimcnn.models import resolve
from slimcnn.models.building import takes
from slimcnn.running import Recipe, parse_recipe, read_recipe, recipe_from
from slimcnn.running.order import facts_at_start, facts_before
from slimcnn.running.recipe import steps_from_line, write_recipe
from slimcnn.running.settings import Network

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "imagenet": (3, 224, 224)}


def built(network: Network, shape: tuple[int, int, int], classes: int = 10) -> torch.nn.Module:
    arguments = {"num_classes": classes, "in_channels": shape[0]}
    arguments |= {"image_size": shape[1]} if takes(network.model, "image_size") else {}
    model = resolve(network.model, **(arguments | network.arguments))
    return slimcnn.replace(model, network.rewrite, torch.zeros(1, *shape)) if network.rewrite else model


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_read_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    assert parse_recipe(recipe.to_toml()) == recipe
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert read_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_makes_sense_from_weights_and_the_steps_fit_its_network(path: Path) -> None:
    recipe = read_recipe(path)
    facts_before(recipe.steps, facts_at_start(True))
    first = recipe.steps[0].name
    if first in ("train", "sparsify"):
        facts_before(recipe.steps, frozenset())
    shape = SHAPES[recipe.data.name]
    model = built(recipe.network, shape)
    for step in recipe.steps:
        if step.name == "rewrite":
            model = slimcnn.replace(model, step.rule, torch.zeros(1, *shape))
        elif step.name == "sparsify" and step.relations != "none":
            model = slimcnn.insert_relations(model, torch.zeros(1, *shape))
        elif step.name == "prune":
            model = slimcnn.scatter(model, torch.zeros(1, *shape)) if step.residual == "scatter" else model
            graph = slimcnn.trace(model, torch.zeros(1, *shape))
            target = slimcnn.Target(pruning_ratio=0.5, residual=step.target.residual)
            plan = slimcnn.allocate(graph, slimcnn.score(model, graph, step.criterion or "l2"), target)
            model = slimcnn.prune(model, graph, plan, verify=False)


TEACHING = [path for path in RECIPES if "student" in path.read_text()]


@pytest.mark.parametrize("path", TEACHING, ids=lambda path: path.stem)
def test_every_shipped_lesson_has_a_loss_that_its_student_can_learn_by(path: Path) -> None:
    recipe = read_recipe(path)
    (step,) = (step for step in recipe.steps if step.name == "distill")
    teacher, student = (built(one, (3, 32, 32), 100) for one in (recipe.network, step.student))
    loss = objective_named(step.loss, Teacher(teacher))(student, torch.randn(2, 3, 32, 32), torch.tensor([3, 99]))
    assert {"cross_entropy", "kd"} <= set(loss.terms)
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = ", "is not TOML"),
        ("out = 'x'\n[[steps]]\nstep = 'train'", "network: Field required"),
        ("[network]", "the recipe has no steps"),
        ("steps = 3\n[network]", "write [[steps]] above each"),
        ("[network]\n[[steps]]\nepochs = 3", "step 1 has no name"),
        (
            "[network]\nmodell = 'x'\n[[steps]]\nstep = 'train'",
            "modell = 'x': unknown setting: did you mean 'model'?",
        ),
        ("[network]\n[[steps]]\nstep = 'prune'\nmac = 0.5", "mac = 0.5: unknown setting: did you mean 'macs'?"),
        ("latencysecond = 1\n[network]\n[[steps]]\nstep = 'train'", "did you mean 'latency_seconds'?"),
        ("[network]\n[[steps]]\nstep = 'train'\nepochs = 0", "step 1, train: epochs = 0"),
        ("[network]\n[[steps]]\nstep = 'train'\n[[steps]]\nstep = 'rewrite'\ninit = 'zeros'", "step 2, rewrite: init"),
        ("[network]\n[[steps]]\nstep = 'distill'\nstudent = { modell = 'x' }", "student.modell = 'x'"),
        ("[network]\n[[steps]]\nstep = 'prune'\nsoft = { epochs = 2, ema = 0.9 }", "not their moving average"),
        ("[network]\n[[steps]]\nstep = 'prune'\nresidual = 'keep'", "Input should be 'auto', 'inner', 'cut' or"),
        ("[network]\n[[steps]]\nstep = 'prune'\nmacs = 0.5\n[steps.search]\n", "a search finds the size"),
        ("[network]\n[data]\nlimit = 1\n[[steps]]\nstep = 'train'", "data.limit = 1"),
        ("curve = [0.5]\n[network]\n[[steps]]\nstep = 'train'", "there is no prune step"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_says_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_step_is_named_with_those_that_are_near() -> None:
    with pytest.raises(SlimcnnError, match="unknown step 'prunes': did you mean 'prune'"):
        parse_recipe("[network]\n[[steps]]\nstep = 'prunes'")


def test_an_impossible_target_keeps_its_own_words() -> None:
    with pytest.raises(TargetError, match=r"macs=2.0: the share"):
        parse_recipe("[network]\n[[steps]]\nstep = 'prune'\nmacs = 2.0")


def test_a_missing_recipe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prune:0.5", "'0.5' is not an option"),
        ("prune:search=3,search.max_drop=1", "search is not a table"),
        ("prune + + train", "unknown step"),
        ("", "unknown step"),
    ],
)
def test_a_wrong_line_of_steps_is_one_line(line: str, message: str) -> None:
    with pytest.raises(SlimcnnError) as caught:
        recipe_from({"network": {}, "steps": steps_from_line(line)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_steps_is_the_same_chain_as_toml() -> None:
    line = "prune:macs=0.5,protect=conv1,fc,search.x=1 + distill:loss=0.1*cross_entropy+0.9*kd:temperature=4,epochs=5"
    assert steps_from_line(line) == [
        {"step": "prune", "macs": 0.5, "protect": ["conv1", "fc"], "search": {"x": 1}},
        {"step": "distill", "loss": "0.1*cross_entropy+0.9*kd:temperature=4", "epochs": 5},
    ]


def test_the_same_step_may_come_twice() -> None:
    recipe = recipe_from(
        {"network": {}, "steps": steps_from_line("prune:macs=0.7 + distill + prune:macs=0.5 + distill")}
    )
    assert isinstance(recipe, Recipe)
    assert [step.name for step in recipe.steps] == ["prune", "distill", "prune", "distill"]
