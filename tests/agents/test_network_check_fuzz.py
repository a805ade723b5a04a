"""Whatever the bytes: a refusal or a network that `onnx` reads the same way, and soon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agents.network_check import CheckPolicy, NetworkRefused, NetworkSummary, check_network

if TYPE_CHECKING:
    from collections.abc import Sequence

F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def _valid() -> onnx.ModelProto:
    """A small network that has every kind of message in it."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", F32, [2], [1.0, 2.0]))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", F32, [2])],
    )
    function = helper.make_function(
        "lab", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sv", F32, [1], [3.0]), helper.make_tensor("si", I64, [1], [2]), [4]
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["flag"], ["s"], then_branch=branch, else_branch=branch),
            helper.make_node("Double", ["s"], ["y"], domain="lab"),
            helper.make_node("Constant", [], ["sp"], sparse_value=sparse),
            helper.make_node("ConstantOfShape", ["shape"], ["z"], doc_string="why"),
            helper.make_node("Conv", ["q", "w"], ["r"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], auto_pad="NOTSET"),
            helper.make_node("QGemm", ["q"], ["t"], domain="com.microsoft", alpha=1.5, many=[1.0, 2.0], names=["a"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
            helper.make_tensor_value_info("q", F32, ["batch", 3, 8, 8]),
            helper.make_tensor_sequence_value_info("seq", F32, [None, 2]),
        ],
        [helper.make_tensor_value_info("y", F32, [2])],
        initializer=[
            helper.make_tensor("shape", I64, [2], [2, 3]),
            helper.make_tensor("w", F32, [2, 3, 3, 3], bytes(4 * 54), raw=True),
            helper.make_tensor("text", TensorProto.STRING, [2], ["a", "bc"]),  # type: ignore[list-item] # the stub's
        ],
    )
    graph.quantization_annotation.add(tensor_name="w").quant_parameter_tensor_names.add(key="SCALE", value="s")
    model = helper.make_model(
        graph,
        functions=[function],
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("lab", 1)],
    )
    model.metadata_props.add(key="author", value="lab")
    return model


VALID = _valid().SerializeToString()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The network after a few cuts, flips, insertions and copies of its own pieces."""
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 40))
        match draw(st.sampled_from(["cut", "flip", "insert", "remove", "copy", "bump"])):
            case "cut":
                del data[at:]
            case "flip":
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=12))
            case "remove":
                del data[at : at + size]
            case "copy":
                source = draw(st.integers(0, len(data) - 1))
                data[at : at + size] = data[source : source + size]
            case _:
                data[at] = (data[at] + draw(st.sampled_from([1, -1, 128]))) % 256
    return bytes(data)


def refused_or_agreed(data: bytes) -> NetworkSummary | None:
    started = time.process_time()
    try:
        summary = check_network(data, CheckPolicy())
    except NetworkRefused as refused:
        assert len(str(refused).splitlines()) == 1  # noqa: PT017 - both outcomes are right; each has its own demand
        return None
    finally:
        assert time.process_time() - started < 1.0
    model = onnx.load_from_string(data)
    assert summary.ir_version == model.ir_version
    assert summary.opsets == tuple((entry.domain, entry.version) for entry in model.opset_import)
    assert summary.outputs == tuple(value.name for value in model.graph.output)
    assert not _outside(model)
    assert onnx.load_from_string(model.SerializeToString()) == model
    # what protobuf wrote again is the same network to us: neither reader saw something the other did not
    assert check_network(model.SerializeToString(), CheckPolicy()) == summary
    return summary


def _outside(message: object) -> Sequence[object]:
    """Every tensor with external data, found through protobuf's reflection."""
    found: list[object] = []
    for field, value in message.ListFields():  # type: ignore[attr-defined] # any protobuf message
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            if isinstance(inner, TensorProto) and (inner.external_data or inner.data_location):
                found.append(inner)
            found.extend(_outside(inner))
    return found


def test_the_unchanged_network_passes() -> None:
    summary = refused_or_agreed(VALID)
    assert summary is not None
    assert summary.node_count == 9


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
@example(VALID[:-1])
@example(VALID + VALID)
def test_mutations_of_a_network_are_refused_or_read_alike(data: bytes) -> None:
    refused_or_agreed(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert refused_or_agreed(data) is None


@pytest.mark.parametrize("bit", range(8))
def test_every_single_bit_flip_is_refused_or_read_alike(bit: int) -> None:
    outcomes = set()
    for at in range(len(VALID)):
        data = bytearray(VALID)
        data[at] ^= 1 << bit
        outcomes.add(refused_or_agreed(bytes(data)) is None)
    assert outcomes == {True, False}  # some flips only change a number or a letter
