"""The validation samples in chunks, shared by all targets: each image is decoded once where memory allows."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data import Batch, DataSet
from harness.data.batch import cut, padded, rows
from harness.errors import UserError

Array = NDArray[np.generic]

#: Decoded samples kept in memory, bytes. Targets that run at about the same pace find each other's chunks here.
_CACHE_BYTES = 512 << 20
#: Inputs of one chunk, bytes, and its largest number of samples: what a killed run loses at most.
_CHUNK_BYTES = 32 << 20
_CHUNK_SAMPLES = 64
#: Samples an untimed batch holds at most when the network's batch is free.
_BATCH_SAMPLES = 16


class SampleReader:
    """Reads the chosen samples of a data set in fixed chunks (thread-safe).

    Args:
        data: the data set.
        indices: the samples, in the order they are run.
        in_one: one chunk for all, for a recurrent network whose state must not be cut.
    """

    def __init__(self, data: DataSet, indices: Sequence[int], *, in_one: bool = False) -> None:
        self.data = data
        self.indices = tuple(indices)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Batch] = OrderedDict()
        self._held_bytes = 0
        first = data.read(self.indices[:1])
        self.sample_bytes = sum(array.nbytes for array in first.inputs.values())
        bounded = max(1, min(_CHUNK_SAMPLES, _CHUNK_BYTES // max(1, self.sample_bytes)))
        self.chunk_samples = len(self.indices) if in_one else bounded

    @property
    def chunks(self) -> range:
        """The chunk numbers."""
        return range(-(-len(self.indices) // self.chunk_samples))

    def indices_of(self, number: int) -> tuple[int, ...]:
        """Which samples of the data set a chunk holds."""
        start = number * self.chunk_samples
        return self.indices[start : start + self.chunk_samples]

    def chunk(self, number: int) -> Batch:
        """The samples of one chunk as one batch; the next one is decoded meanwhile."""
        batch = self._read(number)
        if number + 1 in self.chunks:
            threading.Thread(target=self._prefetch, args=(number + 1,), name="decode", daemon=True).start()
        return batch

    def _prefetch(self, number: int) -> None:
        with contextlib.suppress(UserError):  # whoever wants the chunk meets the same error
            self._read(number)

    def _read(self, number: int) -> Batch:
        with self._lock:  # one reader at a time: decoding twice would cost more than waiting
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            batch = self.data.read(self.indices_of(number))
            self._cache[number] = batch
            self._held_bytes += _nbytes(batch)
            while self._held_bytes > _CACHE_BYTES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._held_bytes -= _nbytes(dropped)
            return batch


def _nbytes(batch: Batch) -> int:
    return sum(array.nbytes for array in batch.inputs.values())


def feeds(inputs: Mapping[str, Array], fixed_batch: int | None) -> Iterator[tuple[dict[str, Array], int]]:
    """Cut one chunk into what the network takes at a time.

    Args:
        inputs: name → array whose first axis counts samples; arrays of rank 0 go with every batch.
        fixed_batch: the batch the network insists on, None when it is free.

    Yields:
        (inputs of one batch, how many of its samples are real): the last batch of a fixed size repeats its last
        sample to fill up.
    """
    count = rows(inputs)
    size = fixed_batch or min(_BATCH_SAMPLES, count)
    for start in range(0, count, size):
        real = min(size, count - start)
        part = cut(inputs, slice(start, start + real))
        if fixed_batch and real < fixed_batch:
            part = padded(part, fixed_batch)
        yield part, real


def join(parts: Sequence[tuple[Mapping[str, Array], int]]) -> dict[str, Array]:
    """Put the outputs of the batches of one chunk together again, samples on the first axis, padding dropped.

    An output that has no batch axis (its first dimension is not the batch) counts as one sample a batch.
    """
    joined: dict[str, Array] = {}
    for name in parts[0][0]:
        pieces = []
        for outputs, real in parts:
            array = outputs[name]
            has_batch_axis = array.ndim > 0 and array.shape[0] >= real
            pieces.append(array[:real] if has_batch_axis else array[None])
        joined[name] = np.concatenate(pieces)
    return joined
