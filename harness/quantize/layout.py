"""Where a tensor's values and channels lie in a flat buffer, also in ONNX Runtime's blocked form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Column(IntEnum):
    """A row of the table that the kernels read, one row per tensor."""

    TENSOR = 0  # which tensor
    START = 1  # first value in the buffer
    OUTER = 2  # the buffer holds [outer, groups, rows, lanes]
    GROUPS = 3
    ROWS = 4
    LANES = 5
    CHANNELS = 6  # channel = group · lanes + lane, below this number; further lanes are filling
    SUMS = 7  # first column of its channel sums; -1: none wanted


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor as [outer, groups, rows, lanes]; the channel of a value is group · lanes + lane.

    Args:
        outer: what lies before the channels, mostly the batch.
        groups: channels, or blocks of them.
        rows: what lies behind them, mostly pixels.
        lanes: channels side by side.
        channels: how many there are; lanes beyond them are filling.
    """

    outer: int
    groups: int
    rows: int
    lanes: int
    channels: int

    @property
    def values(self) -> int:
        """How many values, filling left out."""
        return self.outer * self.channels * self.rows

    @property
    def size(self) -> int:
        """Places in the buffer."""
        return self.outer * self.groups * self.rows * self.lanes


def flat(shape: Sequence[int]) -> Layout:
    """Channels do not matter."""
    return Layout(1, 1, math.prod(shape), 1, 1)


def by_channel(shape: Sequence[int], axis: int) -> Layout:
    """Channels along `axis`; flat where there is no such axis."""
    if not -len(shape) <= axis < len(shape):
        return flat(shape)
    axis %= len(shape)
    channels, rows = shape[axis], math.prod(shape[axis + 1 :])
    if rows == 1:
        return Layout(1, 1, math.prod(shape[:axis]), channels, channels)
    return Layout(math.prod(shape[:axis]), channels, rows, 1, channels)


def blocked(shape: Sequence[int], channels: int, block: int) -> Layout:
    """ONNX Runtime's NCHWc: `shape` is (N, channels filled up to whole blocks, …), stored as (N, blocks, …, block)."""
    return Layout(shape[0], shape[1] // block, math.prod(shape[2:]), block, channels)
