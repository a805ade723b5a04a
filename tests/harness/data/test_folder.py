"""Folders of images: what is found, what is read, and one line for each thing that is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import DataSet, DataSpec, InputSpec, Preprocess, open_data
from harness.data.folder import list_folder
from harness.errors import UserError

Folder = Callable[..., Path]
Inputs = tuple[InputSpec, ...]


def opened(folder: Path, inputs: Inputs, label_offset: int = 0, steps: Preprocess | None = None) -> DataSet:
    return open_data(DataSpec(str(folder), label_offset=label_offset), steps or Preprocess(), inputs, Path("/"))


@pytest.mark.parametrize("sub", ["", "images"])
def test_images_stand_beside_labels_csv_or_in_images(image_folder: Folder, nchw: Inputs, sub: str) -> None:
    folder = image_folder([4, 2, 7], sub=sub)
    data = opened(folder, nchw, label_offset=1)
    assert isinstance(data, DataSet)
    assert (len(data), data.ids, data.name) == (3, ("0.png", "1.png", "2.png"), "images-of-mine")
    assert data.label_source == str(folder / "labels.csv")
    batch = data.read([2, 0])
    assert batch.ids == ("2.png", "0.png")
    assert batch.labels is not None
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == [8, 5]
    for row, index in enumerate((2, 0)):
        stored = np.asarray(Image.open(folder / sub / f"{index}.png"))
        np.testing.assert_array_equal(batch.inputs["x"][row], stored.transpose(2, 0, 1))
    assert batch.inputs["x"].dtype == np.float32
    assert batch.inputs["x"].flags.c_contiguous


def test_class_folders_are_numbered_in_the_order_of_their_names(tmp_path: Path, nchw: Inputs) -> None:
    for name, count in (("dog", 2), ("cat", 1), ("ant", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (5, 6)).save(tmp_path / name / f"{index}.jpg")
    (tmp_path / ".cache").mkdir()
    data = opened(tmp_path, nchw)
    assert data.ids == ("ant/0.jpg", "cat/0.jpg", "dog/0.jpg", "dog/1.jpg")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("sub", ["", "images"])
def test_plain_images_have_no_labels(image_folder: Folder, nchw: Inputs, sub: str) -> None:
    folder = image_folder([0, 0], sub=sub)
    (folder / "labels.csv").unlink()
    data = opened(folder, nchw)
    assert (len(data), data.labels, data.read([1]).labels) == (2, None, None)


def test_only_what_is_asked_for_is_decoded(image_folder: Folder, nchw: Inputs) -> None:
    folder = image_folder([0, 1, 2])
    (folder / "1.png").write_bytes(b"not an image")
    data = opened(folder, nchw)
    assert data.read([0, 2]).real == 2
    with pytest.raises(UserError, match=r"^images-of-mine/1.png: not an image; replace or remove it$"):
        data.read([0, 1])


def test_damaged_and_vanished_images(image_folder: Folder, nchw: Inputs) -> None:
    folder = image_folder([0, 1], size=(64, 64))
    whole = (folder / "0.png").read_bytes()
    data = opened(folder, (InputSpec("x", "float32", (None, 3, 64, 64)),))
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "1.png").unlink()
    with pytest.raises(UserError, match=r"images-of-mine/0.png: damaged image \(.*\); replace or remove it"):
        data.read([0])
    with pytest.raises(UserError, match=r"images-of-mine/1.png: no such file; restore it"):
        data.read([1])


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_jpeg_cut_anywhere_is_one_line(tmp_path: Path, cut: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    raw = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(raw[: len(raw) * cut // 60])
    data = opened(tmp_path, (InputSpec("x", "float32", (None, 32, 32, 3)),))
    with pytest.raises(UserError, match=r"/a.jpg: (not an image|damaged image)"):
        data.read([0])


def test_images_of_two_sizes_need_resize(image_folder: Folder) -> None:
    folder = image_folder([0, 1])
    Image.new("RGB", (9, 9)).save(folder / "1.png")
    free = (InputSpec("x", "float32", (None, 3, None, None)),)
    with pytest.raises(UserError, match=r"1.png: 9x9 pixels, .*0.png has 6x5; .*resize:"):
        opened(folder, free, steps=Preprocess(layout="NCHW")).read([0, 1])


def test_the_digest_follows_pixels_labels_and_preprocessing(image_folder: Folder, nchw: Inputs) -> None:
    folder = image_folder([0, 1])
    first = opened(folder, nchw).digest()
    moved = folder.parent / "elsewhere"
    shutil.copytree(folder, moved)
    assert opened(moved, nchw).digest() == first
    assert opened(folder, nchw, label_offset=1).digest() != first
    assert opened(folder, nchw, steps=Preprocess(scale=2)).digest() != first
    Image.new("RGB", (5, 6)).save(moved / "0.png")
    assert opened(moved, nchw).digest() != first


def table(folder: Path, text: str) -> str:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        list_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "file,label_index\n0.png,1",
            "labels.csv:1: no column 'filename' in the first line (file,label_index); rename",
        ),
        ("filename,label\n0.png,1", "labels.csv:1: no column 'label_index' in the first line (filename,label); rename"),
        ("0.png,1\n", "labels.csv:1: no column 'filename'"),
        ("", "labels.csv:1: no column 'filename'"),
        ("filename,label_index\n", "labels.csv: lists no files"),
        ("filename,label_index\n0.png,1\ngone.png,2", "labels.csv:3: gone.png is neither in"),
        ("filename,label_index\n0.png,cat", "labels.csv:2: label_index 'cat' of 0.png is not a whole number"),
        ("filename,label_index\n0.png,1.0", "labels.csv:2: label_index '1.0' of 0.png is not a whole number"),
        ("filename,label_index\n0.png,99999999999999999999", "labels.csv:2: label_index 99999999999999999999 of 0.png"),
        ("filename,label_index\n0.png", "labels.csv:2: 1 of 2 columns"),
        ("filename,label_index\n0.png,1\n0.png,2", "labels.csv:3: 0.png is listed already in line 2"),
        ("filename,label_index\n../0.png,1", "labels.csv:2: filename '../0.png' is not a path inside the folder"),
        ("filename,label_index\n/etc/hosts,1", "labels.csv:2: filename '/etc/hosts' is not a path inside"),
    ],
)
def test_each_mistake_in_labels_csv_is_one_line(image_folder: Folder, text: str, expected: str) -> None:
    assert table(image_folder([0]), text).startswith(expected)


def test_labels_csv_as_spreadsheets_write_it(image_folder: Folder) -> None:
    folder = image_folder([0, 1])
    (folder / "labels.csv").write_bytes(
        b'\xef\xbb\xbfname,label_index,filename\r\n"a, b",7,0.png\r\n\r\nc,8,"1.png"\r\n'
    )
    found = list_folder(folder)
    assert found.ids == ("0.png", "1.png")
    assert found.labels is not None
    assert found.labels.tolist() == [7, 8]


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no labels.csv, no images and no folders of images"):
        list_folder(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "b/1.png")
    with pytest.raises(UserError, match=r"a: a class folder without images would shift the class numbers"):
        list_folder(tmp_path)


def test_a_folder_feeds_one_input_only(image_folder: Folder, nchw: Inputs) -> None:
    with pytest.raises(UserError, match=r"feeds one input, the network has 2 \(x, x\)"):
        opened(image_folder([0]), nchw + nchw)
