"""The normalization that weights expect is found where nothing says it, also on images that the network knows."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

import slimcnn
from slimcnn.datasets import Normalization, batches
from slimcnn.running.loading import load_with_data
from slimcnn.running.settings import Data, Network


def test_of_several_that_reach_the_same_top1_the_likelier_is_taken(tmp_path: Path) -> None:
    """A network that was trained on its validation images too, with another normalization than the dataset's."""
    data = slimcnn.load_dataset("digits").limit(60)
    trained_with = Normalization((0.5,), (0.5,))
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        for x, y in batches(data.validation, 60, normalization=trained_with):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    network = Network(model="resnet8", weights=str(tmp_path / "net.safetensors"))
    found = load_with_data(network, Data(name="digits", limit=60))
    top1 = {
        name: slimcnn.evaluate(found.model, data.validation, normalization).top1
        for name, normalization in (("trained", trained_with), ("dataset", data.normalization))
    }
    assert top1["trained"] == top1["dataset"] == 100, "top-1 cannot tell them apart"
    assert found.data.normalization == trained_with
    assert found.normalization.startswith("-1 to 1, found by cross entropy")
