"""A run scales pictures as the weights of its network expect, and so does everything that reads its images again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import slimcnn
from slimcnn.checkpoints import read_information
from slimcnn.datasets.cache import fingerprint
from slimcnn.datasets.scaling import Scaling
from slimcnn.errors import CheckpointError, RecipeError
from slimcnn.models import preprocessing
from slimcnn.running import recipe_from, run
from slimcnn.running.loading import load_with_data
from slimcnn.running.opening import images_of, open_run
from slimcnn.running.recipe import read_recipe
from slimcnn.running.scaling import scaling_in, with_published_scaling
from slimcnn.running.settings import Data, Network

CLASSES = ("a", "b")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in CLASSES:
        (place / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 256, (30, 24 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


@pytest.mark.parametrize(
    ("network", "size", "resize", "interpolation"),
    [
        ("torchvision:resnet50", 224, 232, "bilinear"),
        ("torchvision:efficientnet_b0", 224, 256, "bicubic"),
        ("torchvision:inception_v3", 299, 342, "bilinear"),
        ("timm:resnet18", 224, 235, "bicubic"),
        ("timm:mobilenetv3_small_100", 224, 256, "bicubic"),
    ],
)
def test_published_weights_state_how_pictures_are_scaled(
    network: str, size: int, resize: int, interpolation: str
) -> None:
    if network.startswith("timm"):
        pytest.importorskip("timm")
    stated = preprocessing(network)
    assert stated.resize is not None
    assert (stated.input, stated.interpolation) == ((3, size, size), interpolation)
    assert stated.resize == resize


def test_what_the_user_asks_for_comes_before_what_is_published() -> None:
    network = Network(model="torchvision:resnet18", weights="w.pth")
    assert with_published_scaling(network, Data(name="photos")).resize == 256
    for asked in (Data(name="photos", image_size=160), Data(name="photos", resize=300), Data(name="cifar10")):
        assert with_published_scaling(network, asked) == asked


def test_a_run_stores_its_scaling_and_all_that_reads_its_images_again_uses_it(photos: Path, tmp_path: Path) -> None:
    plain = {
        "out": str(tmp_path / "run"),
        "network": {"model": "resnet8"},
        "data": {"name": str(photos), "image_size": "12x16", "resize": 20, "interpolation": "bilinear"},
        "steps": [{"step": "train", "epochs": 1, "batch_size": 16}],
        "deterministic": True,
        "latency_seconds": 0.1,
    }
    run(recipe_from(plain))
    folder = tmp_path / "run"
    wanted = slimcnn.load_dataset(photos, image_size=(12, 16), resize=20, interpolation="bilinear")
    checkpoint = folder / "compressed.safetensors"
    assert read_information(checkpoint)["scaling"] == {"resize": 20, "interpolation": "bilinear"}
    found = [
        open_run(folder).data,
        images_of(checkpoint, str(photos)),
        load_with_data(Network(weights=str(checkpoint)), Data(name=str(photos))).data,
    ]
    for data in found:
        assert data.scaling == Scaling(20, "bilinear")
        assert torch.equal(data.test.in_memory().pixels, wanted.test.in_memory().pixels)
    claimed = json.loads((folder / "manifest.json").read_text())
    assert fingerprint((wanted.test,)) in json.dumps(claimed)
    stored = read_recipe(folder / "recipe.toml")
    assert (stored.data.image_size, stored.data.resize) == ((12, 16), 20)
    run(stored)  # the same settings: nothing is refused


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"image_size": 224, "resize": 200}, "resize 200 is smaller than image_size 224"),
        ({"image_size": "224x"}, "expected a number of pixels such as 224"),
        ({"image_size": "0x12"}, "use at least 1 pixel"),
        ({"image_size": [1, 2, 3]}, "image_size"),
        ({"resize": 0}, "greater than or equal to 1"),
        ({"interpolation": "cubic"}, "bicubic"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(data: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        recipe_from({"network": {"model": "resnet8"}, "data": data, "steps": [{"step": "train"}]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "scaling", [{"resize": "x", "interpolation": "bicubic"}, {"resize": 3}, {"resize": 9, "interpolation": "no"}]
)
def test_a_damaged_scaling_of_a_checkpoint_is_named(scaling: dict) -> None:
    with pytest.raises(CheckpointError, match="these are no sizes"):
        scaling_in({"input": [3, 8, 8], "scaling": scaling})
