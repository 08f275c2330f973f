"""The command line does the main job, and answers a mistake with one line and exit code 2."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import slimcnn
from command_line import call

QUICK = "--data digits --limit 300 --deterministic --set latency_seconds=0.2"
CUT = "compress --to none --minutes 0"
COMPRESS = f"compress --model resnet8 --pretrain 1 --epochs 1 {QUICK}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run that several tests look at."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = subprocess.run(
        [sys.executable, "-m", "slimcnn.cli", *shlex.split(COMPRESS), "--out", str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("fewer MACs") < done.stdout.index("The cut is exact") < done.stdout.index("top-1, %")
    assert "report.html" in done.stdout
    (folder / "said").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_a_run_ends_with_a_file_that_two_lines_of_python_run_without_slimcnn(finished: Path, tmp_path: Path) -> None:
    known = json.loads((finished / "parity.json").read_text())["onnx"]
    assert (known["status"], known["agreement"], known["images"]) == ("equal", 100.0, 256)
    assert known["max_error"] < 1e-5
    assert set(known["files"]) == {"model.onnx"}
    lines = [line.strip() for line in (finished / "said").read_text().splitlines()[-2:]]
    data = slimcnn.load_dataset("digits")
    images = data.normalization(data.test.pixels[:5])
    np.save(tmp_path / "images.npy", images.numpy())
    start = "import sys, numpy; sys.modules['torch'] = sys.modules['slimcnn'] = None; images = numpy.load('images.npy')"
    code = "\n".join([start, *lines, "numpy.save('scores.npy', scores)"])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    small = slimcnn.load(finished / "compressed.safetensors")
    with torch.no_grad():
        assert np.allclose(np.load(tmp_path / "scores.npy"), small(images).numpy(), atol=1e-4)


def test_a_run_leaves_report_checkpoint_plan_and_recipe(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    for when in ("before", "after"):
        assert set(report[when]) == {"top1", "metric", "params", "macs", "bytes", "peak_memory", "latency_ms"}
    assert report["verdict"]["equal"]
    assert report["locked"][0]["reason"] == "the network's output"
    assert [step["name"] for step in report["steps"]] == ["train", "prune", "least_squares", "distill", "export"]
    assert all(step["seconds"] > 0 and 0 <= step["metric"] <= 100 for step in report["steps"])
    assert report["after"]["bytes"] == (finished / "compressed.safetensors").stat().st_size
    small = slimcnn.load(finished / "compressed.safetensors")
    assert slimcnn.measure(small, torch.zeros(1, 1, 8, 8)).macs == report["after"]["macs"]
    assert {"plan.json", "recipe.toml", "report.html"} <= {path.name for path in finished.iterdir()}


@pytest.mark.parametrize(
    ("options", "names", "told"),
    [
        ("--scope local", ["least_squares"], "without labels"),
        ("--recover least_squares:synthetic=true", ["least_squares"], "batch-norm statistics"),
        ("--recover recalibrate+least_squares", ["recalibrate", "least_squares"], "without labels"),
        ("--recover 'recalibrate:images=64 + least_squares'", ["recalibrate", "least_squares"], "64 training images"),
        ("--recover fold_constants", ["fold_constants"], "constants"),
    ],
)
def test_steps_that_need_no_training_are_taken_in_their_order(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: str, names: list[str], told: str,
) -> None:  # fmt: skip
    out = tmp_path / "quick"
    command = f"{CUT} --weights {finished / 'original.safetensors'} {options} {QUICK} --out {out}"
    code, _, said = call(command, capsys, monkeypatch)
    assert code == 0, said
    report = json.loads((out / "report.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["prune", *names]
    assert told in json.dumps(report["sections"])


def test_refitting_makes_the_network_no_worse(finished: Path) -> None:
    steps = json.loads((finished / "report.json").read_text())["steps"]
    metrics = {step["name"]: step["metric"] for step in steps}
    assert metrics["least_squares"] >= metrics["prune"]


def test_the_reported_top1_is_that_of_the_file(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads((finished / "report.json").read_text())
    command = f"evaluate --weights {finished / 'compressed.safetensors'} --data digits --limit 300 --json"
    code, out, _ = call(command, capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)["top1"] == pytest.approx(report["after"]["top1"])


def test_the_recipe_repeats_the_run_and_the_plan_can_be_passed_back(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    code, out, _ = call(f"run {finished / 'recipe.toml'} --out {again} --json", capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)["after"]["macs"] == json.loads((finished / "report.json").read_text())["after"]["macs"]
    plan = finished / "plan.json"
    command = f"{CUT} --weights {finished / 'original.safetensors'} --recover none --plan {plan} {QUICK}"
    code, out, _ = call(f"{command} --out {tmp_path / 'plan'} --json", capsys, monkeypatch)
    assert code == 0
    assert (tmp_path / "plan" / "plan.json").read_text() == plan.read_text()


def test_a_dry_run_shows_and_writes_the_plan_and_its_folder_can_be_used(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = finished / "original.safetensors"
    base = f"{CUT} --weights {weights} --pruning-ratio 0.25 --recover recalibrate {QUICK} --out {tmp_path / 'r'}"
    code, out, _ = call(f"{base} --dry-run", capsys, monkeypatch)
    assert code == 0
    assert "layer1.0.conv1" in out
    path = tmp_path / "r" / "plan.json"
    edited = json.loads(path.read_text())
    edited["groups"] = [row | {"removed": [0]} if row["removed"] else row for row in edited["groups"]]
    path.write_text(json.dumps(edited))
    code, out, _ = call(f"{base} --plan {path} --json", capsys, monkeypatch)
    assert code == 0
    kept = widths(json.loads(out))
    assert all(kept <= channels <= kept + 1 for channels, kept in kept.values())
    assert any(channels == kept + 1 for channels, kept in kept.values())


def test_a_lack_of_memory_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object) -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes\nfrom ..."
        )

    monkeypatch.setattr("slimcnn.running.loading.load_subject", allocate)
    code, _, said = call("inspect --model resnet8", capsys, monkeypatch)
    assert code == 2
    assert said.startswith("slimcnn: not enough memory (DefaultCPUAllocator: can't allocate memory: you tried to")
    assert said.count("\n") == 1


def widths(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Channels of every group before and after."""
    blocks = [block for section in report["sections"] for block in section["blocks"]]
    (figure,) = (block for block in blocks if block["kind"] == "figure" and block["figure"] == "widths")
    return {group["name"]: (group["channels"], group["kept"]) for group in figure["data"]["groups"]}


def test_report_renders_again_from_the_numbers(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "report.html").read_bytes()
    code, out, _ = call(f"report {finished}", capsys, monkeypatch)
    assert code == 0
    assert "MACs" in out
    assert (finished / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["list", "list steps", "list prune", "list criteria", "inspect --model resnet20", "measure --model resnet8"],
)
def test_commands_that_look_answer_people_and_machines(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(command, capsys, monkeypatch)
    assert code == 0
    assert len(out) > 100
    code, out, err = call(f"{command} --json", capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)
    assert err == ""


def test_streams_keep_their_width_and_filters_are_chosen_anew_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"{CUT} --model resnet8 --pretrain 1 --pruning-ratio 0.5 --residual scatter --soft-epochs 2 {QUICK}"
    code, out, err = call(f"{command} --recover recalibrate --out {tmp_path}/r", capsys, monkeypatch)
    assert code == 0, err
    assert "The cut is exact" in out
    assert "soft filter pruning: 2 epochs" in err
    tmp_path = tmp_path / "r"
    small = slimcnn.load(tmp_path / "compressed.safetensors")
    assert (small.layer3[0].bn2.num_features, small.layer3[0].bn2.width) == (32, 64)
    code, out, err = call(
        f"evaluate --weights {tmp_path}/compressed.safetensors --limit 300 --json", capsys, monkeypatch
    )
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(out)["top1"] == pytest.approx(report["after"]["top1"])


@pytest.mark.slow
def test_gfr_trains_sparsely_searches_cuts_and_folds_away_and_others_may_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    quick = "--deterministic --set latency_seconds=0.2 --limit 500"
    command = f"{CUT} --model resnet8 --method gfr --sparsity-epochs 12 --max-drop 60 {quick}"
    code, out, err = call(f"{command} --out {first}", capsys, monkeypatch)
    assert code == 0, err
    assert "The cut is exact" in out
    report = json.loads((first / "report.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["sparsify", "prune", "fold_constants"]
    blocks = {b["figure"]: b["data"] for s in report["sections"] for b in s["blocks"] if b["kind"] == "figure"}
    assert blocks["pareto"]["best"]["metric"] >= blocks["pareto"]["base"] - 60
    assert report["after"]["macs"] < report["before"]["macs"]
    assert len(blocks["training"]["epochs"]) == 12
    names = load_file(first / "compressed.safetensors").keys()
    assert not [name for name in names if ".gate." in name or name.endswith(".sr")], "folded away"
    page = (first / "report.html").read_text()
    assert "Scales and relations" in page
    assert "Search results" in page
    code, out, _ = call(f"search --join {first}", capsys, monkeypatch)
    assert (code, out) == (0, "0 configurations tried here; the search has ended\n")
    sparse = first / "1-sparsify" / "model.safetensors"
    again = f"{CUT} --weights {sparse} --method gfr --max-drop 60 {quick} --out {second}"
    code, out, err = call(again, capsys, monkeypatch)
    assert code == 0, err
    assert "sparsity training is skipped" in " ".join(err.split())
    a, b = load_file(first / "compressed.safetensors"), load_file(second / "compressed.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_search_needs_neither_gfr_nor_sparsity_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"{CUT} --weights {finished}/original.safetensors --max-drop 5 --recover recalibrate {QUICK}"
    ratios = "--set prune.scope=local --set prune.search.pruning_ratios=[0.1,0.3,0.5] --set prune.search.refine=0"
    code, _, err = call(
        f"{command} {ratios} --storage sqlite:///{tmp_path}/s.db --out {tmp_path}/run", capsys, monkeypatch
    )
    assert code == 0, err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    blocks = {b["figure"]: b["data"] for s in report["sections"] for b in s["blocks"] if b["kind"] == "figure"}
    assert len(blocks["pareto"]["tried"]) == 3
    assert (tmp_path / "s.db").exists()


def test_a_trained_network_is_rewritten_begins_from_its_features_and_is_cut_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"rewrite --model resnet8 --pretrain 3 --epochs 1 {QUICK} --out {tmp_path}/fr"
    code, out, err = call(run, capsys, monkeypatch)
    assert code == 0, err
    report = json.loads((tmp_path / "fr" / "report.json").read_text())
    assert report["verdict"] is None
    assert [step["name"] for step in report["steps"]] == ["train", "rewrite", "distill"]
    assert report["after"]["params"] == 72_090
    sections = {section["title"]: section["blocks"] for section in report["sections"]}
    (units,) = (block["data"]["units"] for block in sections["Rewritten layers"] if block["kind"] == "figure")
    assert [unit["place"] for unit in units] == ["layer1.0"]
    (changes,) = (block["rows"] for block in sections["Rewritten layers"] if block["kind"] == "table")
    assert {row[0] for row in changes if not row[2]} == {"layer1.0.conv1", "layer1.0.conv2"}
    assert {"conv1", "layer1.0.conv2"} <= {row[0] for row in sections["Layer by layer"][0]["rows"]}
    page = (tmp_path / "fr" / "report.html").read_text()
    assert "Rewritten layers" in page
    assert "Was the cut exact?" not in page
    code, again, _ = call(run, capsys, monkeypatch)
    assert code == 0
    assert out == again
    cut = f"{CUT} --weights {tmp_path}/fr/compressed.safetensors {QUICK} --recover none --out {tmp_path}/cut"
    code, out, err = call(cut, capsys, monkeypatch)
    assert code == 0, err
    assert "The cut is exact" in out


def test_rewriting_without_data_shows_every_layer_and_writes_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(f"rewrite --model vgg16 --out {tmp_path}/a", capsys, monkeypatch)
    assert code == 0, err
    assert "features.34" in out
    assert "12 of 13 layers replaced" in out
    code, out, _ = call(f"rewrite --model vgg16 --rewrite scatter --out {tmp_path}/b", capsys, monkeypatch)
    assert code == 2
    code, out, _ = call(f"rewrite --model vgg16 --json --out {tmp_path}/a", capsys, monkeypatch)
    found = json.loads(out)
    assert found["params"]["after"] == 6_434_282
    code, out, _ = call(f"measure --weights {found['checkpoint']} --json", capsys, monkeypatch)
    assert json.loads(out)["params"] == 6_434_282
    code, out, _ = call("measure --model vgg16 --rewrite feature_reuse:variant=half --json", capsys, monkeypatch)
    assert json.loads(out)["params"] < 0.51 * 14_724_042


@pytest.mark.slow
def test_a_rewritten_network_is_trained_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = "--rewrite feature_reuse:transition=concat --epochs 1 --data digits --limit 200 --deterministic"
    code, _, err = call(f"train --model resnet8 {wishes} --out {tmp_path}/t", capsys, monkeypatch)
    assert code == 0, err
    assert type(slimcnn.load(tmp_path / "t" / "original.safetensors").layer2[0]).__name__ == "ReusingBlock"


def test_a_student_learns_from_a_teacher_and_a_compressed_network_from_its_original(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = f"{QUICK} --epochs 1"
    teacher = f"--teacher-weights {finished}/original.safetensors"
    width = "--student-arg width=0.5"
    loss = "--loss kd+scale_factor:warmup=1+attention:layer=layer3"
    code, _, err = call(
        f"distill {teacher} --student resnet8 {width} {loss} {quick} --out {tmp_path}/s", capsys, monkeypatch
    )
    assert code == 0, err
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["distill"]
    blocks = {b["figure"]: b["data"] for s in report["sections"] for b in s["blocks"] if b["kind"] == "figure"}
    epoch = blocks["training"]["epochs"][0]
    assert set(epoch["terms"]) == {"cross_entropy", "kd", "scale_factor", "attention"}
    assert epoch["gradients"]["kd"] > 0
    assert report["after"]["params"] == 19_074
    assert len(blocks["closeness"]["networks"]["teacher"]) == 10
    assert "Class closeness" in (tmp_path / "s" / "report.html").read_text()
    known = f"--student-weights {finished}/compressed.safetensors --extra-teacher {finished}/original.safetensors"
    code, out, err = call(
        f"distill {teacher} {known} --loss dkd --teacher-cache 2 {quick} --out {tmp_path}/c --json", capsys, monkeypatch
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["after"]["params"] == json.loads((finished / "report.json").read_text())["after"]["params"]
    assert "1 cross_entropy + 1 dkd" in json.dumps(found["sections"])


@pytest.mark.slow
def test_branches_may_vanish_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = f"{COMPRESS} --pruning-ratio 1 --min-channels 0 --residual inner --out {tmp_path / 'out'}"
    code, _, err = call(line, capsys, monkeypatch)
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert widths(report)["layer1.0.conv1"][1] == 0
    assert report["verdict"]["equal"]


@pytest.mark.parametrize(
    "wish",
    [
        "--student resnet9",
        "--student resnet8 --student-arg wide=2",
        "--student resnet8 --teacher-arg width",
        "--student resnet8 --extra-teacher nowhere.safetensors",
        "--student-weights nowhere.safetensors",
        "--student resnet8 --loss kd+scal",
        "--student resnet8 --loss 2x*kd",
        "--student resnet8 --loss kd+attention:layer=layer3 --teacher-cache 2",
    ],
)
def test_a_lesson_that_cannot_be_is_refused_before_the_teacher_is_trained(
    wish: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"distill --teacher resnet8 --pretrain 3 --data digits {wish} --out {tmp_path}/d"
    code, _, err = call(command, capsys, monkeypatch)
    assert code == 2
    assert "epoch" not in err


def test_a_criterion_that_is_unknown_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, _, err = call(f"compress --model resnet8 --pretrain 1 --criterion l3 --out {out}", capsys, monkeypatch)
    assert code == 2
    assert "unknown criterion 'l3'" in err
    assert "epoch" not in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compress --model resnet21 --data digits", "did you mean 'resnet20'"),
        ("compress --model resnet8 --pretrain 1 --criterion fpfd --limit 100", "did you mean 'fpdf'"),
        ("compress --model resnet8 --data cifar11 --pretrain 1", "did you mean 'cifar10'"),
        ("compress --model resnet8", "step 1, prune: there is no trained network"),
        ("compress", "no network named: pass --model NAME"),
        ("compress --model resnet8 --pretrain 1 --macs 0", "macs=0.0"),
        ("compress --model resnet8 --pretrain 1 --macs -1", "macs=-1.0"),
        ("compress --model resnet8 --pretrain 1 --macs 1.5", "macs=1.5"),
        ("compress --model resnet8 --pretrain 1 --recover magic", "unknown step 'magic'"),
        ("compress --model resnet8 --pretrain 1 --recover recalibrate --epochs 3", "add +distill"),
        (
            "compress --model resnet8 --pretrain 1 --recover distill+fold_constants",
            "step 4, fold_constants: there is no",
        ),
        ("compress --model resnet8 --pretrain 1 --recover none+recalibrate", "unknown step 'none'"),
        ("compress --weights nothing.safetensors --keep last", "--keep needs a training step: add --epochs or"),
        ("compress --model resnet8 --pretrain 1 --keep first", "keep = 'first'"),
        ("compress --model resnet8 --pretrain 1 --recover least_squares+recalibrate", "would undo the fit"),
        ("compress --model resnet8 --pretrain 1 --curve 0.8,half", "--curve '0.8,half'"),
        ("compress --model resnet8 --pretrain 1 --curve 0.8,2", "curve.1 = 2.0"),
        ("run", "nothing to run: pass a recipe"),
        ("run --steps prune --model resnet8 --data digits", "step 1, prune: there is no trained network"),
        ("--import no_such_module list", "no_such_module"),
        ("compress --model resnet8 --pretrain 1 --set prunes.macs=1", "'prunes' is not network, data or one of"),
        ("compress --model resnet8 --pretrain 1 --scope everywhere", "scope"),
        ("compress --model resnet8 --weights nothing.safetensors", "nothing.safetensors"),
        ("compress --model resnet8 --model-arg depth=3 --pretrain 1", "resnet8 has no argument 'depth'"),
        ("compress --model resnet8 --model-arg depth --pretrain 1", "expected name=value"),
        ("compress --model no.such.module:build --pretrain 1", "no module"),
        ("compress --model resnet8 --pretrain 1 --method gfd", "the only method is gfr"),
        (
            "compress --model resnet8 --pretrain 1 --max-drop 1 --macs 0.5",
            "remove --macs",
        ),
        ("compress --model resnet8 --pretrain 1 --storage sqlite:///x.db", "add --max-drop"),
        ("compress --model resnet8 --pretrain 1 --method gfr --dry-run", "depends on sparsity training or a search"),
        ("compress --model resnet8 --method gfr --set sparsify.penalty=l3", "step 1, sparsify: penalty = 'l3'"),
        ("compress --model resnet8 --method gfr --sparsity-epochs 0", "step 1, sparsify: epochs = 0"),
        ("compress --model resnet8 --method gfr --storage nonsense://x --limit 100", "nonsense://x cannot be opened"),
        ("search --join nothing", "cannot read the recipe"),
        ("inspect --model torchvision:resnet1", "resnet18"),
        ("inspect --model resnet8 --input 8by8", "expected a shape such as 3x224x224"),
        ("measure --model resnet8 --input 3x8x8", "does not accept an example"),
        ("run nothing.toml", "cannot read the recipe"),
        ("report nothing", "nothing"),
        ("list shapes", "unknown kind 'shapes'"),
        ("evaluate --model resnet8 --part training", "unknown part 'training'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(command, capsys, monkeypatch)
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("slimcnn: ")
    assert message in last
    assert "Traceback" not in err


def test_a_folder_of_another_run_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(f"{COMPRESS} --seed 1 --out {finished}", capsys, monkeypatch)
    assert code == 2
    assert "holds another run (network.seed was 0, now 1; data.seed was 0, now 1)" in err
    (tmp_path / "letter.txt").write_text("dear")
    code, _, err = call(f"{COMPRESS} --out {tmp_path}", capsys, monkeypatch)
    assert code == 2
    assert "is not empty and not a run folder" in err


def test_an_unreachable_target_says_what_is_possible(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"{CUT} --weights {finished / 'original.safetensors'} {QUICK} --out {tmp_path / 'r'} --macs 0.5"
    code, _, err = call(f"{base} --protect '*'", capsys, monkeypatch)
    assert code == 2
    assert "the best possible is macs=1;" in err
    assert "protected: *" in err


def test_weights_that_hold_nan_or_code_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = slimcnn.build("resnet8").state_dict()
    state["conv1.weight"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    code, _, err = call(f"compress --model resnet8 --weights {tmp_path / 'nan.safetensors'}", capsys, monkeypatch)
    assert code == 2
    assert "conv1.weight" in err
    torch.save(slimcnn.build("resnet8"), tmp_path / "code.pt")
    code, _, err = call(f"compress --model resnet8 --weights {tmp_path / 'code.pt'}", capsys, monkeypatch)
    assert code == 2
    assert "code.pt" in err


def test_ctrl_c_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    line = f"{CUT} --model resnet8 --pretrain 500 {QUICK} --out {tmp_path / 'out'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "slimcnn.cli", *shlex.split(line)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # else it inherits that SIGINT is ignored
    )
    state = tmp_path / "out" / "1-train" / "training" / "state.pt"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert b"interrupted; run the same command to resume" in process.communicate()[1]
    assert process.returncode == 130
    assert torch.load(state, weights_only=True)["history"]


def test_a_rewrite_of_an_input_that_the_network_does_not_accept_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, error = call(f"rewrite --model resnet8 --input 1x8 --out {tmp_path}", capsys, monkeypatch)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "the network" in error
