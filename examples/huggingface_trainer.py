"""Hugging Face Trainer: train, prune, refit without labels, fine-tune with the same Trainer.

pip install transformers accelerate
python examples/huggingface_trainer.py
"""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import slimcnn


class Rows(Dataset):
    """Images and labels as the dictionaries that Trainer passes to the network."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class WithLoss(nn.Module):
    """What Trainer calls; the network inside stays a plain one that slimcnn cuts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def train(net: nn.Module, rows: Rows, epochs: int, rate: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=rate, per_device_train_batch_size=64, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
        Trainer(model=WithLoss(net), args=settings, train_dataset=rows).train()


def main() -> float:
    torch.manual_seed(0)
    data = slimcnn.load_dataset("digits")
    rows = Rows(data.normalization(data.train.pixels), data.train.labels)
    net = slimcnn.build("resnet8")
    train(net, rows, epochs=5, rate=5e-3)

    net.eval()
    batches = list(rows.images[:512].split(64))
    graph = slimcnn.trace(net, batches[0][:1])
    scores = slimcnn.sensitivity(net, graph, slimcnn.score(net, graph, "l2"), batches)
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.5, scope="sensitivity"))
    small = slimcnn.prune(net, graph, plan)
    slimcnn.least_squares(small, net, graph, plan, batches)
    train(small, rows, epochs=2, rate=1e-3)

    found = slimcnn.evaluate(small, data.validation, data.normalization)
    print(f"{slimcnn.measure(small, batches[0][:1]).macs:,} MACs, validation top-1 {found.top1:.2f} %")
    slimcnn.save(small, "small.safetensors")
    return found.top1


if __name__ == "__main__":
    main()
