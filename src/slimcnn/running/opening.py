"""Open a finished run: networks and dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from slimcnn.checkpoints import read_information
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.errors import RunError
from slimcnn.manifest import RUN
from slimcnn.running import folder as disk
from slimcnn.running.loading import for_task
from slimcnn.running.normalization import stored_in
from slimcnn.running.recipe import read_recipe
from slimcnn.running.saving import read_state
from slimcnn.running.scaling import scaling_in
from slimcnn.running.step import State
from slimcnn.show import SILENT, Show


def open_run(path: Path | str, show: Show = SILENT) -> State:
    """Load the final state of a finished run from its folder, or of one size of a curve from the folder of that size.

    Raises:
        RunError: the folder holds no run, an unfinished run, or a run of several sizes.
        SlimcnnError: the dataset or a file cannot be read.
    """
    place = Path(path)
    root = disk.root_of(place)
    if not (root / RUN).exists():
        raise RunError(f"{root} is not a run folder: pass the --out of a slimcnn command, or a checkpoint")
    finished = disk.read_sealed(root / RUN).get("finished")
    if isinstance(finished, list) and place == root:
        sizes = ", ".join(sorted(str(one.parent) for one in root.glob(f"*/{disk.COMPRESSED}")))
        raise RunError(f"{root} holds several sizes: pass the folder of one of them: {sizes}")
    known = [disk.read_done(one) for one in place.glob(f"*/{disk.DONE}")]
    ends = finished if isinstance(finished, list) else [finished]
    done = next((one for one in known if one["digest"] in ends), None)
    if done is None:
        raise RunError(f"{root} holds an unfinished run: finish it with `slimcnn run {root / disk.RECIPE}`")
    recipe = read_recipe(root / disk.RECIPE)
    show.say(f"loading {recipe.data.name}")
    checkpoint, settings = place / disk.COMPRESSED, recipe.data
    data = images_of(checkpoint, settings.name, settings.seed, settings.limit, **settings.reading)
    return read_state(root, done, for_task(data, settings.task) if settings.task is not None else data)


def images_of(checkpoint: Path, name: str = "", seed: int = 0, limit: int | None = None, **reading: Any) -> Dataset:
    """Load the dataset of a checkpoint, with its image size and normalization.

    Args:
        checkpoint: the file.
        name: the dataset; default: the one named in the file.
        seed: seed of the validation split.
        limit: maximum number of images of each part.
        reading: how images are read (see `load_dataset`).

    Raises:
        RunError: the file does not name a dataset.
        SlimcnnError: the dataset cannot be read.
    """
    information = read_information(checkpoint)
    name = name or str(information.get("dataset", ""))
    if not name:
        raise RunError(f"{checkpoint} does not name a dataset: pass --data")
    normal = stored_in(information)
    how = scaling_in(information) | {key: value for key, value in reading.items() if value is not None}
    data = load_dataset(name, seed=seed, limit=limit, **how)
    return replace(data, normalization=normal) if normal is not None else data
