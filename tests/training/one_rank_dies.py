"""Train in two processes, of which one kills itself: `one_rank_dies.py FOLDER RANK`."""

import os
import signal
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from training_runs import PLAIN, network, shapes

from slimcnn.errors import RunError
from slimcnn.training import Training, fit


def main() -> None:
    torch.set_num_threads(1)
    folder, victim = Path(sys.argv[1]), int(sys.argv[2])
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    try:
        for _ in fit(network(), shapes(), training=Training(epochs=3, **PLAIN), fabric=fabric, folder=folder):
            if fabric.global_rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)
    except RunError as error:
        (folder / "said").write_text(str(error))


if __name__ == "__main__":
    main()
