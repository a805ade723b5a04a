"""Small networks' inputs and folders of images for the tests of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import InputSpec

REAL = Path(__file__).parents[3].parent / "shared/data"

Folder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> Folder:
    """Makes a folder of PNGs with random pixels and a labels.csv; each image's pixels depend on its index only."""

    def make(
        labels: list[object], *, size: tuple[int, int] = (6, 5), sub: str = "", header: str = "filename,label_index"
    ) -> Path:
        folder = tmp_path / "images-of-mine"
        (folder / sub).mkdir(parents=True)
        rows = [header]
        for index, label in enumerate(labels):
            Image.fromarray(pixels(index, size)).save(folder / sub / f"{index}.png")
            rows.append(f"{index}.png,{label}")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")
        return folder

    return make


def pixels(index: int, size: tuple[int, int] = (6, 5)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pixels of one image, uint8 [height, width, 3]."""
    return np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def nchw() -> tuple[InputSpec, ...]:
    """One float image input of 6x5."""
    return (InputSpec("x", "float32", (None, 3, 6, 5)),)


@pytest.fixture(scope="session")
def real() -> Path:
    """The shared data folder."""
    if not (REAL / "models").is_dir():
        pytest.skip(f"no shared data at {REAL}")
    return REAL
