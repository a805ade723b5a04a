"""Counting whole passes: many tensors in one buffer, one call of the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.quantize.histogram import Histogram, MsbHistogram, from_slots
from harness.quantize.kernels import count_values
from harness.quantize.layout import Column, Layout, flat
from harness.quantize.observe import SUM_CLASSES, ChannelSums, TensorStats
from harness.quantize.pattern import MIN_EXPONENT, SLOTS

#: Tables of counts per tensor, see `kernels`.
_COPIES = 4
#: Values counted before 32-bit counts could overflow; a single pass has fewer than as many again.
_ROOM = 1 << 30
#: Different shapes remembered at a time.
_MAX_SHAPES = 64
_LOWEST, _HIGHEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in a buffer.

    Args:
        name: of the tensor.
        start: first value.
        layout: what follows.
    """

    name: str
    start: int
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the tensors of a pass lie; passes of the same shapes share one, by which they are recognized."""

    items: tuple[Place, ...]


@dataclass(slots=True)
class _Seen:
    """Passes of the same shapes: the kernels' table of places, the size of the largest, and how many passes."""

    table: NDArray[np.int64]
    most: int
    passes: int = 0


class Observer:
    """Ranges, histograms and channel sums of named tensors; its size does not depend on how much it has seen.

    Args:
        names: the tensors.
        histograms: count distributions too.
        summed: those of which channel sums are wanted; their layouts say where the channels are.
    """

    def __init__(self, names: Sequence[str], *, histograms: bool, summed: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._index = {name: index for index, name in enumerate(names)}
        self._extremes = np.tile(np.array([_HIGHEST, _LOWEST], np.int32), (len(names), 1))
        self._exponents = np.full(len(names), MIN_EXPONENT - 1, np.int64)
        # Zeros that nothing was written to take no memory. Half as wide as the sum of all counts: emptied in time.
        self._tables = np.zeros((len(names) if histograms else 0, _COPIES, SLOTS), np.int32)
        self._emptied: dict[str, tuple[Histogram, MsbHistogram]] = {}
        self._room = _ROOM
        self._histograms = histograms
        self._counts = dict.fromkeys(names, 0)
        self._columns: dict[str, tuple[int, int]] = {}
        self._summed = set(summed)
        self._sums = np.zeros((SUM_CLASSES, 0))
        self._sum_counts = dict.fromkeys(summed, 0)
        self._seen: dict[Places, _Seen] = {}

    def count(self, values: NDArray[np.float32], places: Places) -> Place | None:
        """Count the tensors of one pass.

        Args:
            values: shape (n,), float32: the buffer they lie in.
            places: where.

        Returns:
            the first place that holds NaN or infinity; None when all is well.
        """
        seen = self._seen.get(places)
        if seen is None:
            if len(self._seen) >= _MAX_SHAPES:
                self._settle()
            seen = self._seen[places] = _Seen(
                self._table(places.items), max((place.layout.size for place in places.items), default=0)
            )
        bad = int(count_values(values, seen.table, self._extremes, self._exponents, self._tables, self._sums))
        if bad >= 0:
            return places.items[bad]
        seen.passes += 1
        self._room -= seen.most
        if self._room < 0:
            self._empty_tables()
        return None

    def _empty_tables(self) -> None:
        """Move the counts to where they are wider."""
        for name in self.names if self._histograms else ():
            self._emptied[name] = self._histograms_of(name)
        self._tables[:] = 0
        self._room = _ROOM

    def _histograms_of(self, name: str) -> tuple[Histogram, MsbHistogram]:
        index = self._index[name]
        exponent = int(self._exponents[index])
        table = self._tables[index].sum(axis=0, dtype=np.int64)
        histogram, msb = from_slots(table, exponent if exponent >= MIN_EXPONENT else None)
        before = self._emptied.get(name)
        return (histogram, msb) if before is None else (before[0].merged(histogram), before[1].merged(msb))

    def _settle(self) -> None:
        """Turn passes into numbers of values."""
        for places, seen in self._seen.items():
            for place in places.items:
                self._counts[place.name] += seen.passes * place.layout.values
                if place.name in self._sum_counts:
                    per_channel = place.layout.values // max(place.layout.channels, 1)
                    self._sum_counts[place.name] += seen.passes * per_channel
        self._seen.clear()

    def _table(self, places: Sequence[Place]) -> NDArray[np.int64]:
        table = np.zeros((len(places), len(Column)), np.int64)
        for row, place in zip(table, places, strict=True):
            column = self._column(place)
            layout = place.layout
            plain = layout.size == layout.values
            if column < 0 and plain:
                layout = flat((layout.size,))
            row[Column.TENSOR], row[Column.START] = self._index[place.name], place.start
            row[Column.OUTER : Column.CHANNELS + 1] = (
                layout.outer, layout.groups, layout.rows, layout.lanes, layout.channels,
            )  # fmt: skip
            row[Column.SUMS] = column
        return table

    def _column(self, place: Place) -> int:
        """First column of a tensor's channel sums; -1 when none are wanted, or their number changes."""
        if place.name not in self._summed or not place.layout.values:
            return -1
        start, channels = self._columns.get(place.name, (self._sums.shape[1], place.layout.channels))
        if channels != place.layout.channels:
            self._summed.discard(place.name)
            return -1
        if place.name not in self._columns:
            self._columns[place.name] = (start, channels)
            self._sums = np.concatenate([self._sums, np.zeros((SUM_CLASSES, channels))], axis=1)
        return start

    def stats(self) -> Mapping[str, TensorStats]:
        """Statistics of each tensor."""
        self._settle()
        return {name: self._stats(index) for index, name in enumerate(self.names)}

    def _stats(self, index: int) -> TensorStats:
        empty = TensorStats.empty(histograms=self._histograms)
        count = self._counts[self.names[index]]
        if not count:
            return empty
        keys = self._extremes[index]
        low, high = (keys ^ ((keys >> 31) & _HIGHEST)).view(np.float32).astype(np.float64) + 0.0
        histogram, msb = self._histograms_of(self.names[index]) if self._histograms else (None, None)
        return TensorStats(float(low), float(high), count, histogram, msb)

    def sums(self) -> Mapping[str, ChannelSums]:
        """Channel sums of each tensor of which they were wanted and seen."""
        self._settle()
        return {
            name: ChannelSums(self._sums[:, start : start + channels].copy(), self._sum_counts[name])
            for name, (start, channels) in self._columns.items()
            if name in self._summed
        }
