from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.record.figure import Network, Source
from harness.record.target import TargetRecord
from harness.runs.outputs import OutputStore
from harness.store import open_store


@pytest.fixture
def outputs(tmp_path: Path) -> OutputStore:
    store = open_store(str(tmp_path / "q.db"))
    store.create_run("run", job_name="x", started="2026", out=tmp_path, model_digest="0" * 64, request={})
    store.save_target("run", TargetRecord("a", "generic", "cpu", "local", Source.MEASURED, "pending"))
    return OutputStore(store, "run", "a", tmp_path)


def test_outputs_come_back_bit_for_bit_whatever_their_names(outputs: OutputStore) -> None:
    rng = np.random.default_rng(0)
    values: dict[str, NDArray[Any]] = {
        "file": rng.standard_normal((3, 4)).astype(np.float32),
        "a/b:0": np.array([[np.nan], [np.inf], [-0.0]], dtype=np.float64),
        "": rng.integers(-128, 127, (3, 2, 2), dtype=np.int8),
    }
    outputs.add(Network.FLOAT, 0, values)
    (back,) = outputs.read(Network.FLOAT, [0])
    assert list(back) == list(values)
    for name, array in values.items():
        assert back[name].dtype == array.dtype
        assert back[name].tobytes() == array.tobytes()


def test_an_altered_or_missing_chunk_is_not_done(outputs: OutputStore, tmp_path: Path) -> None:
    for chunk in range(3):
        outputs.add(Network.FLOAT, chunk, {"y": np.full((2, 2), chunk, dtype=np.float32)})
    files = sorted(path for path in (tmp_path / "outputs").rglob("*.npz"))
    assert len(files) == 3
    content = bytearray(files[1].read_bytes())
    content[-30] ^= 1
    files[1].write_bytes(content)
    files[2].unlink()
    assert outputs.done(Network.FLOAT) == {0}
    with pytest.raises(UserError, match="quantrig resume run"):
        list(outputs.read(Network.FLOAT, [0, 1]))


def test_nothing_half_written_is_ever_noted(outputs: OutputStore, tmp_path: Path) -> None:
    blocked = tmp_path / "outputs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        outputs.add(Network.FLOAT, 0, {"y": np.zeros(1)})
    assert outputs.done(Network.FLOAT) == set()


def test_the_digest_is_of_the_values_and_not_of_how_they_were_cut(outputs: OutputStore) -> None:
    rng = np.random.default_rng(0)
    y, z = rng.standard_normal((6, 4)).astype(np.float32), rng.integers(0, 9, (6, 2))
    outputs.add(Network.FLOAT, 0, {"y": y[:4], "z": z[:4]})
    outputs.add(Network.FLOAT, 1, {"y": y[4:], "z": z[4:]})
    outputs.add(Network.QUANTIZED, 0, {"z": z, "y": y})
    whole = outputs.digest(Network.QUANTIZED, [0])
    assert outputs.digest(Network.FLOAT, [0, 1]) == whole
    assert outputs.digest(Network.FLOAT, [1, 0]) != whole  # another order of the samples
    other = y.copy()
    other.view(np.uint32)[3, 1] ^= 1  # one bit
    changes: list[dict[str, NDArray[Any]]] = [
        {"y": other, "z": z},
        {"y": y.reshape(6, 2, 2), "z": z},
        {"y": y, "z": z.view(np.uint64)},
    ]
    for changed in changes:
        outputs.add(Network.QUANTIZED, 0, changed)
        assert outputs.digest(Network.QUANTIZED, [0]) != whole
