"""Preprocessing: from an image as stored to the tensor a network takes.

The order is fixed: resize → crop → channels → scale → (x - mean) / std → layout → dtype of the network's input.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.yamlfile import FileModel

Channels = Literal["rgb", "bgr", "gray"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What is done to every image. The default does nothing but fit the pixels to the network's input.

    Args:
        channels: order of the colours; None: rgb for three channels, gray for one.
        resize: an int scales the shorter side to it and keeps the aspect; (height, width) scales to exactly that.
            Bilinear with antialiasing (Pillow's), on the 8-bit pixels.
        crop: (height, width) cut from the centre.
        scale: pixels are multiplied by it first.
        mean: subtracted, per channel in the order of `channels`, or one for all.
        std: divided by, likewise.
        layout: None: read off the network's input where only one fits.
        dtype: numpy name; None: the network's. Given only to state an expectation: another one than the network's is
            an error.
    """

    channels: Channels | None = None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout | None = None
    dtype: str | None = None

    @property
    def elementwise(self) -> bool:
        """Whether it treats every value alike, so that it fits arrays that are no images."""
        geometric = self.channels or self.resize or self.crop or self.layout
        return not geometric and len(self.mean) == 1 and len(self.std) == 1

    @property
    def identity(self) -> bool:
        """Whether it leaves values as they are."""
        return self.elementwise and (self.scale, self.mean, self.std) == (1.0, (0.0,), (1.0,))

    def as_json(self) -> dict[str, Any]:
        """The `preprocess:` section that means the same; fields at their default are left out."""
        plain: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value != getattr(_DEFAULT, name):
                plain[name] = list(value) if isinstance(value, tuple) else value
        return plain


_DEFAULT = Preprocess()


class PreprocessFile(FileModel):
    """The `preprocess:` section of job.yaml."""

    channels: Channels | None = None
    resize: int | list[int] | None = None
    crop: int | list[int] | None = None
    scale: float = 1.0
    mean: list[float] = Field(default=[0.0])
    std: list[float] = Field(default=[1.0])
    layout: Layout | None = None
    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "int16", "int32"] | None = None

    @field_validator("resize", "crop", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        if value is None or _is_size(value):
            return value
        if isinstance(value, list) and len(value) == 2 and all(_is_size(side) for side in value):
            return value
        raise ValueError("should be one size in pixels, or [height, width]")

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, value: object) -> float:
        number = parse_number(value)
        if number == 0:
            raise ValueError("0 would erase the image; give a factor such as 1/255")
        return number

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _per_channel(cls, value: object) -> list[float]:
        numbers = [parse_number(item) for item in (value if isinstance(value, list) else [value])]
        if len(numbers) not in {1, 3}:
            raise ValueError(f"should be one number or three (one per channel), not {len(numbers)}")
        return numbers

    @field_validator("std")
    @classmethod
    def _not_zero(cls, value: list[float]) -> list[float]:
        if 0 in value:
            raise ValueError("0 cannot be divided by; give 1 for none")
        return value

    def value(self) -> Preprocess:
        """The section as the value that is handed on."""
        return Preprocess(
            channels=self.channels,
            resize=_pair(self.resize) if isinstance(self.resize, list) else self.resize,
            crop=None if self.crop is None else _pair(self.crop),
            scale=self.scale,
            mean=tuple(self.mean),
            std=tuple(self.std),
            layout=self.layout,
            dtype=self.dtype,
        )


def parse_number(value: object) -> float:
    """A number, or a fraction written as text such as "1/255".

    Raises:
        ValueError: neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    number = r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
    match = re.fullmatch(f"{number}/{number}", value) if isinstance(value, str) else None
    try:
        if match is not None:
            return float(match[1]) / float(match[2])
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(f"{value!r} is neither a number nor a fraction such as 1/255")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65_535


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
