"""ONNX Runtime computes what a network says: its optimizers that do not are off, here and on a board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from harness.quantize import calibrate, quantize
from harness.quantize.graph import read_model
from harness.quantize.runtime import PAD_FOLDER, open_session, optimizers_that_break
from harness.runs.networks import network_file

VALUES = -np.arange(1, 33, dtype=np.float32).reshape(1, 2, 4, 4)


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """Zeros around values below zero, and the largest of each window."""
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["same"], "same", group=2),
        helper.make_node("Pad", ["same", "pads"], ["padded"], "padded"),
        helper.make_node("MaxPool", ["padded"], ["largest"], "largest", kernel_shape=[3, 3]),
        helper.make_node("Conv", ["largest", "one"], ["y"], "last", group=2),
    ]
    constants = [
        helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 1]),
        helper.make_tensor("one", TensorProto.FLOAT, [2, 1, 1, 1], [1.0, 1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        constants,
    )
    path = tmp_path / "padded.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def largest() -> NDArray[Any]:
    around = np.pad(VALUES, [(0, 0), (0, 0), (1, 1), (1, 1)])
    found: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(2, 3)).max(axis=(-2, -1))
    return found


def test_zeros_in_front_of_a_max_pool_count(padded: Path) -> None:
    session = open_session(read_model(padded), "network")
    assert np.array_equal(session.run(None, {"x": VALUES})[0], largest())


@pytest.mark.parametrize("environment", ["cpu", "gpu", "fpga", "host"])
def test_so_they_do_in_int8(padded: Path, environment: str, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    made = quantize(
        padded, calibrate(padded, [{"x": VALUES}], environment=environment), environment=environment, out=out
    )
    session = open_session(read_model(out), "network", disabled_optimizers=made.disabled_optimizers)
    assert np.abs(session.run(None, {"x": VALUES})[0] - largest()).max() < 1.0


def test_a_board_is_told(padded: Path, tmp_path: Path) -> None:
    assert PAD_FOLDER in network_file(padded, tmp_path).disabled_optimizers
    plain = read_model(padded)
    plain.graph.node[2].op_type = "AveragePool"
    assert optimizers_that_break(plain) == ()
