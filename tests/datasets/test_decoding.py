from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from slimcnn.datasets.decoding import idx, records, sheets
from slimcnn.errors import DataError


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_records_hold_the_labels_and_then_the_planes_of_the_colors() -> None:
    content = bytes([9, 4, *range(12)]) + bytes([9, 5, *range(12, 24)])
    labels, pixels = records({"train.bin": content}, label_bytes=2, shape=(3, 2, 2))
    assert labels.tolist() == [4, 5]
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels.flatten().tolist() == list(range(24))


def test_records_of_several_files_follow_each_other() -> None:
    labels, pixels = records({"a": bytes([1, 10]), "b": bytes([2, 20, 3, 30])}, shape=(1, 1, 1))
    assert labels.tolist() == [1, 2, 3]
    assert pixels.flatten().tolist() == [10, 20, 30]


def test_a_sheet_has_one_image_a_row() -> None:
    rows = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)  # two images of 2 x 2
    labels, pixels = sheets({"a.png": png(rows), "labels.json": b"[7, 8]"}, side=2)
    assert labels.tolist() == [7, 8]
    assert pixels[0, 0].tolist() == [[0, 3], [6, 9]]  # the red of the first image
    assert pixels[1, 2].tolist() == [[14, 17], [20, 23]]  # the blue of the second


def idx_file(shape: tuple[int, ...], data: bytes) -> bytes:
    return gzip.compress(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data)


def test_idx_files_hold_gray_images_and_labels() -> None:
    labels, pixels = idx(
        {"images.gz": idx_file((2, 1, 3), bytes(range(6))), "labels.gz": idx_file((2,), bytes([4, 2]))}
    )
    assert labels.tolist() == [4, 2]
    assert pixels.tolist() == [[[[0, 1, 2]]], [[[3, 4, 5]]]]


@pytest.mark.parametrize("content", [b"", bytes(5)])
def test_records_that_are_not_whole_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=f"batch.bin has {len(content)} bytes, not a multiple of 3"):
        records({"batch.bin": content}, shape=(1, 1, 2))


GOOD_SHEET = png(np.zeros((2, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("sheet", "labels", "message"),
    [
        (GOOD_SHEET[:-20], b"[1, 2]", "a.png is not a complete PNG"),
        (b"GIF89a", b"[1, 2]", "a.png is not a complete PNG"),
        (png(np.zeros((2, 4), np.uint8)), b"[1, 2]", "a.png is a L sheet 4 wide"),
        (png(np.zeros((2, 5, 3), np.uint8)), b"[1, 2]", "a.png is a RGB sheet 5 wide"),
        (GOOD_SHEET, b"[1, 2", "labels.json is not JSON"),
        (GOOD_SHEET, b"\xff\xfe", "labels.json is not JSON"),
        (GOOD_SHEET, b'{"1": 2}', "labels.json is not a list of labels"),
        (GOOD_SHEET, b"[1, 256]", "labels.json is not a list of labels"),
        (GOOD_SHEET, json.dumps([1, 2.5]).encode(), "labels.json is not a list of labels"),
    ],
)
def test_broken_sheets_are_refused_by_name(sheet: bytes, labels: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        sheets({"a.png": sheet, "labels.json": labels}, side=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"no gzip", "images.gz is not a complete gzip file"),
        (idx_file((2, 1, 1), bytes(2))[:-4], "images.gz is not a complete gzip file"),
        (idx_file((2,), bytes(2)), "images.gz is not an IDX file of bytes with 3 axes: it begins with 00 00 08 01"),
        (gzip.compress(b""), "images.gz is not an IDX file"),
        (gzip.compress(bytes([0, 0, 8, 3, 0])), "images.gz is not an IDX file"),
        (idx_file((2, 1, 2), bytes(3)), r"images.gz declares shape \(2, 1, 2\) but holds 3 bytes"),
    ],
    # gzip writes the time into its files: as names of tests they would differ from process to process.
    ids=["no gzip", "cut off", "one axis", "empty", "no header", "too few bytes"],
)
def test_broken_idx_files_are_refused_by_name(images: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        idx({"images.gz": images, "labels.gz": idx_file((2,), bytes(2))})


def test_a_gzip_file_that_unpacks_to_more_than_it_declares_is_refused_before_it_is_unpacked() -> None:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 1, 1)
    bomb = gzip.compress(head + bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(DataError, match="declares shape"):
        idx({"images": bomb, "labels": gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 2) + bytes(2))})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 31, 1 << 31, 1 << 31)
    with pytest.raises(DataError, match="declares shape"):
        idx({"images": gzip.compress(huge), "labels": b""})
