"""A run is data: TOML there and back, and one line for what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slimcnn
from slimcnn.distillation import Teacher, objective_named
from slimcnn.errors import RecipeError, TargetError
from slimcnn.recipes import Network, Recipe, explain_difference, parse_recipe, read_recipe, write_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_read_and_survives_a_round_trip(path: Path) -> None:
    recipe = read_recipe(path)
    assert parse_recipe(recipe.to_toml()) == recipe


REWRITING = [path for path in RECIPES if path.stem.startswith("feature_reuse")]


@pytest.mark.parametrize("path", REWRITING, ids=lambda path: path.stem)
def test_every_shipped_rewrite_makes_the_network_smaller(path: Path) -> None:
    recipe = read_recipe(path)
    model = slimcnn.build(recipe.network.model, **recipe.network.arguments)
    small = slimcnn.replace(model, recipe.network.rewrite or recipe.rewrite.rule)
    assert slimcnn.measure(small, torch.zeros(1, 3, 32, 32)).macs <= 0.5 * 332_111_872
    assert recipe.prune is None


TEACHING = [path for path in RECIPES if path.stem.startswith("scale_factor")]


@pytest.mark.parametrize("path", TEACHING, ids=lambda path: path.stem)
def test_every_shipped_lesson_has_a_loss_that_its_student_can_learn_by(path: Path) -> None:
    recipe = read_recipe(path)
    teacher, student = (slimcnn.build(one.model, num_classes=100) for one in (recipe.network, recipe.distill.student))
    objective = objective_named(recipe.distill.loss, Teacher(teacher))
    loss = objective(student, torch.randn(2, 3, 32, 32), torch.tensor([3, 99]))
    assert {"cross_entropy", "kd", "scale_factor"} == set(loss.terms)


COMPACT = [path for path in RECIPES if path.stem.startswith("compact")]


@pytest.mark.parametrize("path", COMPACT, ids=lambda path: path.stem)
def test_every_shipped_compact_network_learns_on_cifar(path: Path) -> None:
    recipe = read_recipe(path)
    learns = recipe.network if recipe.distill is None else recipe.distill.student
    model = slimcnn.build(
        learns.model, **({"num_classes": 10, "image_size": 32} if recipe.distill else {}) | learns.arguments
    )
    loss = slimcnn.objectives.cross_entropy()(model, torch.randn(2, 3, 32, 32), torch.tensor([3, 9]))
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert recipe.prune is None


@pytest.mark.parametrize(
    "path", sorted({*RECIPES} - {*REWRITING} - {*TEACHING} - {*COMPACT}), ids=lambda path: path.stem
)
def test_every_shipped_recipe_has_a_plan(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.prune is not None
    shape = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}[recipe.data.name]
    model = slimcnn.build(recipe.network.model, in_channels=shape[0], **recipe.network.arguments)
    if recipe.prune.target.residual == "scatter":
        model = slimcnn.scatter(model, torch.zeros(1, *shape))
    if recipe.sparsify is not None and recipe.sparsify.relations != "none":
        model = slimcnn.insert_relations(model, torch.zeros(1, *shape))
    graph = slimcnn.trace(model, torch.zeros(1, *shape))
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, recipe.prune.criterion), recipe.prune.target)
    assert graph.macs(plan.counts(graph)) <= 0.51 * graph.macs()


def test_a_recipe_that_only_trains_survives_a_round_trip(tmp_path: Path) -> None:
    recipe = parse_recipe('prune = false\n[network]\nmodel = "resnet8"\n[pretrain]\nepochs = 2')
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert recipe.prune is None
    assert read_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = ", "is not TOML"),
        ("out = 'x'", "network: Field required"),
        ("[network]\nmodell = 'x'", "network.modell = 'x': Extra inputs are not permitted"),
        ("[network]\n[recover]\nhow = 'magic'", "recover.how = 'magic': Value error, choose none"),
        ("[network]\n[recover]\nhow = 'distill+finetune'", "training comes last, and once"),
        (
            "[network]\n[rewrite]\n[prune]\ncriterion = 'l2'",
            "the recipe: Value error, a run rewrites, distils",
        ),
        ("[network]\n[distill]\nloss = 'kd'", "distill.student: Field required"),
        ("[network]\n[rewrite]\n[recover]\nhow = 'least_squares'", "is about removed channels"),
        ("[network]\n[rewrite]\ninit = 'zeros'", "rewrite.init = 'zeros'"),
        ("[network]\n[recover.training]\nepochs = 0", "recover.training.epochs = 0"),
        (
            "[network]\n[prune.soft]\nepochs = 2\nema = 0.9",
            "soft training zeroes the weights, not their moving average",
        ),
        ("[network]\n[prune.target]\nratio = 0.5\nresidual = 'keep'", "Input should be 'auto', 'inner', 'cut' or"),
        ("[network]\n[data]\nlimit = 1", "data.limit = 1"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_says_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_impossible_target_keeps_its_own_words() -> None:
    with pytest.raises(TargetError, match=r"macs=2.0: the share"):
        parse_recipe("[network]\n[prune]\ntarget = { macs = 2.0 }")


def test_a_missing_recipe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(tmp_path / "nothing.toml")


def test_where_the_output_lies_makes_no_other_run() -> None:
    first = Recipe(network=Network(model="resnet8"), out="a")
    assert explain_difference(first, first.model_copy(update={"out": "b"})) == ""
    other = first.model_copy(update={"network": Network(model="resnet20")})
    assert explain_difference(first, other) == "network.model was resnet8, now resnet20"
