"""Packages of third parties and a user's modules add entries without any edit of ours; broken ones are one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimcnn.errors import PluginError
from slimcnn.registry import Registry, import_plugin

PLUGIN = '''
from slimcnn.distillation import losses
from slimcnn.pruning import Criterion, criteria


@criteria.add("last_first", source="a test")
def last_first() -> Criterion:
    """Remove the first channels of every group and keep the last."""
    return Criterion("last_first", lambda evidence: evidence.filters[0].new_tensor(range(evidence.channels)))


@losses.add("nothing", source="a test")
def nothing(factor: float = 0.5):
    """Compare nothing."""
'''


def install(site: Path, code: str, module: str = "third_party") -> Path:
    """Install a package as pip would: a module, and the metadata that names it as a plugin."""
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(code)
    (site / "polite.py").write_text(POLITE)
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[slimcnn.plugins]\n{module} = {module}\n")
    return site


def run(site: Path, code: str) -> str:
    """Run code in a process of its own in which the packages of `site` are installed: what it prints."""
    paths = os.pathsep.join([str(site), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = """
import torch, slimcnn
from slimcnn.pruning import criteria
from slimcnn.distillation import losses
print(criteria["last_first"].summary, "last_first" in [entry.name for entry in criteria])
print(losses["nothing"].summary, losses.split("nothing:factor=0.25", ValueError)[1])
net = slimcnn.build("resnet8", in_channels=1)
graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "last_first"), slimcnn.Target(pruning_ratio=0.25))
print(plan.removed[graph.groups[0].name])
"""


def test_an_installed_package_adds_a_criterion_and_a_loss(tmp_path: Path) -> None:
    first, second, third = run(install(tmp_path / "site", PLUGIN), USE).splitlines()
    assert first == "Remove the first channels of every group and keep the last. True"
    assert second == "Compare nothing. {'factor': 0.25}"
    assert third == "(0, 1, 2, 3)"


POLITE = '''
from slimcnn.registry import Registry
greetings = Registry("greeting")
@greetings.add("hello", source="everyday English")
class Hello:
    """Say hello."""
'''
GREETS = "import polite\n@polite.greetings.add({!r}, source='')\nclass Greeting: pass\n"

REFUSED = """
from slimcnn.errors import SlimcnnError
from polite import greetings
for attempt in range(2):
    try:
        greetings["hello"]
    except SlimcnnError as error:
        print(error)
"""

BROKEN = {
    "a missing dependency": (
        "import nothing_of_this_name",
        "the plugin 'third_party' of the package 'third-party' cannot be imported: "
        "ModuleNotFoundError: No module named 'nothing_of_this_name' (third_party.py, line 1); ",
    ),
    "a mistake": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero (third_party.py, line 1); "),
    "an exit": ("raise SystemExit(3)", "cannot be imported: SystemExit: 3 (third_party.py, line 1); "),
    "a taken name": (
        GREETS.format("hello"),
        "the plugin 'third_party' of the package 'third-party': greeting 'hello' is registered twice, by polite and by "
        "third_party: rename one of them",
    ),
}


def test_a_broken_plugin_is_one_line_that_names_the_package_and_the_reason_every_time(tmp_path: Path) -> None:
    for case, (code, reason) in BROKEN.items():
        first, again = run(install(tmp_path / case, code), REFUSED).splitlines()
        assert reason in first
        assert again == first


TAKEN_LATER = """
from slimcnn.errors import SlimcnnError
from slimcnn.distillation import losses
from slimcnn.pruning import criteria
print(len(list(losses)))
for attempt in range(2):
    try:
        criteria["l2"]
    except SlimcnnError as error:
        print(error)
"""


def test_a_name_that_a_plugin_took_before_ours_was_asked_for_is_refused_every_time(tmp_path: Path) -> None:
    """Asking for a loss imports the plugin before the folder of criteria."""
    _, first, again = run(install(tmp_path / "site", PLUGIN.replace("last_first", "l2")), TAKEN_LATER).splitlines()
    assert "criterion 'l2' is registered twice, by third_party and by slimcnn.pruning.criteria.l2" in first
    assert again == first


def test_two_plugins_that_take_the_same_name_are_both_named(tmp_path: Path) -> None:
    code = GREETS.format("good morning")
    site = install(install(tmp_path / "site", code, "one_party"), code, "other_party")
    line = run(site, REFUSED).splitlines()[0]
    assert "the plugin 'other_party' of the package 'other-party': greeting 'good morning'" in line
    assert "registered twice, by one_party and by other_party" in line


def test_a_module_in_the_current_directory_is_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)
    (tmp_path / "my_greetings.py").write_text(
        "from test_plugins import greetings\n"
        "@greetings.add('hello', source='everyday English')\n"
        "class Hello:\n    '''Say hello.'''\n"
    )
    import_plugin("my_greetings")
    assert greetings["hello"].summary == "Say hello."
    assert greetings["hello"].value.__name__ == "Hello"
    assert sys.path == paths


greetings: Registry[type] = Registry("greeting")


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("not_there", None, "no module 'not_there' for '--import not_there': it is neither installed nor in"),
        ("my_typo", "import nothing_of_this_name", r"importing 'my_typo' .* failed: ModuleNotFoundError: No module"),
        ("my_syntax", "def f(:", r"importing 'my_syntax' .* failed: SyntaxError: invalid syntax"),
        ("my_double", "import test_plugins as t\nfor _ in 'ab': t.greetings.add('x', source='')(int)",
         "greeting 'x' is registered twice, by builtins and by builtins"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_one_line(
    name: str, code: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if code is not None:
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(PluginError, match=reason) as refusal:
        import_plugin(name)
    assert "\n" not in str(refusal.value)


STEP = '''
from dataclasses import replace
from slimcnn import Step
from slimcnn.reporting.sections import Section, Text
from slimcnn.running import Artifact, steps


@steps.add("write_card", source="a test")
class WriteCard(Step):
    """Write a file about the network."""

    words: str = "small"

    def run(self, state, at):
        at.folder.joinpath("card.txt").write_text(self.words)
        card = Artifact("card", f"{at.folder.name}/card.txt", {"words": len(self.words.split())})
        section = Section(title="Card", blocks=(Text(text=self.words),))
        return replace(state, artifacts=(*state.artifacts, card)), [section]
'''

CHAIN = """
import sys
from slimcnn.cli import main
sys.argv = ["slimcnn", "run", "--model", "resnet8", "--data", "digits", "--out", sys.argv[1], "--deterministic",
            "--steps", "train:epochs=1 + write_card:words='two words' + prune:macs=0.5,batches=1",
            "--set", "data.limit=100", "--set", "latency_seconds=0.01"]
main()
"""


def test_an_installed_package_adds_a_step_that_recipes_the_command_line_and_the_report_know(tmp_path: Path) -> None:
    site = install(tmp_path / "site", STEP)
    code = CHAIN.replace("sys.argv[1]", repr(str(tmp_path / "run")))
    assert "The cut is exact" in run(site, code)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["train", "write_card", "prune"]
    assert "Card" in [section["title"] for section in report["sections"]]
    assert (tmp_path / "run" / "2-write_card" / "card.txt").read_text() == "two words"
    done = json.loads((tmp_path / "run" / "3-prune" / "done.json").read_text())
    assert done["artifacts"] == [{"name": "card", "path": "2-write_card/card.txt", "facts": {"words": 2}}]
    assert 'step = "write_card"' in (tmp_path / "run" / "recipe.toml").read_text()
