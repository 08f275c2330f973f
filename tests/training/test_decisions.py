import json

import pytest
import torch
from training_runs import network, shapes

from slimcnn.errors import RunError
from slimcnn.training import Training, decided, decisions, deterministic, fit, probe


@pytest.fixture
def choices(monkeypatch):
    """What the measurement answers, one pair a call; reaching the end is an error."""
    answers = [("channels_last", "bf16-mixed"), ("nchw", "32")]
    asked = []

    def choose(model, dataset, training, *, device):
        asked.append(training)
        layout, precision = answers[len(asked) - 1]
        update = {"layout": layout if training.layout == "auto" else training.layout}
        update["precision"] = precision if training.precision == "auto" else training.precision
        return training.model_copy(update=update)

    monkeypatch.setattr(decisions, "probe", choose)
    return asked


def test_the_first_decision_is_written_and_used_ever_after(tmp_path, choices):
    path = tmp_path / "run" / "decision.json"
    first = decided(network(), shapes(), Training(epochs=3), path)
    assert (first.layout, first.precision, first.epochs) == ("channels_last", "bf16-mixed", 3)
    assert json.loads(path.read_text()) == {"layout": "channels_last", "precision": "bf16-mixed"}
    second = decided(network(), shapes(), Training(epochs=5), path)
    assert (second.layout, second.precision, second.epochs) == ("channels_last", "bf16-mixed", 5)
    assert len(choices) == 1


def test_what_is_given_stays_and_only_the_rest_is_decided(tmp_path, choices):
    path = tmp_path / "decision.json"
    given = Training(layout="nchw", precision="32")
    assert decided(network(), shapes(), given, path) is given
    assert not path.exists()
    half = decided(network(), shapes(), Training(precision="32"), path)
    assert (half.layout, half.precision) == ("channels_last", "32")
    assert json.loads(path.read_text()) == {"layout": "channels_last"}
    whole = decided(network(), shapes(), Training(), path)
    assert choices[1].layout == "channels_last"  # known: only the precision is measured
    assert (whole.layout, whole.precision) == ("channels_last", "32")
    assert json.loads(path.read_text()) == {"layout": "channels_last", "precision": "32"}
    assert decided(network(), shapes(), Training(layout="nchw"), path).layout == "nchw"
    assert len(choices) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"layout": "nchw"', "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b'{"layout": "auto"}', "layout: Input should be 'nchw' or 'channels_last'"),
        (b'{"lay": "nchw"}', "lay: Extra inputs are not permitted"),
        (b"\xff\xfe", "invalid start byte"),
        (b"", "Invalid JSON"),
    ],
)
def test_a_damaged_file_is_one_line_with_its_path(tmp_path, choices, content, reason):
    path = tmp_path / "decision.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"cannot use .*decision.json: .*{reason}.*; delete it") as caught:
        decided(network(), shapes(), Training(), path)
    assert "\n" not in str(caught.value)
    assert not choices
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_read_or_written_is_one_line(tmp_path, choices):
    with pytest.raises(RunError, match="Is a directory"):
        decided(network(), shapes(), Training(), tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="Not a directory"):
        decided(network(), shapes(), Training(), tmp_path / "file" / "decision.json")


def test_the_same_call_twice_gives_the_same_weights(tmp_path):
    """Measured for real, in two folders of training with one decision."""
    path, weights = tmp_path / "decision.json", []
    for part in ("one", "two"):
        model, auto = network(), Training(epochs=1, batch_size=16)
        training = decided(model, shapes(), auto, path)
        assert training.resolved
        assert not auto.resolved
        list(fit(model, shapes(), training=training, folder=tmp_path / part))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def test_the_deterministic_choice_is_fixed_and_leaves_what_is_given(monkeypatch):
    chosen = deterministic(Training(epochs=4, ema=0.9))
    assert chosen == Training(epochs=4, ema=0.9, layout="nchw", precision="32")
    assert deterministic(Training(layout="channels_last", precision="bf16-mixed")).precision == "bf16-mixed"
    assert probe(network(), shapes(), chosen, device="cpu") == chosen
