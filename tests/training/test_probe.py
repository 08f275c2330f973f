import pytest
import torch
from training_runs import network, shapes, tensors

from slimcnn.training import Training, probe, probing


def test_the_network_and_the_random_state_are_untouched(monkeypatch):
    monkeypatch.setattr(probing, "_has_fast_bf16", lambda device: True)
    model, data = network(), shapes()
    model(torch.randn(4, 2, 8, 8)).sum().backward()
    before, gradients = tensors(model), [p.grad.clone() for p in model.parameters()]
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    chosen = probe(model, data, Training(seed=9), device="cpu", seconds=0.1)
    assert chosen.layout in {"nchw", "channels_last"}
    assert chosen.precision in {"32", "bf16-mixed"}
    assert chosen.seed == 9
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, model.parameters(), strict=True))
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 0.9, 0.95, 0.99), ("channels_last", "32")),
        ((1.0, 0.9, 0.83, 0.85), ("channels_last", "32")),  # 8 % faster is not worth bf16's precision
        ((1.0, 0.9, 0.80, 0.85), ("nchw", "bf16-mixed")),
    ],
)
def test_the_fastest_wins_and_less_precision_must_be_worth_it(monkeypatch, seconds, expected):
    order = [("nchw", "32"), ("channels_last", "32"), ("nchw", "bf16-mixed"), ("channels_last", "bf16-mixed")]

    def race(model, batch, candidates, budget, task):
        assert candidates == order
        return dict(zip(candidates, seconds, strict=True))

    monkeypatch.setattr(probing, "_has_fast_bf16", lambda device: True)
    monkeypatch.setattr(probing, "_race", race)
    chosen = probe(network(), shapes(), Training(), device="cpu")
    assert (chosen.layout, chosen.precision) == expected


def test_what_is_asked_for_is_not_probed(monkeypatch):
    def race(*arguments):
        raise AssertionError("nothing to find out")

    monkeypatch.setattr(probing, "_race", race)
    asked = Training(layout="channels_last", precision="bf16-mixed")
    assert probe(network(), shapes(), asked) == asked
