"""Times come from turns taken, carry what they depend on, and leave the networks and the threads alone."""

import importlib
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.measuring import environment, latency


class Sleeping(nn.Module):
    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        super().__init__()
        self.name, self.seconds, self.log = name, seconds, log
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(f"{self.name}{len(x)}{'t' if self.training else 'e'}{'g' if torch.is_grad_enabled() else 'n'}")
        time.sleep(self.seconds)
        return x


def test_networks_take_turns_after_a_warm_up_without_gradients() -> None:
    log: list[str] = []
    models = {name: Sleeping(name, seconds, log) for name, seconds in (("a", 0.004), ("b", 0.012))}
    found = latency(models, torch.zeros(2, 3, 4, 4), seconds=0.2)
    timed = log[6:]
    assert log[:6] == ["a2en"] * 3 + ["b2en"] * 3
    assert timed == ["a2en", "b2en"] * found["a"].n
    assert found["a"].n == found["b"].n >= 5
    assert found["a"].median_ms >= 4
    assert found["b"].median_ms >= 12
    assert found["a"].relative == 1
    assert found["b"].relative > 1.2
    assert all(result.lower_ms <= result.median_ms <= result.upper_ms for result in found.values())
    assert all(model.training and model.norm.training for model in models.values())


def test_what_the_time_depends_on_stands_beside_it() -> None:
    before = torch.get_num_threads()
    found = latency({"net": nn.Linear(3, 3)}, torch.zeros(2, 3), seconds=0.0, threads=2, batch=7)["net"]
    assert (found.batch, found.threads, found.runtime, found.n) == (7, 2, "torch eager", 5)
    assert found.device == environment()["cpu"]
    assert torch.get_num_threads() == before


def test_the_batch_is_what_was_asked() -> None:
    log: list[str] = []
    latency({"a": Sleeping("a", 0, log)}, torch.zeros(2, 3, 4, 4), seconds=0, batch=5)
    assert set(log) == {"a5en"}


def test_threads_and_modes_are_restored_when_a_network_refuses_the_example() -> None:
    before = torch.get_num_threads()
    model = nn.Linear(4, 3)
    with pytest.raises(ModelError, match=r"expects \(..., 4\) and found \(2, 3\)"):
        latency({"net": model}, torch.zeros(2, 3), seconds=0, threads=2)
    assert torch.get_num_threads() == before
    assert model.training


@pytest.mark.parametrize("example", [torch.zeros(0, 3), ()])
def test_an_example_without_samples_is_refused(example: Any) -> None:
    with pytest.raises(ModelError, match="at least one sample"):
        latency({"net": nn.Linear(3, 3)}, example, seconds=0)


def test_no_networks_give_no_times() -> None:
    assert latency({}, torch.zeros(1, 3), seconds=0) == {}


def test_the_clock_stops_when_an_accelerator_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: log.append(str(device)))
    timed = importlib.import_module("slimcnn.measuring.latency")._milliseconds
    timed(Sleeping("a", 0, log), torch.zeros(1, 3), torch.device("cuda:0"))
    assert log == ["cuda:0", "a1tg", "cuda:0"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_calls_are_waited_for() -> None:
    model = nn.Linear(4096, 4096, device="cuda")
    found = latency({"net": model}, torch.zeros(8192, 4096, device="cuda"), seconds=0.2)["net"]
    operations = 2 * 8192 * 4096 * 4096
    assert operations / (found.median_ms / 1e3) < 1e16  # faster than any device: the clock stopped too early
    assert found.device == torch.cuda.get_device_name()
