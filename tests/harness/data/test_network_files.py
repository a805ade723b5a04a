"""Networks read without their weights: against protobuf's own reader, whole, cut off and damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.data import network_files, network_inputs
from harness.data.network_files import data_files, load_structure, network_digest, read_light, region_of, tensor_bytes
from harness.data.wire import around, fields, header, split_model, varint
from harness.errors import UserError


def network() -> ModelProto:
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=(8, 4)).astype(np.float32), "w"),
        helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.0, 2.0]),
        numpy_helper.from_array(np.arange(3), "small"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 8), ("y", 4))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], tensors)
    graph.initializer[0].doc_string = "behind the data"
    model = helper.make_model(graph, producer_name="p", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="k", value="v")
    return model


def test_only_large_raw_data_are_left_out_and_found_again() -> None:
    model = network()
    content = model.SerializeToString()
    light, left_out = split_model(memoryview(content), 64)
    assert list(left_out) == [0]
    offset, length = left_out[0]
    assert not light.graph.initializer[0].raw_data
    light.graph.initializer[0].raw_data = content[offset : offset + length]
    assert light == model
    whole, nothing = split_model(memoryview(content), 1 << 20)
    assert (whole, nothing) == (model, {})


def test_cut_off_or_damaged_files_raise_what_protobuf_raises() -> None:
    content = network().SerializeToString()
    for end in range(1, len(content)):
        try:
            expected = ModelProto.FromString(content[:end])
        except DecodeError:
            with pytest.raises(DecodeError):
                split_model(memoryview(content[:end]), 64)
        else:
            light, left_out = split_model(memoryview(content[:end]), 1 << 20)
            assert (light, left_out) == (expected, {})
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        with contextlib.suppress(DecodeError):  # anything else would be a traceback
            split_model(memoryview(bytes(damaged)), 64)


@given(st.integers(0, 2**64 - 1))
def test_numbers_survive_the_encoding(value: int) -> None:
    encoded = varint(1 << 3) + varint(value)
    (field,) = fields(memoryview(encoded), 0, len(encoded))
    assert (field.number, field.end) == (1, len(encoded))
    tensor = TensorProto.FromString(b"\x3a" + varint(len(varint(value))) + varint(value))  # int64_data, packed
    assert tensor.int64_data[0] == (value if value < 2**63 else value - 2**64)


def test_a_message_is_what_stands_around_a_field() -> None:
    model = network()
    before, after = around(model, 7)
    graph = model.graph.SerializeToString(deterministic=True)
    assert before + header(7, len(graph)) + graph + after == model.SerializeToString(deterministic=True)


def test_a_large_single_file_refers_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(network().SerializeToString())
    digest, inputs = network_digest(path), network_inputs(path)
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", 1)
    monkeypatch.setattr(network_files, "SMALL_TENSOR_BYTES", 64)
    region = region_of(read_light(path).graph.initializer[0])
    stored = numpy_helper.to_array(network().graph.initializer[0])
    assert path.read_bytes()[region.offset : region.offset + region.length] == stored.tobytes()
    assert (region.path, data_files(path)) == (path, set())
    assert (network_digest(path), network_inputs(path)) == (digest, inputs)
    model = network()
    model.graph.initializer[0].raw_data = stored.tobytes()[:-4]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"'w' holds 124 bytes, 8x4 float is 128"):
        read_light(path)
    assert load_structure(path)[0].graph.input[0].name == "x"


def test_digests_of_what_is_no_network(tmp_path: Path) -> None:
    """Whoever reads the file says what is wrong with it; here it is only named."""
    text = tmp_path / "location.txt"
    text.write_bytes(b"no network, but it has a location\n")
    assert len(network_digest(text)) == 64
    with pytest.raises(UserError, match="not a readable ONNX file"):
        read_light(text)
    with pytest.raises(UserError, match=r"gone\.onnx: cannot be read \(No such file"):
        network_digest(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(TensorProto.FLOAT, 60), (TensorProto.BFLOAT16, 30), (TensorProto.INT4, 8), (TensorProto.BOOL, 15)],
)
def test_bytes_of_a_tensor(kind: int, expected: int) -> None:
    assert tensor_bytes(TensorProto(data_type=kind, dims=[3, 5])) == expected
    assert tensor_bytes(TensorProto(data_type=TensorProto.STRING, dims=[3])) is None


def test_external_data_without_a_length_is_as_long_as_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="n.bin", size_threshold=64)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in [entry for entry in tensor.external_data if entry.key != "location"]:
            tensor.external_data.remove(entry)
    path.write_bytes(model.SerializeToString())
    assert region_of(read_light(path).graph.initializer[0]).length == 128
    assert data_files(path) == {tmp_path / "n.bin"}
