"""Labels that are no class numbers: masks, YOLO's boxes and COCO's, beside images or handed in as arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import DataSet, DataSpec, InputSpec, Preprocess, label_kind, labels_at, open_data
from harness.data.label_map import LabelMap
from harness.errors import UserError
from harness.job import Job, job_from_mapping, load_job

INPUTS = (InputSpec("x", "float32", (None, 3, 4, 4)),)
STEPS = Preprocess(resize=(4, 4))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four images of 20 x 10 (width x height) in images/."""
    (tmp_path / "set/images").mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (20, 10), (index, 0, 0)).save(tmp_path / f"set/images/{index}.png")
    return tmp_path / "set"


def opened(folder: Path, labels: str, label_map: LabelMap | None = None) -> DataSet:
    return open_data(DataSpec(str(folder), labels=labels, label_map=label_map), STEPS, INPUTS, folder.parent)


@pytest.mark.parametrize("suffix", [".png", ".npz", ".npy"])
def test_only_images_with_a_mask_are_samples(pictures: Path, suffix: str) -> None:
    (pictures / "masks").mkdir()
    masks = {index: np.random.default_rng(index).integers(0, 200, (10, 20), np.uint8) for index in (1, 3)}
    for index, mask in masks.items():
        path = pictures / f"masks/{index}{suffix}"
        if suffix == ".png":
            Image.fromarray(mask).save(path)
        elif suffix == ".npz":
            np.savez(path, mask)
        else:
            np.save(path, mask)
    data = opened(pictures, "masks")
    assert data.ids == ("images/1.png", "images/3.png")
    assert (label_kind(data), data.labels) == ("masks", None)
    found = labels_at(data, [1, 0])
    assert found is not None
    np.testing.assert_array_equal(found[0], masks[3])
    np.testing.assert_array_equal(found[1], masks[1])
    assert data.read([0]).labels is None


def test_a_label_map_names_ignores_and_gathers(pictures: Path) -> None:
    (pictures / "masks").mkdir()
    Image.fromarray(np.array([[0, 1, 2, 7]], np.uint8)).save(pictures / "masks/0.png")
    data = opened(pictures, "masks", LabelMap.of({0: "ignore", 1: 15, "2": 3, "other": 0}))
    found = labels_at(data, [0])
    assert found is not None
    assert found[0].tolist() == [[-1, 15, 3, 0]]
    assert data.digest() != opened(pictures, "masks").digest()


def test_yolos_boxes_become_corners_and_a_missing_file_is_no_box(pictures: Path) -> None:
    (pictures / "labels").mkdir()
    (pictures / "labels/1.txt").write_text("7 0.5 0.25 0.5 0.5\n\n2 0.9 0.9 0.2 0.2\n")
    data = opened(pictures, "labels")
    assert (len(data), label_kind(data)) == (4, "boxes")
    found = labels_at(data, [0, 1])
    assert found is not None
    assert found[0].shape == (0, 6)
    np.testing.assert_allclose(
        np.asarray(found[1], float), np.array([[0.25, 0, 0.75, 0.5, 7, 0], [0.8, 0.8, 1, 1, 2, 0]])
    )
    mapped = labels_at(opened(pictures, "labels", LabelMap.of({7: 1, "other": "ignore"})), [1])
    assert mapped is not None
    assert mapped[0][:, 4].tolist() == [1]


def test_cocos_boxes_are_fractions_of_their_image_and_categories_count_through(pictures: Path) -> None:
    whole = {
        "images": [{"id": 50, "file_name": "2.png", "width": 20, "height": 10}],
        "annotations": [
            {"image_id": 50, "bbox": [10, 5, 5, 2.5], "category_id": 18, "iscrowd": 1},
            {"image_id": 50, "bbox": [0, 0, 20, 10], "category_id": 3},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    (pictures / "instances.json").write_text(json.dumps(whole))
    data = opened(pictures, "instances.json")
    assert data.ids == ("images/2.png",)
    found = labels_at(data, [0])
    assert found is not None
    np.testing.assert_allclose(
        np.asarray(found[0], float), np.array([[0.5, 0.5, 0.75, 0.75, 1, 1], [0, 0, 1, 1, 0, 0]])
    )


def broken(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("write", "labels", "message"),
    [
        (broken("l/1.txt", "7 0.5 0.5\n"), "l", r"1\.txt:1: not a box"),
        (broken("l/1.txt", "0 0.1 0.1 0.1 0.1\n7.5 0.5 0.5 1 1\n"), "l", r"1\.txt:2: class 7\.5"),
        (broken("l/1.txt", "7 120 80 50 50\n"), "l", "fractions of the image"),
        (broken("l/cat.txt", "7 0.5 0.5 1 1\n"), "l", r"named like an image \(cat\.txt, 0\.png\)"),
        (broken("l/1.png", "no image"), "l", "not a readable mask"),
        (broken("l/readme.md", ""), "l", "no masks"),
        (broken("l.json", "{}"), "l.json", "no 'images'"),
        (broken("l.json", '{"images": [], "annotations": [], "categories": []}'), "l.json", "lists none of the images"),
        (broken("l.json", "[1"), "l.json", "not COCO's annotations"),
        (lambda _: None, "nowhere", "no such labels"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    pictures: Path, write: Callable[[Path], None], labels: str, message: str
) -> None:
    write(pictures)
    with pytest.raises(UserError, match=message):
        labels_at(opened(pictures, labels), [0])


def test_fields_that_would_be_ignored_are_refused(pictures: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 4, 4), np.float32))
    cases = [
        (DataSpec(str(tmp_path / "a.npz"), labels="masks"), "only a folder of images"),
        (DataSpec(str(pictures), label_map=LabelMap(((1, 2),))), "label_map"),
        (DataSpec(str(pictures), labels="masks", label_offset=1), "label_offset"),
    ]
    for spec, message in cases:
        with pytest.raises(UserError, match=message):
            open_data(spec, Preprocess(), INPUTS, tmp_path)
    (pictures / "labels").mkdir()
    (pictures / "labels/1.txt").write_text("7 0.5 0.25 0.5 0.5\n")
    with pytest.raises(UserError, match="crop"):
        open_data(DataSpec(str(pictures), labels="labels"), Preprocess(crop=(4, 4)), INPUTS, tmp_path)


def from_arrays(tmp_path: Path, text: str) -> DataSet:
    (tmp_path / "own.py").write_text(
        f"import numpy as np\nx = np.zeros((2, 3, 4, 4), np.float32)\n\ndef load():\n    return x, {text}\n"
    )
    return open_data(DataSpec("own:load"), Preprocess(), INPUTS, tmp_path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("np.array([1, 2])", "classes"),
        ("[1, 2]", "classes"),
        ("np.zeros((2, 5, 5), int)", "masks"),
        ("[np.zeros((5, 5), np.uint8), np.zeros((9, 2), np.uint8)]", "masks"),
        ("[np.empty((0, 5)), np.array([[0, 0, 1, 1, 3.0]])]", "boxes"),
        ("np.zeros((2, 7), np.float32)", "targets"),
        ("[np.zeros(3), np.zeros(4)]", "targets"),
    ],
)
def test_a_function_may_return_any_kind(tmp_path: Path, text: str, kind: str) -> None:
    data = from_arrays(tmp_path, text)
    assert label_kind(data) == kind
    found = labels_at(data, [1])
    assert found is not None
    assert len(found) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[np.zeros((5, 5), int)]", "1 labels for 2 samples"),
        ("[np.array([[0, 0, 640, 480, 1.0]])] * 2", "fractions of the image"),
        ("[np.zeros((5, 5), int), np.zeros(3)]", "neither class numbers"),
    ],
)
def test_arrays_that_are_no_labels_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_arrays(tmp_path, text)


def job_file(tmp_path: Path, data: str) -> Job:
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "job.yaml").write_text(f"model: net.onnx\ndata:\n  source: set\n{data}metrics: [miou]\n")
    return load_job(tmp_path / "job.yaml")


def test_a_job_names_them_and_survives_the_journal(tmp_path: Path) -> None:
    job = job_file(tmp_path, "  labels: masks\n  label_map: {1: 15, 0: ignore, other: 0}\n")
    assert job.data.labels == "masks"
    assert job.data.label_map == LabelMap(((0, -1), (1, 15)), 0)
    stored = json.loads(json.dumps(job.as_json()))
    assert job_from_mapping(stored, tmp_path).data == job.data


@pytest.mark.parametrize("text", ["{1: dog}", "{cat: 1}", "{1: 1.5}", "[1, 2]"])
def test_a_label_map_that_is_none_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"job\.yaml:[45]: "):
        job_file(tmp_path, f"  label_map: {text}\n")
