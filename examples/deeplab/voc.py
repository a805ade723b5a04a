"""COCO images with masks as DeepLab takes them, its output as class numbers, and mIoU over PASCAL VOC's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.judge.segmentation import Confusion

FOLDER = Path(__file__).parents[3] / "shared/data/coco128"
SIZE = 257
CLASSES = 21
IGNORED = 255
#: COCO category → VOC class (README of the data); every other category is background, class 0.
COCO_CATEGORIES = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
VOC_CLASSES = (15, 2, 7, 14, 1, 6, 19, 4, 3, 8, 12, 13, 17, 10, 5, 9, 18, 16, 11, 20)


def load() -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """The images that have a mask, stretched to 257 x 257: ({"sub_7": uint8 [N, 257, 257, 3] RGB}, numbers [N])."""
    numbers = sorted(int(path.stem) for path in (FOLDER / "semantic_masks").glob("*.png"))
    paths = [FOLDER / "images" / f"{number:012d}.jpg" for number in numbers]
    images = [Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths]
    return {"sub_7": np.stack([np.asarray(image) for image in images])}, np.array(numbers)


def classes(outputs: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Scores [N, 257, 257, 21] → the best class of each pixel, uint8 [N, 257, 257]."""
    (scores,) = outputs.values()
    best: NDArray[np.uint8] = scores.argmax(axis=-1).astype(np.uint8)
    return best


def mean_iou(outputs: dict[str, NDArray[Any]], image_numbers: NDArray[np.int64]) -> float:
    """Mean intersection over union of the classes that the masks show, each prediction scaled to its mask."""
    (maps,) = outputs.values()
    return confusion(maps, image_numbers).mean_iou


def confusion(maps: NDArray[np.uint8], image_numbers: NDArray[np.int64]) -> Confusion:
    """Pixels of all images, unlabelled ones left out."""
    counts = Confusion(CLASSES)
    for predicted, number in zip(maps, image_numbers, strict=True):
        truth = mask(int(number))
        scaled = Image.fromarray(predicted).resize(truth.shape[::-1], Image.Resampling.NEAREST)
        counts.add(truth, np.asarray(scaled))
    return counts


def mask(image_number: int) -> NDArray[np.uint8]:
    """VOC class of each pixel of an image, `IGNORED` where COCO labelled nothing."""
    category = np.asarray(Image.open(FOLDER / "semantic_masks" / f"{image_number:012d}.png"))
    table = np.zeros(256, np.uint8)
    table[list(COCO_CATEGORIES)] = VOC_CLASSES
    table[0] = IGNORED
    voc: NDArray[np.uint8] = table[category]
    return voc
