"""What a network's file says of its inputs, and files that are no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.data import InputSpec, data_inputs, network_inputs
from harness.errors import UserError


def write(path: Path, inputs: list[onnx.ValueInfoProto], initializers: list[onnx.TensorProto] | None = None) -> Path:
    node = helper.make_node("Identity", [inputs[0].name], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [result], initializers or [])
    onnx.save(helper.make_model(graph), str(path))
    return path


def tensor(
    name: str, kind: int = TensorProto.FLOAT, shape: list[int | str | None] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def test_names_dtypes_and_free_dimensions(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    given = [tensor("a", shape=["batch", 3, None, 0]), tensor("w", shape=[1]), tensor("b", TensorProto.INT64, [])]
    found = network_inputs(write(tmp_path / "n.onnx", given, [weight]))
    assert found == (InputSpec("a", "float32", (None, 3, None, None)), InputSpec("b", "int64", ()))
    assert [spec.fixed_batch for spec in found] == [None, 1]
    assert found[0].describe() == "float32[N,3,?,?]"
    assert found[0].numpy_dtype == np.float32


def test_weights_in_another_file_are_not_needed(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "gone.bin"
    path = write(tmp_path / "n.onnx", [tensor("a", shape=[1, 2])], [weight])
    assert network_inputs(path) == (InputSpec("a", "float32", (1, 2)),)


def test_recurrent_inputs_are_not_the_datas() -> None:
    specs = (InputSpec("x", "float32", (1, 2)), InputSpec("s", "float32", (1, 4)))
    assert data_inputs(specs, {"s": "s_out"}) == specs[:1]
    with pytest.raises(UserError, match="state: 't' is not an input of the network; its inputs: x, s"):
        data_inputs(specs, {"t": "s_out"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tensor("a"), "input 'a' has no shape"),
        (tensor("a", TensorProto.STRING, [1]), "input 'a' is of type object; only numbers"),
        (helper.make_tensor_sequence_value_info("a", TensorProto.FLOAT, [1]), "input 'a' is not a tensor"),
    ],
)
def test_inputs_that_cannot_be_fed(tmp_path: Path, given: onnx.ValueInfoProto, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        network_inputs(write(tmp_path / "n.onnx", [given]))


def test_files_that_are_no_network(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.onnx", [tensor("a", shape=[1, 2])]).read_bytes()
    path = tmp_path / "n.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(
            UserError, match=r"not a readable ONNX file|holds no network|has no shape|is not a tensor"
        ) as caught:
            network_inputs(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match="not a readable ONNX file"):
        network_inputs(path)
    with pytest.raises(UserError, match="no such file"):
        network_inputs(tmp_path)
