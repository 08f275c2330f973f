"""Run a chain of steps from Python, on a network and a dataset in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.graph.copying import duplicate
from slimcnn.running.finishing import Result
from slimcnn.running.loading import Loaded, check_output, other_classes_of
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
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
    trained: bool = True,
    deterministic: bool = False,
    latency_seconds: float = 4.0,
) -> Result:
    """Run steps on a network; return the final network and its report.

    The network is copied, never changed. With `out`, calling it again resumes an interrupted run, as on the command
    line. Without, the run folder is temporary.

    Args:
        model: any network for the task of the data; a classifier may be for other classes if the first step is `Train`.
        data: dataset with the normalization that the network's weights expect.
        steps: steps, in order.
        out: the run folder.
        show: progress output; default: a progress bar in terminals and notebooks.
        on_epoch: called with the metrics of every epoch that this call trains; see `slimcnn.run`.
        trained: whether the network is trained.
        deterministic: train in layout nchw and precision 32 instead of the fastest on this machine.
        latency_seconds: time budget for measuring the latency of both networks at the end.

    Raises:
        SlimcnnError: any error the user can fix, such as an invalid order of steps.

    >>> import slimcnn
    >>> data = slimcnn.load_dataset("digits").limit(200)
    >>> net = slimcnn.build("resnet8", in_channels=1)
    >>> steps = [slimcnn.steps.Train(epochs=1, layout="nchw", precision="32"), slimcnn.steps.Prune(macs=0.5)]
    >>> result = slimcnn.chain(net, data, steps, trained=False, latency_seconds=0.1, show=slimcnn.show.SILENT)
    >>> result.report.after.macs <= 0.5 * result.report.before.macs, result.report.verdict.equal
    (True, True)
    """
    differ = other_classes_of(duplicate(model), data)
    if not differ:
        check_output(duplicate(model), data)
    folder = Path(out) if out is not None else Path(mkdtemp(prefix="slimcnn-"))
    architecture = getattr(model, "architecture", None) or {}
    network = Network(model=architecture.get("model", ""), arguments=architecture.get("arguments", {}))
    recipe = Recipe(
        network=network, data=Data(name=data.name), steps=tuple(steps), out=str(folder), deterministic=deterministic,
        latency_seconds=latency_seconds,
    )  # fmt: skip
    given = Loaded(duplicate(model).cpu().eval(), data, "given with the data", differ)
    if show is not None:
        return run(recipe, show=show, given=given, trained=trained, on_epoch=on_epoch)
    with watched() as shown:
        return run(recipe, show=shown, given=given, trained=trained, on_epoch=on_epoch)
