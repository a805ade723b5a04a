"""Inputs of rank 0: one number that belongs to every sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.data import DataSpec, InputSpec, Preprocess, open_data, stream_batches
from harness.data.batch import cut, pad, padded, rows
from harness.errors import UserError
from harness.runs.samples import feeds

INPUTS = (InputSpec("rate", "int64", ()), InputSpec("x", "float32", (None, 3)))
X = np.arange(15, dtype=np.float32).reshape(5, 3)


@pytest.mark.parametrize("rate", [np.array(16000), np.array([16000] * 5), np.array(16000.0)])
def test_an_npz_gives_it_once(tmp_path: Path, rate: NDArray[Any]) -> None:
    np.savez(tmp_path / "d.npz", x=X, rate=rate)
    data = open_data(DataSpec("d.npz"), Preprocess(), INPUTS, tmp_path)
    assert len(data) == 5
    batch = data.read([1, 3])
    np.testing.assert_array_equal(batch.inputs["x"], X[[1, 3]])
    assert batch.inputs["rate"].shape == ()
    assert batch.inputs["rate"].dtype == np.int64
    assert int(batch.inputs["rate"]) == 16000
    assert batch.size == 2
    assert data.digest() != open_changed(tmp_path).digest()


def open_changed(folder: Path) -> Any:  # noqa: ANN401 - a DataSet
    np.savez(folder / "other.npz", x=X, rate=np.array(8000))
    return open_data(DataSpec("other.npz"), Preprocess(), INPUTS, folder)


def test_a_stream_and_a_function_give_it_with_each_piece(tmp_path: Path) -> None:
    def pieces() -> Iterator[dict[str, NDArray[Any]]]:
        for start in (0, 2, 4):
            yield {"x": X[start : start + 2], "rate": np.array(8000)}

    found = list(stream_batches(pieces(), INPUTS))
    assert [batch.real for batch in found] == [2, 2, 1]
    assert all(int(batch.inputs["rate"]) == 8000 for batch in found)
    (tmp_path / "steps.py").write_text(
        "import numpy as np\n"
        "def same():\n    return ({'x': np.ones((2, 3), 'f'), 'rate': np.array(7)} for _ in range(3))\n"
        "def changing():\n    return ({'x': np.ones((2, 3), 'f'), 'rate': np.array(7 + i)} for i in range(3))\n"
    )
    data = open_data(DataSpec("steps:same"), Preprocess(), INPUTS, tmp_path)
    assert len(data) == 6
    assert int(data.read([5]).inputs["rate"]) == 7
    with pytest.raises(UserError, match="the number of 'rate' changes from 7 to 8; give one for all"):
        open_data(DataSpec("steps:changing"), Preprocess(), INPUTS, tmp_path)


def test_numbers_that_differ_from_sample_to_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, rate=np.arange(5))
    with pytest.raises(UserError, match="input 'rate' takes one number for all samples; give an array of rank 0"):
        open_data(DataSpec("d.npz"), Preprocess(), INPUTS, tmp_path)


def test_cutting_and_filling_leave_it_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, rate=np.array(3))
    batch = open_data(DataSpec("d.npz"), Preprocess(), INPUTS, tmp_path).read(range(5))
    assert rows(batch.inputs) == 5
    assert cut(batch.inputs, slice(1, 2))["rate"].shape == ()
    assert pad(batch, 8).size == 8
    np.testing.assert_array_equal(padded(batch.inputs, 7)["x"][5:], X[[4, 4]])
    parts = list(feeds(batch.inputs, 2))
    assert [real for _, real in parts] == [2, 2, 1]
    assert all(part["x"].shape == (2, 3) and int(part["rate"]) == 3 for part, _ in parts)
