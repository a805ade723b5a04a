"""What the check refuses that is not a row of its own in docs/security.md: operators, functions, the wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agents.network_check import MAX_FIELDS, CheckPolicy, NetworkRefused, check_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

F32 = TensorProto.FLOAT


def network(nodes: Sequence[onnx.NodeProto] = (), functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", F32, [4])],
        [helper.make_tensor_value_info("y", F32, [4])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("lab", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


def refusal(model: onnx.ModelProto | bytes, policy: CheckPolicy | None = None) -> str:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(NetworkRefused) as refused:
        check_network(data, policy or CheckPolicy())
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert text.isprintable()
    return text


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def framed(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


VALID = network().SerializeToString()
#: ir_version 8 and one opset_import; a graph may follow
HEAD = b"\x08\x08" + framed(8, b"\x10\x11")


def test_the_network_these_tests_bend_is_good() -> None:
    assert check_network(VALID, CheckPolicy()).node_count == 1


# --- operators and functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "PyOp"),
        ("com.microsoft", "Snpe"),
        ("com.microsoft", "Tokenizer"),
        ("com.microsoft", "BeamSearch"),
        ("org.pytorch.aten", "ATen"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx.contrib", "PyOp"),
        ("ai.onnx.preview.training", "Adam"),
        ("my.ops", "Steal"),
        ("trt.plugins", "Custom"),
        (" ", "Relu"),
    ],
)
def test_operators_outside_the_list_are_refused(domain: str, operator: str) -> None:
    text = refusal(network([helper.make_node(operator, ["x"], ["z"], domain=domain)]))
    assert operator in text


def test_a_function_vouches_for_its_own_name_only() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    mine = helper.make_function("lab", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    good = network([helper.make_node("Mine", ["x"], ["z"], domain="lab")], [mine])
    check_network(good.SerializeToString(), CheckPolicy())
    assert "'Other'" in refusal(network([helper.make_node("Other", ["x"], ["z"], domain="lab")], [mine]))


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"])
def test_a_function_may_not_take_a_built_in_operators_place(domain: str) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function(domain, "EPContext", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    assert "reserved domain" in refusal(network(functions=[function]))


def test_the_body_of_a_function_is_held_to_the_same_rules() -> None:
    body = [helper.make_node("EPContext", ["a"], ["b"], domain="com.microsoft")]
    function = helper.make_function("lab", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    assert "EPContext" in refusal(network([helper.make_node("Mine", ["x"], ["z"], domain="lab")], [function]))


def test_functions_that_call_each_other_in_a_ring_are_refused() -> None:
    def calling(name: str, other: str) -> onnx.FunctionProto:
        body = [helper.make_node(other, ["a"], ["b"], domain="lab")]
        return helper.make_function("lab", name, ["a"], ["b"], body, [helper.make_opsetid("lab", 1)])

    assert "calls itself" in refusal(network(functions=[calling("A", "B"), calling("B", "C"), calling("C", "A")]))
    assert "calls itself" in refusal(network(functions=[calling("A", "A")]))


def test_a_long_chain_of_functions_is_followed_without_recursion() -> None:
    def link(index: int) -> onnx.FunctionProto:
        body = [helper.make_node(f"F{index + 1}", ["a"], ["b"], domain="lab")]
        return helper.make_function("lab", f"F{index}", ["a"], ["b"], body, [helper.make_opsetid("lab", 1)])

    last = helper.make_function(
        "lab", "F3000", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = network(
        [helper.make_node("F0", ["x"], ["z"], domain="lab")], [*(link(index) for index in range(3000)), last]
    )
    assert check_network(model.SerializeToString(), CheckPolicy()).node_count == 3003


def test_both_branches_of_an_if_are_walked() -> None:
    good = helper.make_graph([], "good", [], [])
    bad = helper.make_graph([helper.make_node("ATen", [], ["a"], domain="org.pytorch.aten")], "bad", [], [])
    for then, other in ((good, bad), (bad, good)):
        assert "ATen" in refusal(network([helper.make_node("If", ["f"], [], then_branch=then, else_branch=other)]))


def test_training_info_is_refused() -> None:
    model = network()
    model.training_info.add().algorithm.name = "sgd"
    assert "training_info" in refusal(model)


def test_names_from_the_file_cannot_write_into_a_log() -> None:
    node = helper.make_node("x\x1b[31m\n", ["x"], ["z"], name="n\n\u202eforged" + "a" * 1000, domain="evil\r\n")
    assert len(refusal(network([node]))) < 400


# --- formats that are not ONNX ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"ftrt" + b"\0" * 64, "a compiled TensorRT engine"),
        (b"\x7fELF\x02\x01\x01", "a native library"),
        (b"PK\x03\x04" + b"\0" * 40, "a zip archive"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 32, "TensorFlow Lite"),
        (b"xclbin2\0", "an FPGA bitstream"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"model.onnx".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 248, "a tar archive"),
        (b"", "empty"),
        (b"#!/bin/sh\necho hello\n", "not a readable ONNX network"),
        (b"\x0a\x05graph\x12\x03abc", "not a readable ONNX network"),  # the outer shape of an xmodel
    ],
)
def test_row_12_other_formats_are_named(start: bytes, name: str) -> None:
    assert name in refusal(start)


def test_row_12_a_valid_model_that_onnxruntime_would_read_as_its_own_format() -> None:
    """ONNX Runtime decides by bytes 4 to 8 whether it parses ONNX at all; a producer_name can lie there."""
    model = network()
    model.producer_name = "ORTM, a harmless name"
    data = model.SerializeToString()
    assert data[4:8] == b"ORTM"
    onnx.checker.check_model(onnx.load_from_string(data))
    with pytest.raises(Exception, match="ORT model verification failed"):  # ONNX Runtime's own classes
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert "ONNX Runtime (.ort) model" in refusal(data)


# --- the wire format ----------------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    model = network()
    del model.opset_import[1:]  # one field after the graph: no cut leaves a whole network
    data = model.SerializeToString()
    check_network(data, CheckPolicy())
    for length in range(len(data)):
        refusal(data[:length])


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\xfa\x01\x00", "unknown field 31"),
        (b"\x00\x00", "unknown field 0"),
        (b"\x0b\x0c", "a group"),
        (b"\x0c", "a group end"),
        (b"\x0e\x00", "wire type 6"),
        (b"\x0f\x00", "wire type 7"),
        (b"\x2d\x01\x00\x00\x00", "'model_version' has the wrong wire type"),
        (b"\x2a\x01\x00", "'model_version' has the wrong wire type"),
        (b"\x28" + b"\x80" * 10 + b"\x01", "an over-long number"),
        (b"\x28\x80\x00", "an over-long number"),  # padded
        (b"\x28" + b"\xff" * 9 + b"\x02", "an over-long number"),  # 65 bits
        (b"\x28\x80", "runs past the end"),
        (b"\x28", "runs past the end"),
        (b"\x32\x7f", "runs past the end"),
        (b"\x32" + b"\xff" * 9 + b"\x01", "runs past the end"),  # a length of -1
        (b"\x32\x02\xc3\x28", "not UTF-8"),
    ],
)
def test_malformed_fields_are_refused(tail: bytes, reason: str) -> None:
    assert reason in refusal(VALID + tail)


def test_a_fixed_width_field_that_is_cut_off_is_refused() -> None:
    cut = framed(5, framed(1, b"a") + b"\x15\x00\x00")  # AttributeProto.f with two of its four bytes
    assert "runs past the end" in refusal(HEAD + framed(7, framed(1, cut)))


def test_packed_runs_that_do_not_divide_are_refused() -> None:
    def tensor(payload: bytes) -> bytes:
        return HEAD + framed(7, framed(5, b"\x08\x04\x10\x01" + payload))

    assert "within a number" in refusal(tensor(framed(4, b"\0" * 15)))
    assert "within a number" in refusal(tensor(framed(7, b"\x80" * 2000)))
    assert "over-long" in refusal(tensor(framed(7, b"\x80" * 2000 + b"\x01")))
    # nine continuations are a 64-bit number, wherever the reader's chunks of a megabyte end
    model = network()
    held = model.graph.initializer.add(name="w", data_type=TensorProto.INT64, dims=[(1 << 20) - 4])
    held.int64_data.extend([0] * ((1 << 20) - 5) + [-(2**63)])
    check_network(model.SerializeToString(), CheckPolicy())
    assert "over-long" in refusal(tensor(framed(7, b"\0" * ((1 << 20) - 5) + b"\x80" * 10 + b"\x01")))


@pytest.mark.parametrize(
    ("again", "name"),
    [
        (lambda model: framed(7, model.graph.SerializeToString()), "graph"),
        (lambda _: framed(7, b""), "graph"),
        (lambda _: b"\x08\x0a", "ir_version"),
        (lambda _: framed(2, b"a") + framed(2, b"b"), "producer_name"),
    ],
)
def test_what_protobuf_would_merge_is_refused(again: Callable[[onnx.ModelProto], bytes], name: str) -> None:
    """A second `graph` is merged into the first by protobuf; other readers take the last."""
    model = network()
    data = model.SerializeToString() + again(model)
    onnx.load_from_string(data)
    assert f"'{name}' given twice" in refusal(data)


def test_a_tensor_given_twice_in_an_attribute_is_refused() -> None:
    inner = helper.make_tensor("v", F32, [1], [1.0]).SerializeToString()
    attribute = framed(1, b"value") + framed(5, inner) + framed(5, inner)
    node = framed(2, b"c") + framed(4, b"Constant") + framed(5, attribute)
    assert "'t' given twice" in refusal(HEAD + framed(7, framed(1, node)))


def test_two_members_of_a_oneof_are_refused() -> None:
    dimension = b"\x08\x04" + framed(2, b"batch")
    kind = framed(1, b"\x08\x01" + framed(2, framed(1, dimension)))
    value = framed(1, b"x") + framed(2, kind)
    assert "'value' given twice" in refusal(HEAD + framed(7, framed(11, value)))


def test_an_enum_that_protobuf_would_cut_to_32_bits_is_refused() -> None:
    """2^32 + 1 is EXTERNAL to a parser that truncates."""
    tensor = b"\x08\x01\x10\x01" + framed(9, b"\0\0\0\0") + b"\x70" + varint(2**32 + 1)
    assert TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    assert "external data" in refusal(HEAD + framed(7, framed(5, tensor)))


def test_what_every_network_has_must_be_there() -> None:
    for name in ("graph", "ir_version", "opset_import"):
        model = network()
        model.ClearField(name)
        assert f"no {name}" in refusal(model)


# --- tensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.dims.__setitem__(0, -2), "the dimension -2"),
        (lambda t: t.dims.extend([1] * 40), "dimensions (at most 32)"),
        (lambda t: t.dims.extend([1] * 2000), "dimensions (at most 32)"),
        (lambda t: t.dims.extend([2**32, 2**32, 0]), "overflows"),
        (lambda t: setattr(t, "data_type", 0), "unknown element type 0"),
        (lambda t: setattr(t, "data_type", 99), "unknown element type 99"),
        (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), "where its shape asks for"),
        (lambda t: setattr(t, "data_type", TensorProto.STRING), "string tensor with raw_data"),
        (lambda t: setattr(t, "raw_data", b""), "holds 0 bytes"),
        (lambda t: t.float_data.extend([1.0, 1.0]), "more than once"),
        (lambda t: (t.ClearField("raw_data"), t.int64_data.extend([1, 1])), "wrong field"),
        (lambda t: t.ClearField("raw_data"), "holds 0 elements of float_data"),
        (lambda t: setattr(t.segment, "end", 1), "one segment"),
    ],
)
def test_tensors_whose_bytes_are_not_what_their_shape_says(
    change: Callable[[TensorProto], object], reason: str
) -> None:
    model = network()
    tensor = model.graph.initializer.add(name="w", data_type=F32, dims=[2], raw_data=b"\0" * 8)
    check_network(model.SerializeToString(), CheckPolicy())
    change(tensor)
    text = refusal(model)
    assert reason in text
    assert "initializer 'w'" in text


def test_text_tensors_are_bounded() -> None:
    model = network()
    model.graph.initializer.add(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"a" * (9 << 20)] * 2)
    assert "bytes of text" in refusal(model)


def test_long_names_are_refused() -> None:
    model = network()
    model.graph.name = "a" * (17 << 20)
    assert "'name' is 17825792 bytes long" in refusal(model)


def test_a_flood_of_tiny_fields_ends_the_check() -> None:
    node = framed(5, framed(1, b"pads") + b"\x40\x01" * (MAX_FIELDS + 10))
    assert "too many fields" in refusal(HEAD + framed(7, framed(1, node)))


def test_more_nodes_than_the_policy_are_refused() -> None:
    model = network([helper.make_node("Relu", ["x"], [f"z{index}"]) for index in range(10)])
    assert "more than 10 nodes" in refusal(model, CheckPolicy(max_nodes=10))
    check_network(model.SerializeToString(), CheckPolicy(max_nodes=11))


def test_an_opaque_type_is_refused() -> None:
    model = network()
    model.graph.input.add(name="o").type.opaque_type.name = "thing"
    assert "opaque" in refusal(model)
