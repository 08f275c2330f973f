"""The same chain from Python, for a network and data in hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.graph.copying import duplicate
from slimcnn.running.finishing import Result
from slimcnn.running.loading import Loaded, check_classes
from slimcnn.running.recipe import Recipe
from slimcnn.running.settings import Data, Network
from slimcnn.running.starting import run
from slimcnn.running.step import Step
from slimcnn.show import Show, watched


def chain(
    model: nn.Module,
    data: Dataset,
    steps: Sequence[Step],
    *,
    out: Path | str | None = None,
    show: Show | None = None,
    trained: bool = True,
    deterministic: bool = False,
    latency_seconds: float = 4.0,
) -> Result:
    """Run steps on a network of your own, and give the final network with its report.

    The network is copied, never changed. With `out` the run can be interrupted and called again, as on the command
    line; without, it lies in a temporary folder.

    Args:
        model: any classifier.
        data: images, with the normalization that the network's weights expect.
        steps: what to do, in order.
        out: the run's folder.
        show: how to tell what happens; by default a progress bar where somebody watches (a terminal or a notebook).
        trained: whether the network's weights were learned.
        deterministic: train in layout nchw and precision 32 instead of what is fastest here.
        latency_seconds: for timing both networks at the end.

    Raises:
        SlimcnnError: anything that the user can fix, such as an order of steps that makes no sense.

    >>> import slimcnn
    >>> data = slimcnn.load_dataset("digits").limit(200)
    >>> net = slimcnn.build("resnet8", in_channels=1)
    >>> steps = [slimcnn.steps.Train(epochs=1, layout="nchw", precision="32"), slimcnn.steps.Prune(macs=0.5)]
    >>> result = slimcnn.chain(net, data, steps, trained=False, latency_seconds=0.1, show=slimcnn.show.SILENT)
    >>> result.report.after.macs <= 0.5 * result.report.before.macs, result.report.verdict.equal
    (True, True)
    """
    check_classes(duplicate(model), data)
    folder = Path(out) if out is not None else Path(mkdtemp(prefix="slimcnn-"))
    architecture = getattr(model, "architecture", None) or {}
    network = Network(model=architecture.get("model", ""), arguments=architecture.get("arguments", {}))
    recipe = Recipe(
        network=network, data=Data(name=data.name), steps=tuple(steps), out=str(folder), deterministic=deterministic,
        latency_seconds=latency_seconds,
    )  # fmt: skip
    given = Loaded(duplicate(model).cpu().eval(), data, "given with the data")
    if show is not None:
        return run(recipe, show=show, given=given, trained=trained)
    with watched() as shown:
        return run(recipe, show=shown, given=given, trained=trained)
