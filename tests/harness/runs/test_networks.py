"""How the networks of a run travel: as one file each, whatever they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.data import network_files
from harness.errors import UserError
from harness.runs.networks import digest_of, network_file


@pytest.fixture(name="external")
def _external(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    return path


def test_a_network_with_data_files_is_packed(external: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    file = network_file(external, tmp_path / "artifacts")
    assert file.path.parent == tmp_path / "artifacts"
    assert file.digest == hashlib.sha256(file.path.read_bytes()).hexdigest() != digest_of(external)
    assert (file.size_bytes, file.learnable_bytes) == (file.path.stat().st_size, 4 * 64 * 64)
    (tmp_path / "net.bin").unlink()
    onnx.checker.check_model(onnx.load(file.path, load_external_data=False), full_check=True)
    assert network_file(file.path, tmp_path / "artifacts").path == file.path


def test_a_network_above_the_limit_stays_here(external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", 1)
    monkeypatch.setattr(network_files, "SMALL_TENSOR_BYTES", 1)
    monkeypatch.setattr(network_files, "MAX_SINGLE_FILE_BYTES", 8192)
    with pytest.raises(UserError, match=r"net\.onnx: .* cannot travel to an agent") as caught:
        network_file(external, tmp_path)
    assert "\n" not in str(caught.value)
