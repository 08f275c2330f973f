"""timm: a pruned network as a timm model, trained with timm's optimizer, schedule, mixup and moving average.

timm's own train.py takes it too: add `import timm_recipe` at its top and pass `--model pruned`.

pip install timm
python examples/timm_recipe.py
"""

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models import register_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

import slimcnn

FILE = "pruned.safetensors"


@register_model
def pruned(pretrained: bool = False, **options: object) -> nn.Module:
    """The network that slimcnn has saved; its file holds structure and weights."""
    return slimcnn.load(FILE)


def write(example: torch.Tensor) -> None:
    net = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    net.architecture = {"model": "timm:resnet10t", "arguments": {"num_classes": 10, "in_chans": 1}}
    graph = slimcnn.trace(net, example)
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(macs=0.5))
    slimcnn.save(slimcnn.prune(net, graph, plan), FILE)


def main(epochs: int = 4) -> float:
    torch.manual_seed(0)
    data = slimcnn.load_dataset("digits")

    def seen(images) -> torch.Tensor:
        return nn.functional.interpolate(data.normalization(images.pixels), scale_factor=4)

    images, labels = seen(data.train), data.train.labels
    write(images[:1])
    net = timm.create_model("pruned")
    optimizer = create_optimizer_v2(net, opt="lamb", lr=5e-3, weight_decay=0.02)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=1, warmup_lr=1e-4)
    mixup, loss_of, average = Mixup(mixup_alpha=0.1, num_classes=10), SoftTargetCrossEntropy(), ModelEmaV3(net, 0.9)
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(len(images)).split(64):
            if len(batch) % 2:
                continue  # timm's mixup needs an even batch
            x, y = mixup(images[batch].clone(), labels[batch])
            loss = loss_of(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(net)
        schedule.step(epoch + 1)
    net = average.module.eval()
    with torch.no_grad():
        top1 = 100 * (net(seen(data.validation)).argmax(1) == data.validation.labels).float().mean().item()
    print(f"{slimcnn.measure(net, images[:1]).macs:,} MACs, validation top-1 {top1:.2f} %")
    return top1


if __name__ == "__main__":
    main()
