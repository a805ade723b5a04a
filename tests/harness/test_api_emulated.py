"""`harness.Quantizer.validate` without a board: the int8 figures are the environment's arithmetic, to the last tie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.quantize import Quantizer as WithoutBoards
from harness.quantize import learnable_memory_bytes

#: Every int8 but -128: at step 1 each is its own integer.
INTEGERS = np.arange(-127, 128, dtype=np.float32)
X = INTEGERS.reshape(-1, 1, 1, 1)
Grabbed = dict[str, NDArray[np.float32]]


def half_and_whole(path: Path, *, softmax: bool = False) -> Path:
    """One convolution that returns x/2 and x: on one step for both, every odd x ties in the first."""
    weight = numpy_helper.from_array(np.array([0.5, 1], np.float32).reshape(2, 1, 1, 1), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["y"], ["p"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 1, 1])],
        [helper.make_tensor_value_info("p" if softmax else "y", TensorProto.FLOAT, ["N", 2, 1, 1])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def int8_outputs(quantizer: WithoutBoards) -> NDArray[np.float32]:
    """What the int8 network returned while it was validated, shape (N, 2)."""
    seen: list[NDArray[np.float32]] = []

    def grab(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        seen.append(outputs)
        return 0.0

    quantizer.validate([(X, np.zeros(len(X), np.int64))], metrics=[grab])
    return seen[1].reshape(-1, 2)


def quantized(kind: type[WithoutBoards], path: Path, environment: str) -> WithoutBoards:
    quantizer = kind(path, environment)
    quantizer.calibrate([{"x": X}], method="minmax")
    quantizer.quantize(path.with_suffix(f".{environment}.onnx"), method="minmax", recover=())
    return quantizer


@pytest.mark.parametrize(
    ("environment", "expected", "claim"),
    [
        ("fpga", np.floor(INTEGERS / 2 + 0.5), "not to silicon"),
        ("host", np.sign(INTEGERS) * np.floor(np.abs(INTEGERS) / 2 + 0.5), "target-independent"),
        ("gpu", INTEGERS / 2, "TensorRT"),  # its convolution at the end returns float
    ],
)
def test_ties_go_where_the_board_takes_them(
    environment: str, expected: NDArray[np.float32], claim: str, tmp_path: Path
) -> None:
    path = half_and_whole(tmp_path / "net.onnx")
    quantizer = quantized(harness.Quantizer, path, environment)
    found = int8_outputs(quantizer)
    if environment == "gpu":  # its steps are no powers of two
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    else:
        np.testing.assert_array_equal(found[:, 0], expected)
        np.testing.assert_array_equal(found[:, 1], INTEGERS)
    assert claim in quantizer.validate([{"x": X}]).note


@pytest.mark.parametrize("environment", ["fpga", "host"])
def test_the_class_without_boards_runs_the_file_as_it_is(environment: str, tmp_path: Path) -> None:
    path = half_and_whole(tmp_path / "net.onnx")
    quantizer = quantized(WithoutBoards, path, environment)
    np.testing.assert_array_equal(int8_outputs(quantizer)[:, 0], np.rint(INTEGERS / 2))
    assert quantizer.validate([{"x": X}]).note == ""


def test_cpu_is_what_runs_here(tmp_path: Path) -> None:
    path = half_and_whole(tmp_path / "net.onnx")
    assert quantized(harness.Quantizer, path, "cpu").validate([{"x": X}]).note == ""


@pytest.mark.parametrize("environment", ["fpga", "host", "gpu"])
def test_scores_are_compared_before_a_softmax_and_memory_is_that_of_the_file(environment: str, tmp_path: Path) -> None:
    path = half_and_whole(tmp_path / "net.onnx", softmax=True)
    quantizer = quantized(harness.Quantizer, path, environment)
    assert quantizer.quantized is not None
    result = quantizer.validate([{"x": X}])
    if environment == "gpu":
        assert result.sqnr_db > 100
    else:  # half a step on every second x/2: the same size, whichever way it goes
        noise = 0.25 * np.count_nonzero(INTEGERS % 2)
        signal = np.sum(np.square(INTEGERS / 2, dtype=np.float64)) + np.sum(np.square(INTEGERS, dtype=np.float64))
        assert result.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    memory = result.Statistics["LearnableParameterMemory(bytes)"].tolist()
    assert memory == [8, learnable_memory_bytes(quantizer.quantized.path)] == [8, 2]


def test_nothing_int8_is_validated_as_it_is(tmp_path: Path) -> None:
    path = half_and_whole(tmp_path / "net.onnx")
    quantizer = harness.Quantizer(path, "fpga")
    quantizer.calibrate([{"x": X}])
    quantizer.quantize(tmp_path / "float.onnx", exclude=["conv"])
    result = quantizer.validate([{"x": X}])
    assert (result.note, result.sqnr_db) == ("", float("inf"))
