"""A finished run is checked again from its files: what is true passes, whatever changed is named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import earlier_names
import slimcnn
from slimcnn.checkpoints import read_information
from slimcnn.errors import RunError
from slimcnn.manifest import MANIFEST, files_in, read_manifest, write_manifest
from slimcnn.measuring import environment
from slimcnn.steps import LeastSquares, Prune
from slimcnn.verifying import Certificate
from verifying.small_network import SmallNetwork

FILES = [
    *(f"0-start/{name}" for name in ("done.json", "model.safetensors")),
    *(f"1-train/{name}" for name in ("done.json", "model.safetensors", "step.json", "training/state.pt")),
    *(f"2-prune/{name}" for name in ("done.json", "model.safetensors", "plan.json", "step.json")),
    *(f"3-least_squares/{name}" for name in ("done.json", "model.safetensors", "step.json")),
    *("compressed.safetensors", "original.safetensors", "plan.json", "recipe.toml", "report.html", "report.json"),
    "run.json",
]


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def failures(found: Certificate) -> dict[str, str]:
    return {f"{check.what}, {check.where}": check.why for check in found.failed}


def forge(root: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file, and write the manifest anew, as somebody would who wants the change to stay hidden."""
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))
    write_manifest(root, read_manifest(root).images)


def test_a_run_that_an_earlier_version_finished_is_verified(copied: Path) -> None:
    earlier_names.rewrite_run(copied)
    write_manifest(copied, read_manifest(copied).images)
    found = slimcnn.verify(copied)
    assert not found.failed, found.failed


def test_a_finished_run_is_verified_and_the_certificate_says_what_was_proven(copied: Path) -> None:
    found = slimcnn.verify(copied)
    assert not found.failed, found.failed
    assert [check.where for check in found.checks if check.status == "not checked"] == ["report.json"]
    (cut,) = [check for check in found.checks if check.what == "prune == mask"]
    assert cut.error is not None
    assert cut.error < 1e-9
    assert found.images["dataset"] == "digits"
    assert found.images["n"] == 100
    assert len(found.images["sha256"]) == 64
    assert found.environment == environment()
    written = json.loads((copied / "certificate.json").read_text())
    assert Certificate.model_validate(written) == found
    assert slimcnn.verify(copied, data=None).failed == (), "the certificate is no file of the run"


def test_the_manifest_claims_every_file_of_a_run(finished: Path) -> None:
    assert sorted(read_manifest(finished).files) == sorted(FILES) == files_in(finished)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_found_and_the_file_named(name: str, copied: Path) -> None:
    flip(copied / name)
    found = slimcnn.verify(copied, data=None)
    assert failures(found) == {f"digest, {name}": "has changed"}


@pytest.mark.parametrize("at", [0.0, 0.01, 0.2, 0.5, 0.9, 0.9999])
def test_a_changed_byte_in_the_manifest_is_found(at: float, copied: Path) -> None:
    flip(copied / MANIFEST, at)
    assert "manifest.json" in " ".join(failures(slimcnn.verify(copied, data=None)))


def test_missing_files_fail_and_unexpected_files_are_named(copied: Path) -> None:
    (copied / "report.html").unlink()
    (copied / "2-prune" / "notes.txt").write_text("mine")
    found = slimcnn.verify(copied, data=None)
    assert failures(found) == {"digest, report.html": "is missing"}
    assert [check.status for check in found.checks if check.where == "2-prune/notes.txt"] == ["not checked"]


def test_a_rewritten_manifest_differs_from_the_digest_that_was_noted(copied: Path) -> None:
    noted = slimcnn.verify(copied, data=None).manifest_sha256
    assert not slimcnn.verify(copied, data=None, manifest=noted).failed
    forge(copied, "2-prune/step.json", lambda step: step.update(more=1))
    assert not slimcnn.verify(copied, data=None).failed
    assert "expected digest, manifest.json" in failures(slimcnn.verify(copied, data=None, manifest=noted))


SIZES, STEPS = "params, MACs and bytes of the report", "the report matches the steps, report.json"


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("report.json", lambda r: r["after"].update(macs=r["after"]["macs"] - 1), f"{SIZES}, compressed.safetensors"),
        ("report.json", lambda r: r["before"].update(bytes=1), f"{SIZES}, original.safetensors"),
        ("report.json", lambda r: r["after"].update(top1=99.0), "top-1 on the test images, compressed.safetensors"),
        ("report.json", lambda r: r["after"].update(metric=99.0), "top-1 on the test images, compressed.safetensors"),
        (
            "report.json",
            lambda r: r["after"].update(top1=99.0, metric=99.0),
            "top-1 on the test images, compressed.safetensors",
        ),
        ("report.json", lambda r: r["steps"][1].update(params=7), STEPS),
        ("report.json", lambda r: r["steps"].pop(), STEPS),
        ("report.json", lambda r: r.update(verdict=None), STEPS),
        ("report.json", lambda r: r.pop("title"), "can be read, report.json"),
        ("2-prune/done.json", lambda d: d["cuts"][0].update(equal=False), "prune == mask, 2-prune"),
        ("2-prune/done.json", lambda d: d.update(origin=None), "prune == mask, 2-prune"),
        ("2-prune/done.json", lambda d: d.pop("cuts"), "can be read, report.json"),
        ("2-prune/done.json", lambda d: d.update(model="1-train/model.safetensors"), "prune == mask, 2-prune"),
        (
            "3-least_squares/done.json",
            lambda d: d.update(model="2-prune/model.safetensors"),
            "equals the last step's output, compressed.safetensors",
        ),
    ],
)
def test_a_false_claim_is_found_even_if_the_manifest_was_rewritten(
    name: str, change: Callable[[Any], None], failing: str, copied: Path
) -> None:
    forge(copied, name, change)
    assert failing in failures(slimcnn.verify(copied))


def test_another_plan_or_other_weights_are_found_even_if_the_manifest_was_rewritten(copied: Path) -> None:
    def keep_more(plan: Any) -> None:
        group = next(group for group in plan["groups"] if group["removed"])
        group["removed"] = [(channel + 1) % group["channels"] for channel in group["removed"]]

    forge(copied, "2-prune/plan.json", keep_more)
    found = failures(slimcnn.verify(copied, data=None))
    assert {"prune == mask, 2-prune", "the network follows the plan, 2-prune"} <= found.keys()
    assert found["equals the plan of the last cut, plan.json"] == "differs from 2-prune/plan.json"


def test_changed_weights_are_found_even_if_the_manifest_was_rewritten(copied: Path) -> None:
    path = copied / "2-prune" / "model.safetensors"
    small = slimcnn.load(path)
    with torch.no_grad():
        small.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-5
    slimcnn.save(small, path, information=read_information(path))
    write_manifest(copied, read_manifest(copied).images)
    found = failures(slimcnn.verify(copied, data=None))
    assert {"prune == mask, 2-prune", "the network follows the plan, 2-prune"} <= found.keys()


@pytest.mark.parametrize("place", ["../{}/outside.safetensors", "/etc/hostname", "1-train/../../outside.safetensors"])
def test_a_path_that_leads_out_of_the_folder_is_not_followed(place: str, copied: Path) -> None:
    shutil.copyfile(copied / "1-train" / "model.safetensors", copied.parent / "outside.safetensors")
    place = place.format(copied.parent.name)
    forge(copied, "2-prune/done.json", lambda done: done["origin"].update(whole=place))
    found = failures(slimcnn.verify(copied, data=None))
    assert found["prune == mask, 2-prune"] == f"{place!r} is named in the run's files, but is not in the manifest"


def test_a_manifest_that_names_files_outside_of_the_folder_is_refused(copied: Path) -> None:
    known = read_manifest(copied)
    files = dict(known.files) | {"../outside": known.files["run.json"]}
    (copied / MANIFEST).write_text(type(known)(files, known.images).to_json())
    assert "'../outside' leads out of" in failures(slimcnn.verify(copied))["digest, manifest.json"]


def test_nothing_is_unpickled(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for place, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(place, name, refuse)
    assert not slimcnn.verify(copied, data=None).failed


def test_test_images_that_are_not_those_of_the_run_are_not_evaluated(copied: Path) -> None:
    images = slimcnn.load_dataset("digits")
    for data, why in (
        (None, "left out by --no-data"),
        (images, "the 360 test images of digits are not the 100 of the run"),
        ("nowhere/images", "the test images are not available: no folder nowhere/images"),
    ):
        found = slimcnn.verify(copied, data=data)
        checks = [check for check in found.checks if check.what == "top-1 on the test images"]
        assert [check.status for check in checks] == ["not checked"] * 2
        assert all(why in check.why for check in checks)
        assert not found.images
        assert not found.failed
    assert slimcnn.verify(copied, data=images.limit(100)).images["n"] == 100


def test_a_run_that_is_not_finished_cannot_be_verified(
    copied: Path, again: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("slimcnn.running.finishing.write_results", lambda *_: pytest.exit("killed"))
        with pytest.raises(BaseException, match="killed"):
            again(copied, "train:epochs=1 + prune:macs=0.6,batches=1")
    with pytest.raises(RunError, match=r"holds a run without manifest.json: it is not finished"):
        slimcnn.verify(copied)
    again(copied, "train:epochs=1 + prune:macs=0.6,batches=1")
    found = slimcnn.verify(copied, data=None)
    assert not found.failed
    assert any(name.startswith("old/3-least_squares") for name in read_manifest(copied).files)
    with pytest.raises(RunError, match="holds no run"):
        slimcnn.verify(tmp_path)
    with pytest.raises(RunError, match="no folder"):
        slimcnn.verify(tmp_path / "nowhere")


def test_calling_a_finished_run_again_leaves_it_verified(copied: Path, again: Callable[..., Path]) -> None:
    again(copied)  # the recipe now names another folder
    first = (copied / MANIFEST).read_bytes()
    again(copied)
    assert (copied / MANIFEST).read_bytes() == first
    flip(copied / "plan.json")
    again(copied)
    assert failures(slimcnn.verify(copied, data=None)) == {"digest, plan.json": "has changed"}


def test_every_size_of_a_curve_is_verified(tmp_path: Path, again: Callable[..., Path]) -> None:
    root = again(tmp_path / "run", "train:epochs=1 + prune:batches=1,scope=local", curve=[0.7, 0.5])
    found = slimcnn.verify(root)
    assert not found.failed, found.failed
    assert {"macs-0.5/2-prune", "macs-0.7/2-prune"} <= {check.where for check in found.checks}
    with pytest.raises(RunError, match="is one size of the run in"):
        slimcnn.verify(root / "macs-0.5")
    forge(root, "macs-0.5/report.json", lambda report: report["after"].update(macs=1))
    wrong = failures(slimcnn.verify(root, data=None))
    assert "params, MACs and bytes of the report, macs-0.5/compressed.safetensors" in wrong
    assert wrong["matches the reports of its sizes, report.json"] == "differs from the report of size 0.5"


def test_cuts_of_rewritten_networks_are_proven_against_the_network_that_the_step_cut(
    tmp_path: Path, again: Callable[..., Path]
) -> None:
    line = (
        "train:epochs=1 + rewrite:rule=relations + prune:macs=0.8,batches=1,scope=local + fold_constants + "
        "prune:macs=0.7,batches=1,scope=local,residual=scatter"
    )
    found = slimcnn.verify(again(tmp_path / "run", line), data=None)
    assert not found.failed, found.failed
    cuts = {check.where: check.why for check in found.checks if check.what == "prune == mask"}
    assert cuts.keys() == {"3-prune", "5-prune"}
    for step, why in cuts.items():  # relations folded away; a stream that layers put their channels into
        assert why.endswith(f"against {step}/origin.safetensors")


def test_a_structure_that_changed_after_the_last_cut_is_not_compared_with_the_plan(
    tmp_path: Path, again: Callable[..., Path]
) -> None:
    root = again(tmp_path / "run", "train:epochs=1 + prune:batches=1,scope=local + rewrite:rule=scatter")
    found = slimcnn.verify(root, data=None)
    assert not found.failed, found.failed
    (shapes,) = [check for check in found.checks if check.what == "structure follows the plan"]
    assert shapes.status == "not checked"
    assert shapes.why == "3-rewrite changed the structure after the last cut, 2-prune"


def test_a_network_of_the_users_own_is_checked_with_a_fresh_copy_and_not_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimcnn.reporting.storing.render", lambda report: report.title)
    data = slimcnn.load_dataset("digits").limit(100)
    steps = [Prune(macs=0.5, batches=1), LeastSquares(images=64)]
    slimcnn.chain(SmallNetwork(), data, steps, out=tmp_path / "run", latency_seconds=0.01)
    without = slimcnn.verify(tmp_path / "run", data=data)
    assert not without.failed
    assert [check.status for check in without.checks if check.where == "1-prune"] == ["not checked"] * 2
    assert any("a file may not choose which code runs" in check.why for check in without.checks)
    found = slimcnn.verify(tmp_path / "run", data=data, model=SmallNetwork())
    assert not found.failed, found.failed
    assert [check.where for check in found.checks if check.status == "not checked"] == ["report.json"]


def test_a_network_built_by_the_users_function_is_checked_only_if_the_caller_names_the_function(
    tmp_path: Path, again: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "verifying.small_network:build"
    root = again(tmp_path / "run", "train:epochs=1 + prune:batches=1", network={"model": name})
    found = slimcnn.verify(root, model=name)
    assert not found.failed, found.failed
    assert [check.where for check in found.checks if check.status == "not checked"] == ["report.json"]
    monkeypatch.setattr("verifying.small_network.build", lambda **_: pytest.fail("code that nobody allowed was run"))
    for other in (None, "os:system"):
        found = slimcnn.verify(root, model=other, data=None)
        checks = [check for check in found.checks if check.where == "2-prune"]
        assert [check.status for check in checks] == ["not checked"] * 2
        assert name in checks[0].why
