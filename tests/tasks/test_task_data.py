"""Targets on disk: masks as PNG, boxes as XML and JSON; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_tasks import HEIGHT, WIDTH, annotation, dataset, squares, write_camvid, write_voc

from slimcnn import load_dataset
from slimcnn.datasets import batches
from slimcnn.datasets.images import Augmentation, Images, Normalization
from slimcnn.errors import DataError

UNCHANGED = Normalization((0.0,) * 3, (1.0,) * 3)


def refusal(name: str) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- masks -------------------------------------------------------------------------------------------------------


def test_images_and_masks_are_read_in_pairs(tmp_path: Path) -> None:
    data = load_dataset(f"camvid:{write_camvid(tmp_path)}")
    assert (data.task, data.classes, data.shape) == ("segmentation", ("back", "green", "blue"), (3, HEIGHT, WIDTH))
    assert data.train.labels.shape == (10, HEIGHT, WIDTH)
    assert set(data.train.labels.unique().tolist()) == {0, 1, 2, 255}


def test_the_eleventh_number_of_camvid_itself_is_not_counted(tmp_path: Path) -> None:
    (write_camvid(tmp_path) / "classes.txt").unlink()
    for path in tmp_path.glob("*annot/*.png"):
        Image.fromarray(np.full((HEIGHT, WIDTH), 11, np.uint8)).save(path)
    data = load_dataset(f"camvid:{tmp_path}")
    assert len(data.classes) == 11
    assert bool((data.train.labels == 255).all())


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    path = write_camvid(tmp_path) / "trainannot" / "03.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint8)).save(path)
    assert f"{path} is {WIDTH + 1} x {HEIGHT} pixels, its image {WIDTH} x {HEIGHT}" in refusal(f"camvid:{tmp_path}")


def test_a_class_number_out_of_range_is_refused(tmp_path: Path) -> None:
    path = write_camvid(tmp_path) / "valannot" / "01.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(path)
    assert f"{path} has the class number 7, but there are 3 classes" in refusal(f"camvid:{tmp_path}")


def test_a_mask_in_color_is_refused(tmp_path: Path) -> None:
    path = write_camvid(tmp_path) / "trainannot" / "00.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    assert "a mask has one class number for a pixel" in refusal(f"camvid:{tmp_path}")


@pytest.mark.parametrize(("gone", "said"), [("trainannot", "has no mask"), ("train", "has no image")])
def test_images_without_masks_are_refused_and_the_reverse(tmp_path: Path, gone: str, said: str) -> None:
    (write_camvid(tmp_path) / gone / "05.png").unlink()
    assert said in refusal(f"camvid:{tmp_path}")


def test_masks_move_with_their_images() -> None:
    pixels, boxes = squares(16, 0)
    kinds = torch.tensor([own[0].kind for own in boxes])
    masks = (pixels.gather(1, (1 + kinds)[:, None, None, None].expand(-1, 1, HEIGHT, WIDTH))[:, 0] > 100).to(
        torch.uint8
    )
    images = Images(pixels, masks)
    feed = batches(images, 8, normalization=UNCHANGED, augmentation=Augmentation(crop=4, flip=True), seed=0)
    for x, y in feed:
        bright = (x[:, 1:].amax(1) * 255).round() > 100
        inside = y != 255  # the border that the crop adds is not counted
        assert bool((bright == (y == 1))[inside].all())
        assert bool((y == 255).any())


# --- boxes -------------------------------------------------------------------------------------------------------


def test_images_and_boxes_are_read_in_pairs(tmp_path: Path) -> None:
    data = load_dataset(f"voc:{write_voc(tmp_path)}")
    assert (data.task, data.classes) == ("detection", ("blue", "green"))
    _, boxes = squares(10, 0)
    assert data.train.labels[0, 0].tolist() == [1.0, *boxes[0][0][1:]]


def test_an_image_without_boxes_is_kept(tmp_path: Path) -> None:
    (write_voc(tmp_path) / "Annotations" / "train_00.xml").write_text(annotation([]), encoding="utf-8")
    assert load_dataset(f"voc:{tmp_path}").train.labels[0, 0].tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0]


def test_equal_boxes_count_once(tmp_path: Path) -> None:
    same = [("green", 3.0, 3.0, 9.0, 9.0)] * 2
    (write_voc(tmp_path) / "Annotations" / "train_00.xml").write_text(annotation(same), encoding="utf-8")
    found = load_dataset(f"voc:{tmp_path}").train.labels[0]
    assert int((found[:, 0] >= 0).sum()) == 1


@pytest.mark.parametrize(("box", "said"), [
    ((2.0, 2.0, 1.0, 8.0), "has a box without area"),
    ((2.0, 2.0, 500.0, 8.0), "has a box outside of its image"),
    ((float("nan"), 2.0, 5.0, 8.0), "broken box"),
])  # fmt: skip
def test_boxes_that_cannot_be_are_refused(tmp_path: Path, box: tuple[float, ...], said: str) -> None:
    path = write_voc(tmp_path) / "Annotations" / "train_00.xml"
    path.write_text(annotation([("green", *box)]), encoding="utf-8")  # type: ignore[list-item]
    assert said in refusal(f"voc:{tmp_path}")


def test_a_box_that_leaves_its_image_by_a_pixel_is_clipped(tmp_path: Path) -> None:
    path = write_voc(tmp_path) / "Annotations" / "train_00.xml"
    path.write_text(annotation([("green", 0.0, 0.0, WIDTH + 1.0, 9.0)]), encoding="utf-8")
    assert load_dataset(f"voc:{tmp_path}").train.labels[0, 0].tolist() == [1.0, 0.0, 0.0, float(WIDTH), 9.0]


@pytest.mark.parametrize(("gone", "said"), [
    ("Annotations/train_00.xml", "for the image train_00"), ("JPEGImages/train_00.png", "there is no image"),
])  # fmt: skip
def test_images_without_annotations_are_refused_and_the_reverse(tmp_path: Path, gone: str, said: str) -> None:
    (write_voc(tmp_path) / gone).unlink()
    assert said in refusal(f"voc:{tmp_path}")


def test_an_annotation_of_an_unknown_image_is_refused(tmp_path: Path) -> None:
    (write_voc(tmp_path) / "Annotations" / "other.xml").write_text(annotation([]), encoding="utf-8")
    assert "other.xml has no image" in refusal(f"voc:{tmp_path}")


def test_an_annotation_that_defines_entities_is_refused(tmp_path: Path) -> None:
    path = write_voc(tmp_path) / "Annotations" / "train_00.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>', encoding="utf-8")
    assert "defines entities" in refusal(f"voc:{tmp_path}")


def test_boxes_move_with_their_images() -> None:
    pixels, _ = squares(16, 0)
    images = Images(pixels, dataset("detection", 16).train.labels)
    for x, y in batches(images, 8, normalization=UNCHANGED, augmentation=Augmentation(flip=True), seed=0):
        for image, (kind, x1, y1, x2, y2) in zip(x, y[:, 0].tolist(), strict=True):
            inside = image[1 + int(kind), int(y1) : int(y2), int(x1) : int(x2)]
            assert float(inside.min()) > 0.4


# --- COCO --------------------------------------------------------------------------------------------------------


def write_coco(folder: Path, **changes: object) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for seed, part in enumerate(("train", "validation", "test")):
        (folder / part).mkdir()
        pixels, boxes = squares(4, seed)
        for number, image in enumerate(pixels):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / part / f"{number}.png")
        plain: dict[str, object] = {
            "images": [{"id": 7 + number, "file_name": f"{number}.png"} for number in range(4)],
            "categories": [{"id": 5, "name": "blue"}, {"id": 2, "name": "green"}],
            "annotations": [
                {"id": number, "image_id": 7 + number, "category_id": (2, 5)[own[0].kind],
                 "bbox": [own[0].x1, own[0].y1, 10, 10]}
                for number, own in enumerate(boxes)
            ],
        }  # fmt: skip
        (folder / "annotations" / f"{part}.json").write_text(json.dumps(plain | changes), encoding="utf-8")
    return folder


def test_the_layout_of_coco_is_read(tmp_path: Path) -> None:
    data = load_dataset(f"coco:{write_coco(tmp_path)}")
    assert data.classes == ("green", "blue")
    _, boxes = squares(4, 0)
    assert data.train.labels[1, 0].tolist() == [1.0, *boxes[1][0][1:]]


@pytest.mark.parametrize(("changes", "said"), [
    ({"annotations": [{"id": 1, "image_id": 99, "category_id": 2, "bbox": [1, 1, 4, 4]}]}, "unknown image 99"),
    ({"annotations": [{"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 1, 4, 4]}]}, "unknown category 9"),
    ({"annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 1, 0, 4]}]}, "without area"),
    ({"annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1]}]}, "is broken"),
    ({"images": [{"id": 7, "file_name": "missing.png"}]}, "unknown image 8"),
    ({"categories": 3}, "no list of categories"),
])  # fmt: skip
def test_broken_annotations_of_coco_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in refusal(f"coco:{write_coco(tmp_path, **changes)}")
