"""What later trainings ask for is checked before the first one starts."""

from __future__ import annotations

import sys

import pytest
import torch

import slimcnn
from slimcnn.datasets import Dataset, Images
from slimcnn.errors import RecipeError
from slimcnn.running.rehearsal import rehearse
from slimcnn.running.step import State
from slimcnn.show import SILENT
from slimcnn.steps import Train


def state(task: str) -> State:
    data = slimcnn.load_dataset("digits").limit(20)
    if task == "segmentation":
        masked = {
            part: Images(images.pixels, torch.zeros(len(images), 8, 8, dtype=torch.uint8))
            for part in ("train", "validation", "test")
            for images in [getattr(data, part)]
        }
        data = Dataset(
            "masks", data.classes, **masked, normalization=data.normalization, augmentation=data.augmentation,
            task="segmentation",
        )  # fmt: skip
    model = slimcnn.build("resnet8", in_channels=1)
    return State(model, model, data)


@pytest.mark.parametrize(("wrong", "said"), [("randaugment", "moves pixels, but not"), ("mixup", "mixes the classes")])
def test_an_augmentation_that_the_data_do_not_allow(wrong: str, said: str) -> None:
    chain = [Train(epochs=1), Train(epochs=1, augmentation=f"default + {wrong}")]
    rehearse(chain, state("classification"), SILENT)
    with pytest.raises(RecipeError, match=said):
        rehearse(chain, state("segmentation"), SILENT)


def test_an_optimizer_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match="lamb needs the package timm"):
        rehearse([Train(epochs=1), Train(epochs=1, optimizer="lamb")], state("classification"), SILENT)
