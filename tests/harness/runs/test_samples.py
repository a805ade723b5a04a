from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Batch
from harness.runs.samples import SampleReader, feeds, join


class Numbers:
    """A data set whose sample i is the number i, which counts how often it was read."""

    name = "numbers"
    label_source = "numbers"

    def __init__(self, count: int, width: int = 4) -> None:
        self.ids = tuple(str(i) for i in range(count))
        self.labels = np.arange(count, dtype=np.int64)
        self.truth = None
        self.width = width
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: Sequence[int]) -> Batch:
        self.reads += list(indices)
        values = np.repeat(np.array(indices, dtype=np.float32)[:, None], self.width, axis=1)
        return Batch(tuple(self.ids[i] for i in indices), {"x": values}, self.labels[list(indices)])

    def digest(self) -> str:
        return "0" * 64


@given(count=st.integers(1, 200), fixed=st.sampled_from([None, 1, 3, 7, 64]))
def test_cutting_and_joining_gives_every_sample_once_in_order(count: int, fixed: int | None) -> None:
    inputs = {"x": np.arange(count * 2, dtype=np.float32).reshape(count, 2)}
    parts = []
    for part, real in feeds(inputs, fixed):
        if fixed:
            assert len(part["x"]) == fixed
        parts.append(({"y": part["x"] * 10}, real))
    np.testing.assert_array_equal(join(parts)["y"], inputs["x"] * 10)


def test_an_output_without_a_batch_axis_counts_as_one_sample() -> None:
    parts = [({"y": np.float32(3.0)}, 1), ({"y": np.float32(4.0)}, 1)]
    np.testing.assert_array_equal(join(parts)["y"], [3.0, 4.0])  # type: ignore[arg-type]


def test_chunks_cover_the_indices_and_are_read_once() -> None:
    data = Numbers(300)
    reader = SampleReader(data, range(10, 210))
    data.reads.clear()
    seen = [i for chunk in reader.chunks for i in reader.chunk(chunk).inputs["x"][:, 0].tolist()]
    assert seen == list(range(10, 210))
    assert [i for chunk in reader.chunks for i in reader.indices_of(chunk)] == list(range(10, 210))
    for chunk in reader.chunks:
        reader.chunk(chunk)
    assert data.reads == list(range(10, 210))


def test_a_recurrent_network_gets_its_samples_in_one_chunk() -> None:
    reader = SampleReader(Numbers(300), range(300), in_one=True)
    assert len(reader.chunks) == 1
    assert len(reader.chunk(0).ids) == 300


@pytest.mark.parametrize("width", [4, 1 << 20])
def test_a_chunk_is_bounded_in_bytes(width: int) -> None:
    reader = SampleReader(Numbers(100, width), range(100))
    assert reader.chunk_samples * width * 4 <= 32 << 20
