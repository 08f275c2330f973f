"""Which recipe runs for which values, and what is refused before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_studies import TEXT, changed, small_study

from slimcnn.errors import SlimcnnError, StudyError
from slimcnn.studying import card, parse_study, read_rows, read_study
from slimcnn.studying.points import baseline_of, check_points, find_point, folder_name, points_of, recipe_at
from slimcnn.studying.rows import DATA, TABLE


def test_every_combination_of_the_lists_runs_once_per_seed() -> None:
    study = small_study(("[0.6]", "[0.6, 0.5]"))
    labels = [tuple(point.label.values()) for point in points_of(study)]
    assert sorted(labels) == [("fpgm", 0.5), ("fpgm", 0.6), ("l2", 0.5), ("l2", 0.6)]
    assert study.runs == 8


def test_the_baseline_runs_before_what_is_compared_with_it() -> None:
    labels = [tuple(point.label.values()) for point in points_of(small_study(("[0.6]", "[0.6, 0.5]")))]
    assert labels == [("l2", 0.6), ("fpgm", 0.6), ("l2", 0.5), ("fpgm", 0.5)]


def test_a_value_and_a_seed_reach_the_recipe() -> None:
    study = small_study()
    point = points_of(study)[1]
    recipe = recipe_at(study, point, 7, Path("runs/x"))
    train, prune = recipe.steps
    assert (prune.criterion, prune.macs, prune.seed) == ("fpgm", 0.6, 7)  # type: ignore[attr-defined]
    assert train.seed == 7  # type: ignore[attr-defined]
    assert recipe.network.seed == 7


def test_a_seed_that_the_recipe_states_stays() -> None:
    study = small_study(("epochs = 1", "epochs = 1\nseed = 3"))
    recipe = recipe_at(study, points_of(study)[0], 7, Path("runs/x"))
    assert recipe.steps[0].seed == 3  # type: ignore[attr-defined]


def test_whole_chains_vary_by_label() -> None:
    study = small_study(
        ('"prune.criterion" = ["fpgm", "l2"]\n"prune.macs" = [0.6]', '[vary.steps]\nshort = "train:epochs=1"\n'
         'l2 = "train:epochs=1 + prune:macs=0.6"'),
    )  # fmt: skip
    points = points_of(study)
    assert [point.label for point in points] == [{"steps": "l2"}, {"steps": "short"}]
    names = [[step.name for step in recipe_at(study, point, 0, Path("x")).steps] for point in points]
    assert names == [["train", "prune"], ["train"]]
    assert find_point(study, {"steps": "short"}) == points[1]


def test_listed_points_run_as_listed_and_combine_with_lists() -> None:
    text = changed(('"prune.criterion" = ["fpgm", "l2"]\n', "")) + (
        '[[points]]\n"prune.criterion" = "l2"\n"train.epochs" = 1\n'
        '[[points]]\n"prune.criterion" = "fpgm"\n"train.epochs" = 2\n'
    )
    points = points_of(parse_study(text))
    assert [tuple(point.label.values()) for point in points] == [("l2", 1, 0.6), ("fpgm", 2, 0.6)]
    assert recipe_at(parse_study(text), points[1], 0, Path("x")).steps[0].epochs == 2  # type: ignore[attr-defined]


NAMED_POINTS = """
[points.l2]
"prune.criterion" = "l2"
[points.longer]
"prune.criterion" = "l2"
"train.epochs" = 2
[points.alone]
steps = "train:epochs=3"
"network.arguments.width" = 0.5
"""


def test_named_points_may_set_different_things_and_are_told_apart_by_name() -> None:
    study = parse_study(changed(('[vary]\n"prune.criterion" = ["fpgm", "l2"]\n"prune.macs" = [0.6]\n', NAMED_POINTS)))
    points = points_of(study)
    assert [point.label for point in points] == [{"point": "l2"}, {"point": "longer"}, {"point": "alone"}]
    longer, alone = (recipe_at(study, point, 0, Path("x")) for point in points[1:])
    assert (longer.steps[0].epochs, longer.steps[1].criterion) == (2, "l2")  # type: ignore[attr-defined]
    assert ([step.name for step in alone.steps], alone.steps[0].epochs) == (["train"], 3)  # type: ignore[attr-defined]
    assert alone.network.arguments["width"] == 0.5
    assert find_point(study, {"point": "longer"}) == points[1]
    assert study.runs == 6


def test_named_points_combine_with_lists() -> None:
    named = '[points.short]\n"train.epochs" = 1\n[points.long]\n"train.epochs" = 2\n'
    points = points_of(parse_study(changed() + named))
    assert [tuple(point.label.values()) for point in points] == [
        ("short", "l2", 0.6), ("short", "fpgm", 0.6), ("long", "l2", 0.6), ("long", "fpgm", 0.6)
    ]  # fmt: skip


def test_folders_differ_for_different_recipes_and_seeds() -> None:
    study = small_study(("[0.6]", "[0.6, 0.5]"))
    names = {
        folder_name(recipe_at(study, point, seed, Path("anywhere")), point, seed)
        for point in points_of(study)
        for seed in (0, 1)
    }
    assert len(names) == 8
    first = points_of(study)[0]
    elsewhere = folder_name(recipe_at(study, first, 0, Path("elsewhere")), first, 0)
    assert elsewhere in names


def test_the_second_step_of_a_kind_varies_by_number() -> None:
    two = ('"prune.macs" = [0.6]', '"prune#2.macs" = [0.6]')
    again = ("[vary]", '[[steps]]\nstep = "prune"\nmacs = 0.9\n[vary]')
    study = small_study(two, again, ('"prune.criterion" = ["fpgm", "l2"]', '"prune#1.criterion" = ["fpgm", "l2"]'))
    recipe = recipe_at(study, points_of(study)[0], 0, Path("x"))
    assert [getattr(step, "macs", None) for step in recipe.steps] == [None, None, 0.6]


def test_whole_networks_vary_by_label() -> None:
    both = "[vary.network]\nthin = {model = 'resnet8', arguments = {width = 0.5}}\nfull = {model = 'resnet8'}"
    study = small_study(('"prune.criterion" = ["fpgm", "l2"]\n"prune.macs" = [0.6]', both), ('baseline = "l2"', ""))
    points = points_of(study)
    check_points(study, points)
    found = [recipe_at(study, point, 0, Path("x")).network.arguments for point in points]
    assert found == [{"width": 0.5}, {}]


@pytest.mark.parametrize(
    "page", sorted((Path(__file__).parents[2] / "benchmarks").glob("*.toml")), ids=lambda p: p.stem
)
def test_our_own_studies_are_valid_and_their_pages_are_those_of_their_rows(page: Path) -> None:
    study = read_study(page)
    check_points(study, points_of(study))
    baseline_of(study)
    kept = page.with_suffix("")
    if (kept / DATA).exists():
        assert (kept / TABLE).read_text() == card(read_rows(kept))


def test_the_page_of_all_results_is_that_of_the_rows() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "results.py"
    found = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("page", ["docs/guides/studies.md", "recipes/studies/criteria.toml"])
def test_the_studies_that_we_show_are_valid(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text()
    study = parse_study(text.partition("```toml\n")[2].partition("```")[0] or text)
    points = points_of(study)
    check_points(study, points)
    assert len(points) == 12
    assert points[0].label["prune.criterion"] == "l2"


REFUSED = {
    "a misspelt step": (('"prune.macs"', '"pruen.macs"'), "'pruen.macs': did you mean 'prune'?"),
    "a misspelt setting": (('"prune.macs"', '"prune.mac"'), "mac"),
    "an empty list": (("[0.6]", "[]"), "prune.macs is empty"),
    "a value twice": (("[0.6]", "[0.6, 0.6]"), "0.6 is listed twice"),
    "a seed twice": (("[0, 1]", "[0, 0]"), "0 is listed twice"),
    "no seeds": (("[0, 1]", "[]"), "the list is empty"),
    "an unknown measure": (('"params"]', '"paramz"]'), "unknown measure 'paramz': did you mean 'params'?"),
    "an unknown runtime": (('"params"]', '"latency:openvin"]'), "unknown runtime 'openvin': did you mean 'openvino'?"),
    "an unknown baseline": (('baseline = "l2"', 'baseline = "l3"'), "baseline 'l3' is no value of"),
    "a value out of range": (("[0.6]", "[1.6]"), "1.6"),
    "an unknown criterion": (('"fpgm"', '"fpmg"'), "unknown criterion 'fpmg': did you mean 'fpgm'?"),
    "a chain that makes no sense": (('step = "train"\nepochs = 1', 'step = "recalibrate"'), "no trained network"),
    "an unknown key of study": (("seeds =", "seed ="), "did you mean 'seeds'?"),
    "an out": (("deterministic = true", 'out = "x"'), "out: every run has its own folder"),
    "no TOML": (("[study]", "[study"), "is not TOML"),
    "a range without tpe": (("[0.6]", "{low = 0.3, high = 0.6}"), "is a range"),
    "objectives without tpe": (("seeds =", "objectives = {validation = \"max\"}\nseeds ="), "belong together"),
    "test images as objective": (
        ("seeds =", 'sampler = "tpe"\nobjectives = {accuracy = "max"}\nseeds ='), "must not choose"
    ),
    "a named point that is no table": (("[vary]", '[points]\nshort = 3\n[vary]'), "short needs a table of settings"),
    "a setting of a named point that varies anyway": (
        ("[vary]", '[points.short]\n"prune.macs" = 0.5\n[vary]'), "prune.macs is in vary and in points"
    ),
    "a misspelt setting in a named point": (("[vary]", '[points.short]\n"train.epoch" = 5\n[vary]'), "'epochs'"),
    "a curve": (("deterministic = true", "deterministic = true\ncurve = [0.5]"), "curve: a study has one size per run"),
}  # fmt: skip


def checked(*changes: tuple[str, str]) -> None:
    study = small_study(*changes)
    baseline_of(study)
    check_points(study, points_of(study))


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_in_one_line_before_anything_runs(what: str) -> None:
    change, said = REFUSED[what]
    with pytest.raises(SlimcnnError) as refusal:
        checked(change)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_nothing_that_varies_is_refused() -> None:
    with pytest.raises(StudyError, match="nothing varies"):
        parse_study(TEXT.partition("[vary]")[0])


def test_an_ambiguous_baseline_is_refused_and_the_way_out_works() -> None:
    both = ('"prune.macs" = [0.6]', '"prune.scope" = ["l2"]')
    with pytest.raises(StudyError, match=r"is a value of prune\.criterion, prune\.scope"):
        checked(both)
    named = ('baseline = "l2"', 'baseline = {"prune.criterion" = "l2"}')
    assert baseline_of(small_study(both, named)) == {"prune.criterion": "l2"}
