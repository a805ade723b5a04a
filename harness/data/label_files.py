"""Labels in files beside the images: masks, YOLO's text files, COCO's annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.label_map import IGNORED, LabelMap
from harness.data.truth import HeldTruth, MaskFiles, Truth, check_boxes
from harness.errors import UserError

_MASKS = (".png", ".npz", ".npy", ".tif", ".tiff", ".bmp")


def open_label_files(where: Path, images: Sequence[Path], label_map: LabelMap | None) -> tuple[tuple[int, ...], Truth]:
    """The labels of some images.

    Args:
        where: a folder of masks (`<image's name>.png`, .npz or .npy), a folder of YOLO's text files
            (`<image's name>.txt`, one line a box: class, centre x and y, width and height in 0…1), or a COCO .json.
        images: the files.
        label_map: from the numbers that are stored to classes. Without one, COCO's category numbers are counted
            through in their order: 1…90 become 0…79, as in YOLO's files.

    Returns:
        (which of the images have labels, their labels). An image without a mask, or that a COCO file does not list,
        has none; one without a YOLO file has no boxes.

    Raises:
        UserError: files that cannot be read or fit no image.
    """
    if where.is_file() and where.suffix == ".json":
        return _coco(where, images, label_map)
    if not where.is_dir():
        raise UserError(f"{where}: no such labels; give a folder of masks or of YOLO's .txt, or a COCO .json")
    texts = {path.stem: path for path in where.glob("*.txt") if path.name != "classes.txt"}
    masks = {path.stem: path for suffix in reversed(_MASKS) for path in where.glob(f"*{suffix}")}
    if texts and masks:
        raise UserError(f"{where}: holds both masks and .txt files; give them a folder each")
    known = texts or masks
    if not known:
        raise UserError(f"{where}: no masks ({', '.join(_MASKS)}) and no .txt files; give the folder that holds them")
    found = tuple(index for index, path in enumerate(images) if path.stem in known)
    if not found:
        example = next(iter(known.values())).name
        raise UserError(f"{where}: none is named like an image ({example}, {images[0].name}); rename them")
    if masks:
        return found, MaskFiles([masks[images[index].stem] for index in found], label_map)
    boxes = [_yolo(texts.get(path.stem), label_map) for path in images]
    return tuple(range(len(images))), HeldTruth("boxes", boxes)


def _yolo(path: Path | None, label_map: LabelMap | None) -> NDArray[np.float64]:
    if path is None:
        return np.empty((0, 6))
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, x, y, width, height = (float(word) for word in line.split())
        except ValueError:
            raise UserError(f"{path}:{number}: not a box; a line is class, centre x, centre y, width, height") from None
        if label != int(label):
            raise UserError(f"{path}:{number}: class {label} is no whole number; correct it")
        rows.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2, label, 0.0])
    boxes = np.array(rows, np.float64).reshape(-1, 6)
    check_boxes(boxes, str(path))
    return _mapped(boxes, label_map)


def _mapped(boxes: NDArray[np.float64], label_map: LabelMap | None) -> NDArray[np.float64]:
    if label_map is None or not len(boxes):
        return boxes
    mapped = boxes.copy()
    mapped[:, 4] = label_map.apply(boxes[:, 4].astype(np.int64))
    return np.asarray(mapped[mapped[:, 4] != IGNORED], np.float64)


def _coco(path: Path, images: Sequence[Path], label_map: LabelMap | None) -> tuple[tuple[int, ...], Truth]:
    try:
        whole: Any = json.loads(path.read_bytes())
        listed = {Path(str(one["file_name"])).name: one for one in whole["images"]}
        of_image: dict[Any, list[Any]] = {}
        for one in whole["annotations"]:
            of_image.setdefault(one["image_id"], []).append(one)
        categories = [int(one["id"]) for one in whole["categories"]]
        mapping = label_map or LabelMap(tuple((number, at) for at, number in enumerate(sorted(categories))))
        found = tuple(index for index, image in enumerate(images) if image.name in listed)
        boxes = [_of_annotations(listed[images[index].name], of_image) for index in found]
    except (OSError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: not COCO's annotations ({error}); export them again") from None
    except KeyError as error:
        raise UserError(f"{path}: not COCO's annotations: no {error}; export them again") from None
    if not found:
        example = next(iter(listed), "none")
        raise UserError(f"{path}: lists none of the images ({example}, {images[0].name}); rename them")
    for index, one in zip(found, boxes, strict=True):
        check_boxes(one, f"{path}: boxes of {images[index].name}")
    return found, HeldTruth("boxes", [_mapped(one, mapping) for one in boxes])


def _of_annotations(image: Any, of_image: dict[Any, list[Any]]) -> NDArray[np.float64]:  # noqa: ANN401 - JSON
    width, height = float(image["width"]), float(image["height"])
    rows = []
    for one in of_image.get(image["id"], []):
        left, top, wide, high = (float(value) for value in one["bbox"])
        box = [left / width, top / height, (left + wide) / width, (top + high) / height]
        rows.append([*box, int(one["category_id"]), int(one.get("iscrowd", 0))])
    return np.array(rows, np.float64).reshape(-1, 6)
