"""A few samples of a stream, evenly spread, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = Mapping[str, NDArray[Any]]
#: (number of its first sample in the stream, its inputs).
Entry = tuple[int, Sample]

#: Samples remembered so that scale methods and corrections can be scored and fitted without the data.
MOST_SAMPLES = 64
#: What they may take together, as long as half of them are at least `LEAST_SAMPLES`.
MOST_BYTES = 64 << 20
LEAST_SAMPLES = 8


class Reservoir:
    """Keeps every stride-th entry of a stream; when it is full, every second one goes and the stride doubles.

    So what is kept depends on the stream alone, keeps its order, and from 64 samples on takes no more memory. The
    first samples alone would be one moment of a sequence.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._offered = 0
        self._weights: list[int] = []
        self._pools: dict[str, _Pool] = {}
        self.entries: list[Entry] = []

    def pass_by(self, before: int, inputs: Sample, count: int, free: Mapping[str, bool]) -> None:
        """Keep what is due of one pass; only that is copied.

        Args:
            before: how many samples came before.
            inputs: of the pass.
            count: samples in it.
            free: input → whether its first axis is a free batch axis. Networks with a fixed batch take a pass whole.
        """
        cut = {name: free[name] and bool(value.ndim) and value.shape[0] == count for name, value in inputs.items()}
        entries = count if any(cut.values()) else 1
        for index in range(entries):
            if self._offered % self._stride == 0:
                sample = {name: value[index : index + 1] if cut[name] else value for name, value in inputs.items()}
                self._make_room(sample, count // entries)
            if self._offered % self._stride == 0:
                self.entries.append((before + index, {name: self._copy(name, part) for name, part in sample.items()}))
                self._weights.append(count // entries)
            self._offered += 1

    def _copy(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(value)
        return pool.copy(value)

    def _make_room(self, sample: Sample, weight: int) -> None:
        """Drop every second entry while another one would be too much."""
        while _is_over([*self.entries, (0, sample)], sum(self._weights) + weight):
            for _, dropped in self.entries[1::2]:
                for name, value in dropped.items():
                    self._pools[name].take_back(value)
            self.entries, self._weights = self.entries[::2], self._weights[::2]
            self._stride *= 2
            if self._offered % self._stride:
                break  # the other one is not due any more: one pass of a large fixed batch is as little as can be kept


class _Pool:
    """Places for copies of arrays of one shape, used again: new memory costs more than the copying."""

    def __init__(self, first: NDArray[Any]) -> None:
        fitting = MOST_BYTES // max(first.nbytes, 1)
        # Not resident before it is written to.
        self._places = np.empty((min(max(fitting, 2 * LEAST_SAMPLES), MOST_SAMPLES), *first.shape), first.dtype)
        self._free = list(range(len(self._places) - 1, -1, -1))
        self._used: dict[int, int] = {}

    def copy(self, value: NDArray[Any]) -> NDArray[Any]:
        if not self._free or value.shape != self._places.shape[1:] or value.dtype != self._places.dtype:
            return np.array(value)
        number = self._free.pop()
        place: NDArray[Any] = self._places[number, ...]  # an array even of rank 0
        np.copyto(place, value)
        self._used[id(place)] = number
        return place

    def take_back(self, value: NDArray[Any]) -> None:
        number = self._used.pop(id(value), None)
        if number is not None:
            self._free.append(number)


def _is_over(entries: list[Entry], samples: int) -> bool:
    """Whether every second entry has to go."""
    if len(entries) < 2:
        return False
    left = math.ceil(len(entries) / 2) * samples // len(entries)
    if samples > MOST_SAMPLES:
        return True
    return (
        left >= LEAST_SAMPLES and sum(value.nbytes for _, sample in entries for value in sample.values()) > MOST_BYTES
    )


def thinned(entries: list[Entry]) -> list[Entry]:
    """Entries of several reservoirs in the bounds of one, evenly spread still."""
    while _is_over(entries, len(entries)):
        entries = entries[::2]
    return entries
