"""Other runtimes answer as torch does; what they cannot open is refused in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimcnn.errors import ModelError
from slimcnn.measuring.runtimes import installed, onnx_of, open_in


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_other_runtimes_answer_as_the_network_does(runtime: str) -> None:
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 9, 7)
    there = open_in(runtime, onnx_of(net, x), threads=1)(x)
    assert all(module.training for module in net.modules()), "the user's network is never changed"
    assert torch.allclose(there, net.eval()(x).detach(), atol=1e-4)


def test_what_cannot_be_exported_is_told_in_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ModelError, match="Odd cannot be exported to ONNX") as refusal:
        onnx_of(Odd(), torch.ones(1, 3))
    assert "\n" not in str(refusal.value)
