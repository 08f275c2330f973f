"""A run as its user sees it: what is kept, what runs again, what is refused, and who may work in a folder."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slimcnn
from laws.chain_runs import start
from slimcnn.datasets import Dataset
from slimcnn.errors import RecipeError, RunError, SearchError, SlimcnnError, TargetError
from slimcnn.reporting.schema import FORMAT
from slimcnn.running import Context, State, Step, read_recipe, recipe_from, run
from slimcnn.running.order import facts_before
from slimcnn.running.recipe import steps_from_line, write_recipe
from slimcnn.running.settings import Network
from slimcnn.show import Show
from slimcnn.steps import Distill, FoldConstants, LeastSquares, Prune, Recalibrate, Rewrite, Sparsify, Train
from slimcnn.steps.prune.search import help_search

QUICK = {"deterministic": True, "latency_seconds": 0.01}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return slimcnn.load_dataset("digits").limit(100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    for _ in slimcnn.fit(
        net, digits, training=slimcnn.Training(epochs=2, layout="nchw", precision="32", batch_size=32)
    ):
        pass
    return slimcnn.save(net, tmp_path_factory.mktemp("trained") / "net.safetensors")


def recipe(out: Path, line: str, weights: Path | None = None, **more: Any) -> slimcnn.Recipe:
    network = {"weights": str(weights)} if weights else {"model": "resnet8"}
    plain = {
        "network": network,
        "data": {"name": "digits", "limit": 100},
        "steps": steps_from_line(line),
        "out": str(out),
    }
    return recipe_from(plain | QUICK | more)


def told(found: list[str]) -> Show:
    return Show(say=found.append)


def test_a_chain_of_many_methods_runs_and_every_cut_is_proven(tmp_path: Path, trained: Path) -> None:
    line = (
        "train:epochs=1 + rewrite:images=64 + least_squares:images=64 + prune:macs=0.8,batches=1 + "
        "least_squares:images=64 + distill:epochs=1 + prune:macs=0.7,batches=1 + fold_constants + recalibrate:images=64"
    )
    found = run(recipe(tmp_path / "run", line, trained))
    report = found.report
    assert [step.name for step in report.steps] == [part.split(":")[0] for part in line.split(" + ")]
    assert report.verdict.equal
    assert report.verdict.text.startswith("2 cuts, each proven.")
    assert report.after.macs < 0.56 * report.before.macs
    titles = [section.title for section in report.sections]
    assert len(set(titles)) == len(titles)
    assert {"Widths (step 4)", "Widths (step 7)", "Training", "Distillation"} <= set(titles)
    again = slimcnn.load(tmp_path / "run" / "compressed.safetensors")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x), found.model(x))


def test_a_finished_run_is_read_and_not_run_again(tmp_path: Path, trained: Path) -> None:
    asked = recipe(tmp_path / "run", "prune:macs=0.5,batches=1 + recalibrate:images=64", trained)
    first, said = run(asked), []
    model, report = run(tmp_path / "run" / "recipe.toml")
    assert report == first.report
    assert torch.equal(model(torch.ones(1, 1, 8, 8)), first.model(torch.ones(1, 1, 8, 8)))
    second = run(asked, show=told(said))
    assert "already done: 1-prune, 2-recalibrate" in said
    assert not [line for line in said if "measuring" in line or line.startswith("[")]
    assert first.report == second.report


def test_a_finished_run_whose_report_is_of_another_version_or_damaged_writes_it_again(
    tmp_path: Path, trained: Path
) -> None:
    asked = recipe(tmp_path / "run", "recalibrate:images=64", trained)
    first, data = run(asked), tmp_path / "run" / "report.json"
    for content in (data.read_text().replace(f'"format": {FORMAT}', '"format": 1'), data.read_text()[:-9]):
        data.write_text(content)
        said: list[str] = []
        found = run(asked, show=told(said)).report
        assert [line for line in said if line.startswith(f"writing the report again: {data}")]
        assert "already done: 1-recalibrate" in said
        assert (found.after.top1, found.after.macs) == (first.report.after.top1, first.report.after.macs)
        assert slimcnn.reporting.read_report(data) == found


def test_a_mended_command_keeps_the_steps_that_did_not_change(tmp_path: Path, trained: Path) -> None:
    out, said = tmp_path / "run", []
    run(recipe(out, "recalibrate:images=64 + prune:macs=0.5,batches=1 + distill:epochs=1", trained))
    old = (out / "2-prune" / "model.safetensors").read_bytes()
    changed = recipe(out, "recalibrate:images=64 + prune:macs=0.6,batches=1 + distill:epochs=1", trained)
    found = run(changed, show=told(said))
    assert "already done: 1-recalibrate" in said
    assert "[1-recalibrate]" not in said
    assert "[2-prune]" in said
    assert 0.5 * found.report.before.macs < found.report.after.macs <= 0.6 * found.report.before.macs
    assert (out / "old" / "report.json").exists()
    said.clear()
    run(recipe(out, "recalibrate:images=64 + prune:macs=0.5,batches=1 + distill:epochs=1", trained), show=told(said))
    assert "already done: 1-recalibrate, 2-prune, 3-distill" in said, "the first settings' results came back"
    assert (out / "2-prune" / "model.safetensors").read_bytes() == old


def test_a_folder_of_another_network_or_other_weights_is_refused(
    tmp_path: Path, trained: Path, digits: Dataset
) -> None:
    out = tmp_path / "run"
    run(recipe(out, "recalibrate:images=64", trained))
    with pytest.raises(RunError, match=r"holds another run \(data.seed was 0, now 1\)"):
        run(recipe(out, "recalibrate:images=64", trained, data={"name": "digits", "limit": 100, "seed": 1}))
    other = tmp_path / "net.safetensors"
    shutil.copyfile(trained, other)
    run(recipe(tmp_path / "other", "recalibrate:images=64", other))
    torch.manual_seed(1)
    slimcnn.save(slimcnn.build("resnet8", in_channels=1), other)
    with pytest.raises(RunError, match="the weights file has changed"):
        run(recipe(tmp_path / "other", "recalibrate:images=64", other))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="is not empty and not a run folder"):
        run(recipe(tmp_path / "mine", "recalibrate:images=64", trained))


def test_two_runs_in_one_folder_one_is_refused_and_told_who_holds_it(tmp_path: Path, trained: Path) -> None:
    asked = recipe(tmp_path / "run", "train:epochs=500", trained)
    process = start(asked.plain(), tmp_path / "told")
    try:
        while not (tmp_path / "run" / "1-train" / "step.json").exists():
            assert process.is_alive(), (tmp_path / "told").read_text()
        with pytest.raises(RunError, match=f"is in use by process {process.pid} on "):
            run(asked)
    finally:
        process.kill()
        process.join()
    with pytest.raises(RunError, match="holds another run"):  # not "in use": the lock died with its process
        run(recipe(tmp_path / "run", "recalibrate", trained, data={"name": "digits", "limit": 50}))


@pytest.mark.parametrize(
    ("line", "weights", "message"),
    [
        ("least_squares", True, "step 1, least_squares: there is no cut or rewrite"),
        ("fold_constants", True, "step 1, fold_constants: there is no cut"),
        (
            "prune + recalibrate + fold_constants",
            True,
            "step 3, fold_constants: an earlier step has already compensated",
        ),
        ("prune + distill + least_squares", True, "step 3, least_squares: there is no cut"),
        ("prune", False, "step 1, prune: there is no trained network to prune: give --weights FILE, or put train in"),
        ("distill", False, "step 1, distill: there is no trained network as teacher"),
        ("prune:criterion=gfr", True, "criterion gfr needs channel relations: put sparsify in front"),
        ("sparsify + rewrite", True, "step 2, rewrite: the network has channel relations: put prune in front"),
        ("sparsify + sparsify", True, "step 2, sparsify: the network has channel relations already"),
        ("rewrite + rewrite", True, "step 2, rewrite: the network has feature reuse already"),
        ("rewrite:init=random + prune", True, "step 2, prune: there is no trained network"),
        (
            "prune + least_squares + recalibrate",
            True,
            "step 3, recalibrate: least_squares has just fitted the layers to the batch-norm statistics they have",
        ),
        ("rewrite", False, "step 1, rewrite: there is no trained network to start from"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_before_anything_runs(
    line: str, weights: bool, message: str, tmp_path: Path, trained: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        run(recipe(tmp_path / "run", line, trained if weights else None))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train:epochs=3 + prune:protect=layr1.*", "the pattern 'layr1.*' matches no layer"),
        ("train:epochs=3 + prune:protect=layr1,latency=0.5", "the pattern 'layr1' matches no layer"),
        ("train:epochs=3 + prune:protect=layr1,search.max_drop=1", "the pattern 'layr1' matches no layer"),
        ("train:epochs=3 + prune:macs=0.00001", "cannot reach macs"),
        ("train:epochs=3 + prune:criterion=l3", "unknown criterion 'l3'"),
        ("train:epochs=3 + prune:plan=nowhere.json", "nowhere.json"),
        ("train:epochs=3 + distill:loss=kd+scal", "unknown loss 'scal'"),
        ("train:epochs=3 + distill:student.model=resnet9", "unknown network 'resnet9'"),
        ("train:epochs=3 + rewrite:rule=feature_reuse:variant=odd", "variant"),
        ("train:epochs=3 + prune:search.storage=nonsense://x", "nonsense://x cannot be opened"),
        ("train:epochs=3 + prune:macs=0.5 + prune:macs=0.6,of=reference", "the network already has only"),
    ],
)
def test_what_can_be_refused_before_training_is(line: str, message: str, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(SlimcnnError) as caught:
        run(recipe(tmp_path / "run", line), show=told(said))
    assert message in str(caught.value)
    assert not [text for text in said if "epoch" in text]


def test_the_second_cut_may_count_from_the_network_that_the_run_began_with(tmp_path: Path, trained: Path) -> None:
    line = "prune:macs=0.7,batches=1 + prune:macs=0.5,of=reference,batches=1"
    report = run(recipe(tmp_path / "run", line, trained)).report
    assert 0.45 * report.before.macs < report.after.macs <= 0.5 * report.before.macs


def test_layout_and_precision_are_decided_once_a_folder_and_reported(tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "run"
    first = run(recipe(out, "train:epochs=1", trained, deterministic=False))
    decided = json.loads((out / "decision.json").read_text())
    assert set(decided) == {"layout", "precision"}
    assert any(decided["layout"] in note for note in first.report.notes)
    other = {"layout": "channels_last" if decided["layout"] == "nchw" else "nchw", "precision": "32"}
    (out / "decision.json").write_text(json.dumps(other))
    again = run(recipe(out, "train:epochs=2", trained, deterministic=False))
    state = torch.load(out / "1-train" / "training" / "state.pt", weights_only=True)
    assert (state["layout"], state["precision"]) == (other["layout"], "32"), "the folder's decision, not a new timing"
    assert again.report.steps[0].name == "train"


def test_a_deterministic_run_has_the_same_bytes_in_every_folder(tmp_path: Path, trained: Path) -> None:
    line = "prune:macs=0.5,batches=1 + least_squares:images=64 + distill:epochs=1"
    for name in "ab":
        run(recipe(tmp_path / name, line, trained))
    for file in ("original.safetensors", "compressed.safetensors", "plan.json", "2-least_squares/model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_users_own_network_trains_is_killed_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    (tmp_path / "own_net.py").write_text(
        "import slimcnn\n\ndef build(num_classes=10):\n    net = slimcnn.build('resnet8', in_channels=1)\n"
        "    del net.__dict__['architecture']\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    network = {"model": "own_net:build"}
    line = "train:epochs=1 + prune:macs=0.5,batches=1 + least_squares:images=64 + distill:epochs=2"

    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        if text.startswith("  epoch 1/2"):
            raise Stop

    asked = recipe(tmp_path / "run", line, network=network)
    with pytest.raises(Stop):
        run(asked, show=Show(say=stop))
    killed = run(asked)
    calm = run(recipe(tmp_path / "calm", line, network=network))
    assert (tmp_path / "run" / "compressed.safetensors").read_bytes() == (
        tmp_path / "calm" / "compressed.safetensors"
    ).read_bytes()
    assert killed.report.verdict.equal
    assert calm.report.after.top1 == killed.report.after.top1
    sys.modules.pop("own_net", None)


def test_another_process_may_join_the_search_on_a_network_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "searched_net.py").write_text(
        "import slimcnn\n\ndef build(num_classes=10):\n    net = slimcnn.build('resnet8', in_channels=1)\n"
        "    del net.__dict__['architecture']\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    line = "train:epochs=2 + prune:scope=local,search.max_drop=60,search.pruning_ratios=[0.1,0.3],search.refine=0"
    asked = recipe(tmp_path / "run", line, network={"model": "searched_net:build"})
    with pytest.raises(SearchError, match="has not begun its search yet"):
        begin(asked.model_copy(update={"out": str(tmp_path / "early")}))
    found = run(asked)
    assert found.report.verdict.equal
    assert help_search(tmp_path / "run") == 0, "the search has ended"
    sys.modules.pop("searched_net", None)


def begin(asked: slimcnn.Recipe) -> None:
    """Join a run whose recipe is written, and nothing else."""
    Path(asked.out).mkdir()
    write_recipe(asked, Path(asked.out) / "recipe.toml")
    help_search(Path(asked.out))


def test_a_folder_that_is_deleted_in_mid_run_is_noticed(tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "run"

    def delete(text: str) -> None:
        if text.startswith("[2-"):
            shutil.rmtree(out)

    with pytest.raises(RunError, match="was deleted"):
        run(recipe(out, "recalibrate:images=64 + prune:macs=0.5,batches=1", trained), show=Show(say=delete))


def test_several_sizes_share_one_trace_and_one_scoring(tmp_path: Path, trained: Path) -> None:
    said: list[str] = []
    asked = recipe(
        tmp_path / "run", "recalibrate:images=64 + prune:batches=1 + least_squares:images=64", trained, curve=[0.5, 0.8]
    )
    found = run(asked, show=told(said))
    assert len([text for text in said if "tracing" in text]) == 1
    assert len([text for text in said if "measuring the output error" in text]) == 1
    assert len([text for text in said if text == "[1-recalibrate]"]) == 1
    report = found.report
    assert [point.label for point in report.points] == ["0.8", "0.5"]
    shares = [point.after.macs / report.reference.macs for point in report.points]
    assert 0.5 < shares[0] <= 0.8
    assert shares[1] <= 0.5
    for point in report.points:
        assert (tmp_path / "run" / point.report).exists()
        assert point.verdict.equal
    said.clear()
    assert run(asked, show=told(said)).report == report
    assert not [text for text in said if text.startswith("[")]


def test_python_runs_the_same_chain_on_a_network_in_hand_and_leaves_it_alone(tmp_path: Path, digits: Dataset) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    chain = [Train(epochs=2, batch_size=32), Prune(macs=0.6), LeastSquares(images=64), Distill(epochs=1)]
    found = slimcnn.chain(
        net, digits, chain, trained=False, deterministic=True, latency_seconds=0.01, out=tmp_path / "r"
    )
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert found.report.after.macs <= 0.6 * found.report.before.macs
    assert found.model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert len(repr(found)) < 300
    assert "top-1" in found._repr_html_()
    assert slimcnn.chain(net, digits, chain, trained=False, deterministic=True, latency_seconds=0.01,
                         out=tmp_path / "r").report == found.report  # fmt: skip


def test_facts_follow_the_settings_of_steps() -> None:
    start_ = frozenset({"trained", "reference"})
    chain = [Sparsify(epochs=1), Prune(criterion="gfr"), FoldConstants(), Rewrite(init="random"), LeastSquares(),
             Distill(epochs=1), Recalibrate()]  # fmt: skip
    found = facts_before(chain, start_)
    assert "relations" in found[1]
    assert "relations" not in found[2]
    assert "constants" not in found[3]
    assert "trained" not in found[4]
    assert {"trained", "origin"} <= found[5]
    assert found[7] == start_ | {"units"}
    assert facts_before([Rewrite(rule="scatter")], start_)[1] == start_


def test_a_step_that_does_nothing_to_the_network_costs_no_copy_of_it(tmp_path: Path, trained: Path) -> None:
    class Look(Step):
        """Look at the network."""

        def run(self, state: State, at: Context) -> tuple[State, list[Any]]:
            return replace(state), []

    from slimcnn.running import steps

    if "look" not in steps:
        steps.add("look", source="a test")(Look)
    try:
        run(recipe(tmp_path / "run", "look", trained))
        done = json.loads((tmp_path / "run" / "1-look" / "done.json").read_text())
        assert done["model"] == "0-start/model.safetensors"
    finally:
        steps._entries.pop("look")


def test_a_step_that_leaves_the_network_worse_says_so_loudly(tmp_path: Path, trained: Path) -> None:
    said: list[str] = []
    found = run(
        recipe(tmp_path / "run", "recalibrate:images=64 + train:epochs=1,learning_rate=3,keep=last", trained),
        show=told(said),
    )
    (warning,) = [text for text in said if text.startswith("WARNING: train lowered validation top-1: ")]
    assert found.report.warnings == (warning.removeprefix("WARNING: "),)
    assert "keep the best epoch (--keep best)" in warning
    assert found.report.steps[1].metric < found.report.steps[0].metric


def test_the_unreachable_second_size_of_a_chain_says_what_is_possible(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(TargetError, match="the best possible is"):
        run(recipe(tmp_path / "run", "prune:macs=0.5,batches=1,protect=*", trained))


COMBINATIONS = sorted((Path(__file__).parents[2] / "recipes").glob("combine_*.toml"))


@pytest.mark.parametrize("path", COMBINATIONS, ids=lambda path: path.stem)
def test_every_shipped_combination_of_methods_runs(path: Path, tmp_path: Path, trained: Path) -> None:
    plain = read_recipe(path).plain() | QUICK | {"out": str(tmp_path / "run")}
    plain |= {"network": {"weights": str(trained)}, "data": {"name": "digits", "limit": 100}}
    for row in plain["steps"]:
        row |= {"epochs": 1} if "epochs" in row else {}
        row |= {"images": 64} if "images" in row else {}
        row |= {"batches": 1} if "batches" in row else {}
        if "search" in row:
            row["search"] |= {"max_drop": 90.0, "pruning_ratios": [0.1, 0.3], "refine": 0.0}
    report = run(recipe_from(plain)).report
    assert [step.name for step in report.steps] == [row["step"] for row in plain["steps"]]
    assert report.verdict.equal
    assert report.after.macs < 0.9 * report.before.macs


def test_the_three_combinations_are_shipped() -> None:
    chains = {path.stem: [step.name for step in read_recipe(path).steps] for path in COMBINATIONS}
    assert sorted(chains.values()) == [
        ["prune", "least_squares", "distill", "prune", "distill"],
        ["rewrite", "prune", "least_squares", "distill"],
        ["sparsify", "prune", "fold_constants", "distill"],
    ]


def test_a_student_from_a_checkpoint_learns_from_a_network_in_hand(
    tmp_path: Path, digits: Dataset, trained: Path
) -> None:
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    chain = [Distill(student=Network(weights=str(trained)), epochs=1), Prune(macs=0.8, batches=1)]
    found = slimcnn.chain(teacher, digits, chain, deterministic=True, latency_seconds=0.01, out=tmp_path / "run")
    assert found.model.architecture["model"] == "resnet8"
    assert [step.name for step in found.report.steps] == ["distill", "prune"]
    assert found.report.before.params == 650


def test_what_a_step_draws_does_not_depend_on_what_ran_before_in_the_same_process(
    tmp_path: Path, trained: Path
) -> None:
    for name in "ab":
        torch.manual_seed(len(name) if name == "a" else 7)
        run(recipe(tmp_path / name, "sparsify:epochs=1", trained))
    one, other = (tmp_path / name / "1-sparsify" / "model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes(), "gates begin at random"


def test_recalibration_may_follow_a_refit_once_the_weights_have_changed() -> None:
    start_ = frozenset({"trained", "reference"})
    for between in (Distill(epochs=1), Train(epochs=1), Sparsify(epochs=1), Prune(), Rewrite()):
        facts_before([Prune(), LeastSquares(), between, Recalibrate()], start_)
    facts_before([Prune(), Recalibrate(), LeastSquares()], start_)
