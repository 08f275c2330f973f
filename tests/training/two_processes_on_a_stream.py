"""Run by torchrun: train in two processes on a stream; write the curve of each rank, and the pictures it has opened."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from training_runs import network, tensors

from slimcnn.datasets import Dataset, Stream, load_dataset
from slimcnn.training import Training, fit
from slimcnn.training.processes import launched

# 84 training images in batches of 16: the last has 4, two for each rank.
# Every share is even, so that mixup makes the same pairs.
SETTINGS = Training(
    epochs=2, batch_size=16, accumulate=4, augmentation="default + random_erasing:probability=0.5 + mixup:alpha=1.0",
    learning_rate=0.05, layout="nchw", precision="32",
)  # fmt: skip


class Watched:
    """Pictures that note which of them were opened."""

    def __init__(self, pictures, opened: set) -> None:
        self.pictures, self.opened = pictures, opened

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, number: int) -> str:
        return self.pictures.name(number)

    def open(self, number: int):
        self.opened.add(number)
        return self.pictures.open(number)


def trained(data: Dataset, fabric: Fabric) -> dict:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = network(batch_norm=False, dropout=0.0)
        model[0] = torch.nn.Conv2d(3, 6, 3, padding=1)
    opened: set = set()
    train = data.train
    watched = Stream(**{**vars(train), "pictures": Watched(train.pictures, opened), "workers": 0})
    dataset = Dataset(**{**vars(data), "train": watched})
    history = list(fit(model, dataset, training=SETTINGS, fabric=fabric))
    curve = [(epoch.loss, epoch.train_accuracy, epoch.validation_metric, epoch.validation_loss) for epoch in history]
    return {"curve": curve, "weights": tensors(model), "opened": sorted(opened)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    fabric = launched(None)
    data = load_dataset(sys.argv[1], stream=True, workers=1)
    torch.save(trained(data, fabric), Path(sys.argv[2]) / f"rank_{fabric.global_rank}.pt")
