"""A plain PyTorch loop that prunes in the middle: momentum, schedule and moving average follow the cut.

python examples/plain_loop.py
"""

import torch
from torch.nn import functional as F

import slimcnn

EPOCHS, CUT_AFTER, BATCH = 8, 4, 64


def main() -> float:
    torch.manual_seed(0)
    data = slimcnn.load_dataset("digits")
    images, labels = data.normalization(data.train.pixels), data.train.labels
    net = slimcnn.build("resnet8")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    for epoch in range(EPOCHS):
        if epoch == CUT_AFTER:
            graph = slimcnn.trace(net, images[:1])
            plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(macs=0.5))
            small = slimcnn.prune(net, graph, plan)
            optimizer = slimcnn.carry(optimizer, net, small, plan)
            schedule.optimizer = optimizer  # a schedule holds the optimizer, not the network
            net = small
        net.train()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        found = slimcnn.evaluate(net, data.validation, data.normalization)
        print(f"epoch {epoch + 1}: {slimcnn.measure(net, images[:1]).macs:,} MACs, validation top-1 {found.top1:.2f} %")
    slimcnn.save(net, "small.safetensors")
    return found.top1


if __name__ == "__main__":
    main()
