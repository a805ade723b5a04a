"""Ifs that are no choice become plain code; those that are stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.quantize.control_flow import fold_control_flow
from harness.quantize.graph import read_model
from harness.quantize.preparation import prepare_model

SHARED = Path(__file__).parents[3].parent / "shared"
SILERO = SHARED / "data/models/silero_vad_16k_op15.onnx"


def constant(name: str, value: NDArray[Any]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def body(nodes: list[NodeProto], *outputs: str) -> GraphProto:
    return helper.make_graph(
        nodes, "body", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    )


def model(nodes: list[NodeProto], shape: list[int | str], outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array([0, 2, 1], np.int64), "indices")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    for index, node in enumerate(made.graph.node):
        node.name = node.name or f"node{index}"
    return made


def if_first_axis_is_one(then: GraphProto, otherwise: GraphProto, *outputs: str) -> list[NodeProto]:
    """What an exporter writes for `if x.shape[-1] == 1`."""
    return [
        helper.make_node("Shape", ["x"], ["shape"]),
        constant("last", np.array([-1], np.int64)),
        helper.make_node("Gather", ["shape", "last"], ["size"], axis=0),
        constant("one", np.array([1], np.int64)),
        helper.make_node("Equal", ["size", "one"], ["is_one"]),
        helper.make_node("If", ["is_one"], list(outputs), name="choice", then_branch=then, else_branch=otherwise),
    ]


def run(net: ModelProto, x: NDArray[Any]) -> list[NDArray[Any]]:
    outputs: list[NDArray[Any]] = ort.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    return outputs


def operators(net: ModelProto) -> list[str]:
    return [node.op_type for node in net.graph.node]


@pytest.mark.parametrize("last", [1, 3])
def test_a_condition_that_shapes_decide(last: int) -> None:
    nodes = if_first_axis_is_one(
        body([helper.make_node("Abs", ["x"], ["made"])], "made"),
        body([helper.make_node("Neg", ["x"], ["made"])], "made"),
        "y",
    )
    net = model(nodes, ["N", last])
    x = np.linspace(-1, 1, 2 * last, dtype=np.float32).reshape(2, last)
    reference = run(net, x)
    prepared = prepare_model(net, "net").model
    assert operators(prepared) == ["Abs" if last == 1 else "Neg"]
    np.testing.assert_array_equal(run(prepared, x), reference)


def test_an_open_condition_stays_with_both_branches() -> None:
    nodes = if_first_axis_is_one(
        body([helper.make_node("Abs", ["x"], ["a"])], "a"), body([helper.make_node("Neg", ["x"], ["b"])], "b"), "y"
    )
    net = model(nodes, ["N", "M"])
    assert fold_control_flow(net) == 0
    for last in (1, 2):
        x = np.full((2, last), -2, np.float32)
        np.testing.assert_array_equal(run(net, x)[0], x * (-1))


def test_a_condition_that_data_decide_stays() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        constant("zero", np.array(0, np.float32)),
        helper.make_node("Greater", ["top", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            name="choice",
            then_branch=body([helper.make_node("Abs", ["x"], ["a"])], "a"),
            else_branch=body([helper.make_node("Neg", ["x"], ["b"])], "b"),
        ),
    ]
    assert fold_control_flow(model(nodes, ["N", 3])) == 0


def test_a_branch_that_cannot_run_is_not_taken() -> None:
    # Without the Squeeze a tensor of rank 3 would meet a matrix product that takes rank 2 only.
    nodes = [
        *if_first_axis_is_one(
            body([constant("axis", np.array([-1], np.int64)), helper.make_node("Squeeze", ["x", "axis"], ["a"])], "a"),
            body([helper.make_node("Identity", ["x"], ["b"])], "b"),
            "flat",
        ),
        constant("w", np.arange(6, dtype=np.float32).reshape(3, 2)),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    net = model(nodes, ["N", 3, "T"])
    x = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    reference = run(net, x)
    prepared = prepare_model(net, "net").model
    assert "If" not in operators(prepared)
    np.testing.assert_array_equal(run(prepared, x), reference)


def test_names_that_both_graphs_use_do_not_meet() -> None:
    # Both Ifs have inner tensors called `made`, and an inner If reads one of them.
    def doubled(condition: str, made: str, out: str) -> NodeProto:
        inner = [
            helper.make_node("Add", ["x", "x"], [made]),
            constant("yes", np.array(True)),
            helper.make_node(
                "If",
                ["yes"],
                ["inner"],
                name="inside",
                then_branch=body([helper.make_node("Add", [made, "x"], ["three"])], "three"),
                else_branch=body([helper.make_node("Identity", [made], ["two"])], "two"),
            ),
        ]
        other = [helper.make_node("Neg", ["x"], ["never"])]
        return helper.make_node(
            "If", [condition], [out], name=out, then_branch=body(inner, "inner"), else_branch=body(other, "never")
        )

    nodes = [
        constant("true", np.array(True)),
        doubled("true", "made", "first"),
        doubled("true", "made", "second"),
        helper.make_node("Add", ["first", "second"], ["y"]),
    ]
    net = model(nodes, ["N", 2])
    x = np.array([[1, -2]], np.float32)
    reference = run(net, x)
    prepared = prepare_model(net, "net").model
    assert "If" not in operators(prepared)
    onnx.checker.check_model(prepared, full_check=True)
    np.testing.assert_array_equal(run(prepared, x), reference)
    np.testing.assert_array_equal(reference[0], 6 * x)


def test_a_branch_without_nodes_and_several_results() -> None:
    # The branch only hands outer tensors on; one result is a network output.
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        constant("flag", np.array(False)),
        helper.make_node(
            "If",
            ["flag"],
            ["y", "z"],
            name="choice",
            then_branch=body([helper.make_node("Neg", ["x"], ["n"])], "n", "n"),
            else_branch=body(
                [helper.make_node("Identity", ["r"], ["p"]), helper.make_node("Abs", ["x"], ["q"])], "p", "q"
            ),
        ),
    ]
    net = model(nodes, ["N", 2], ("y", "z"))
    x = np.array([[1, -2]], np.float32)
    reference = run(net, x)
    prepared = prepare_model(net, "net").model
    assert "If" not in operators(prepared)
    for found, wanted in zip(run(prepared, x), reference, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.skipif(not SILERO.is_file(), reason="the shared networks are not beside the repository")
def test_silero_has_no_branch_left_and_computes_the_same() -> None:
    net = read_model(SILERO)
    prepared = prepare_model(net, "silero").model
    assert not {"If", "LSTM"} & set(operators(prepared))
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        feed = {
            "input": rng.normal(size=(batch, 576)).astype(np.float32) * 0.1,
            "state": rng.normal(size=(2, batch, 128)).astype(np.float32) * 0.3,
            "sr": np.array(16000),
        }
        reference = ort.InferenceSession(net.SerializeToString()).run(None, feed)
        found = ort.InferenceSession(prepared.SerializeToString()).run(None, feed)
        for one, other in zip(reference, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
