"""Run by torchrun, or by Fabric itself: train in two processes, write what each rank ends with."""

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from training_runs import network, shapes, tensors

from slimcnn.distillation import Teacher, objective_named
from slimcnn.errors import RunError, TrainingDiverged
from slimcnn.objectives import Loss, cross_entropy
from slimcnn.training import Training, evaluate, fit
from slimcnn.training.processes import launched

# 101 images in batches of 16: the last has 5, so that one rank has 2 of them and the other 3.
SETTINGS = Training(epochs=2, batch_size=16, learning_rate=0.05, layout="nchw", precision="32")


def one_or_two(out: Path | None, fabric: Fabric) -> dict:
    """The same calls for one process and for two; with a folder, each run is stopped and resumed after an epoch."""
    results = {}
    for name, batch_norm, ema, more in (
        ("plain", False, 0.8, {}), ("batch_norm", True, None, {}), ("averaged", True, 0.8, {}),
        ("frozen_first", False, None, {"frozen_epochs": 1, "depth_decay": 0.1}),
    ):  # fmt: skip
        training = SETTINGS.model_copy(update={"ema": ema} | more)
        model, folder = network(batch_norm=batch_norm, dropout=0.0), out / name if out else None
        epochs = fit(model, shapes(n=101), training=training, fabric=fabric, folder=folder)
        history = [next(epochs)]
        if folder:
            epochs.close()
            epochs = fit(model, shapes(n=101), training=training, fabric=fabric, folder=folder)
            assert next(epochs).terms == history[0].terms
        history += list(epochs)
        curve = [(epoch.loss, epoch.train_accuracy, epoch.validation_metric) for epoch in history]
        results[name] = {"weights": tensors(model), "curve": curve}
    teacher = network(width=7, batch_norm=False, dropout=0.0)
    taught = network(batch_norm=False, dropout=0.0)
    objective = objective_named("kd+scale_factor", Teacher(teacher))
    history = list(fit(taught, shapes(n=101), training=SETTINGS, objective=objective, fabric=fabric))
    curve = [(epoch.loss, epoch.train_accuracy, epoch.validation_metric) for epoch in history]
    results["taught"] = {"weights": tensors(taught), "curve": curve}
    data = shapes()
    found = evaluate(network(), data.test, data.normalization, batch_size=7, fabric=fabric)
    results["evaluation"] = [found.top1, found.top5, found.loss, found.n]
    return results


def refusals(out: Path, fabric: Fabric) -> list[str]:
    """Errors that rank 0 or rank 1 alone would notice, as every rank reports them."""
    found = []
    try:
        next(fit(network(width=3), shapes(n=101), training=SETTINGS, fabric=fabric, folder=out / "batch_norm"))
    except RunError as error:
        found.append(str(error))

    def bad_on_rank_one(model, x, y) -> Loss:
        loss = cross_entropy()(model, x, y)
        poison = loss.logits.sum() * (float("nan") if fabric.global_rank == 1 else 0.0)
        return Loss({**loss.terms, "extra": poison}, loss.logits)

    try:
        next(fit(network(), shapes(n=101), training=SETTINGS, fabric=fabric, objective=bad_on_rank_one))
    except TrainingDiverged as error:
        found.append(str(error))
    return found


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    if len(sys.argv) > 2:
        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
        # The child runs this script from the top, and meets its parent inside of fit.
        model = network(batch_norm=False, dropout=0.0)
        list(fit(model, shapes(n=101), training=SETTINGS.model_copy(update={"ema": 0.8}), fabric=fabric))
        torch.save(tensors(model), out / f"own_{fabric.global_rank}.pt")
        return
    fabric = launched(None)
    assert (fabric.world_size, fabric.device.type) == (2, "cpu")
    results = one_or_two(out, fabric)
    results["refusals"] = refusals(out, fabric)
    torch.save(results, out / f"rank_{fabric.global_rank}.pt")


if __name__ == "__main__":
    main()
