"""Every preprocessing step against the arithmetic written out by hand, and against Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.data import InputSpec, Preprocess, PreprocessFile
from harness.data.images import ImagePipeline
from harness.data.preprocess import parse_number
from harness.errors import UserError


def run(
    image: np.ndarray[Any, Any],
    shape: tuple[int | None, ...],
    takes: str = "float32",
    **steps: Any,  # noqa: ANN401 - any field
) -> np.ndarray[Any, Any]:
    pipeline = ImagePipeline(PreprocessFile(**steps).value(), InputSpec("x", takes, shape))
    result: np.ndarray[Any, Any] = pipeline.finish([pipeline.from_array(image, "i")], ["i"])[0]
    return result


IMAGE = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)


def test_the_default_is_the_pixels_themselves() -> None:
    np.testing.assert_array_equal(run(IMAGE, (None, 6, 5, 3)), IMAGE)


def test_caffe() -> None:
    got = run(IMAGE, (1, 3, 6, 5), channels="bgr", mean=[104, 117, 123], std=[1, 1, 1], layout="NCHW")
    for row, channel, mean in ((0, 2, 104), (1, 1, 117), (2, 0, 123)):
        np.testing.assert_array_equal(got[row], IMAGE[:, :, channel].astype(np.float32) - mean)


def test_tensorflow() -> None:
    got = run(IMAGE, (1, 6, 5, 3), scale="1/127.5", mean=1)
    np.testing.assert_allclose(got, IMAGE / 127.5 - 1, atol=1e-6)


def test_pytorch() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    got = run(IMAGE, (1, 3, 6, 5), scale="1/255", mean=mean, std=std)
    np.testing.assert_allclose(got, ((IMAGE / 255 - mean) / std).transpose(2, 0, 1), atol=1e-5)


def test_gray_is_pillows_luma() -> None:
    got = run(IMAGE, (1, 1, 6, 5), channels="gray")
    np.testing.assert_array_equal(got[0], np.asarray(Image.fromarray(IMAGE).convert("L")))


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 4), (20, 10)), ((4, 8), (10, 20)), ((5, 7), (10, 14)), ((3, 7), (10, 23))]
)
def test_resize_of_the_short_side_keeps_the_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert run(image, (None, 3, None, None), layout="NCHW", resize=10).shape == (3, *expected)


def test_resize_then_crop_is_what_pillow_does() -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)
    got = run(image, (1, 20, 20, 3), resize=[30, 50], crop=20)
    resized = Image.fromarray(image).resize((50, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(resized)[5:25, 15:35])


def test_integer_inputs_take_whole_pixels_only() -> None:
    assert run(IMAGE, (1, 6, 5, 3), "uint8").dtype == np.uint8
    np.testing.assert_array_equal(run(IMAGE, (1, 6, 5, 3), "int8", mean=128), IMAGE.astype(int) - 128)
    with pytest.raises(UserError, match="values that int8 cannot"):
        run(IMAGE, (1, 6, 5, 3), "int8")
    with pytest.raises(UserError, match="values that uint8 cannot"):
        run(IMAGE, (1, 6, 5, 3), "uint8", scale="1/255")


@given(st.integers(2, 40), st.integers(2, 40), st.data())
def test_the_crop_is_centred_within_half_a_pixel(height: int, width: int, data: st.DataObject) -> None:
    crop = [data.draw(st.integers(1, height)), data.draw(st.integers(1, width))]
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    got = run(np.dstack([rows, columns, rows]), (1, *crop, 3), crop=crop, layout="NHWC")
    assert abs(got[:, 0, 0].mean() - (height - 1) / 2) <= 0.5
    assert abs(got[0, :, 1].mean() - (width - 1) / 2) <= 0.5
    assert (np.diff(got[:, 0, 0]) == 1).all()


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        ((1, 3, 224, 224), {}, r"6x5 pixels.*takes 224x224; set `preprocess: {resize: \[224, 224\]}`"),
        ((1, 3, 6, 5), {"layout": "NHWC"}, r"\[1,3,6,5\]: that is NCHW; set .*not NHWC"),
        ((None, None, None, None), {}, "NCHW and NHWC both fit"),
        ((1, 3, 6, 3), {}, "NCHW and NHWC both fit"),
        ((1, 4, 6, 5), {}, "no axis of 1 or 3 channels"),
        ((1, 640), {}, r"float32\[1,640\], which is no image"),
        ((1, 3, 6, 5), {"channels": "gray"}, "gray, but input 'x' has 3"),
        ((1, 1, 6, 5), {"channels": "bgr"}, "bgr, but input 'x' has 1"),
        ((1, 1, 6, 5), {"mean": [1, 2, 3]}, r"preprocess.mean: 3 numbers for 1 channel"),
        ((1, 3, 6, 5), {"dtype": "uint8"}, r"preprocess.dtype: uint8, but input 'x' is float32"),
        ((1, 3, 9, 9), {"crop": 9}, r"6x5 pixels are too few to crop 9x9 from; set .*resize: 9"),
    ],
)
def test_each_contradiction_is_named(shape: tuple[int | None, ...], steps: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        run(IMAGE, shape, **steps)


def test_numbers_may_be_fractions() -> None:
    assert parse_number("1/255") == 1 / 255
    assert parse_number(" 2.5e-1 / 5 ") == 0.05
    for wrong in ("1/0", "a", "1", True, None, float("inf"), "1/2/3", "."):
        with pytest.raises(ValueError, match="neither a number nor a fraction"):
            parse_number(wrong)


def test_as_json_says_only_what_differs() -> None:
    steps = PreprocessFile(scale="1/4", crop=[3, 4], mean=2.0).value()  # type: ignore[arg-type]
    assert steps.as_json() == {"crop": [3, 4], "scale": 0.25, "mean": [2.0]}
    assert PreprocessFile(**steps.as_json()).value() == steps
    assert Preprocess().as_json() == {}


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_any_8_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(IMAGE).convert(mode)
    path = tmp_path / ("i.tif" if mode == "CMYK" else "i.png")
    source.save(path)
    pipeline = ImagePipeline(Preprocess(), InputSpec("x", "uint8", (1, 6, 5, 3)))
    np.testing.assert_array_equal(pipeline.decode(path, "i"), np.asarray(source.convert("RGB")))


def test_16_bit_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 5), 4096, np.uint16)).save(tmp_path / "i.png")
    pipeline = ImagePipeline(Preprocess(), InputSpec("x", "uint8", (1, 6, 5, 3)))
    with pytest.raises(UserError, match=r"i: pixels of mode I;16; save it with 8 bits"):
        pipeline.decode(tmp_path / "i.png", "i")
