"""Lightning: a callback prunes the network before a given epoch, and the optimizer follows.

pip install lightning
python examples/lightning_loop.py
"""

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import slimcnn


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = slimcnn.build("resnet8")

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Cut(lightning.Callback):
    """Prune `module.net` to a share of its MACs before an epoch."""

    def __init__(self, example: torch.Tensor, epoch: int, macs: float) -> None:
        self.example, self.epoch, self.macs = example, epoch, macs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch != self.epoch:
            return
        graph = slimcnn.trace(module.net, self.example)
        plan = slimcnn.allocate(graph, slimcnn.score(module.net, graph, "l2"), slimcnn.Target(macs=self.macs))
        small = slimcnn.prune(module.net, graph, plan)
        (optimizer,) = trainer.optimizers
        trainer.optimizers = [slimcnn.carry(optimizer, module.net, small, plan)]
        module.net = small


def main() -> float:
    lightning.seed_everything(0)
    data = slimcnn.load_dataset("digits")
    images = data.normalization(data.train.pixels)
    loader = DataLoader(TensorDataset(images, data.train.labels), batch_size=64, shuffle=True)
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=6, callbacks=[Cut(images[:1], epoch=3, macs=0.5)], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    found = slimcnn.evaluate(module.net, data.validation, data.normalization)
    print(f"{slimcnn.measure(module.net, images[:1]).macs:,} MACs, validation top-1 {found.top1:.2f} %")
    slimcnn.save(module.net, "small.safetensors")
    return found.top1


if __name__ == "__main__":
    main()
