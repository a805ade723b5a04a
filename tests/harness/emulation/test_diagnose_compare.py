"""Comparing a board with a reference: what it says of boards that are not what they seem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.emulation.diagnose.compare import Arrays, Comparison, Executable, compare
from harness.errors import UserError

FEEDS = [{"x": np.linspace(-3, 3, 12, dtype=np.float32).reshape(1, 12) * factor} for factor in (1, 0.5)]


def network() -> ModelProto:
    """x in steps of 1/4, twice itself in steps of 1/2."""
    stored = {"s": np.float32(0.25), "z": np.int8(0), "t": np.float32(0.5)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "s", "z"], ["x.d"]),
        helper.make_node("Add", ["x.d", "x.d"], ["a"], "twice"),
        helper.make_node("QuantizeLinear", ["a", "t", "z"], ["a.q"]),
        helper.make_node("DequantizeLinear", ["a.q", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(model: ModelProto) -> list[Arrays]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, feed), strict=True)) for feed in FEEDS]


class Board:
    """Runs networks, and changes what it returns.

    Args:
        tensor: which.
        value: what becomes of its first element.
        with_integers: in answers that hold integers, else in those that do not.
    """

    def __init__(self, tensor: str, value: float, *, with_integers: bool) -> None:
        self.tensor, self.value, self.with_integers = tensor, value, with_integers

    def __call__(self, model: ModelProto, disabled: Sequence[str]) -> list[Arrays]:
        assert not disabled
        answers = run(model)
        for answer in answers:
            if ("x.q" in answer) == self.with_integers:
                answer[self.tensor] = answer[self.tensor].copy()
                answer[self.tensor].flat[0] = self.value
        return answers


def compared(board: Board, on_board: ModelProto | None = None) -> Comparison:
    whole = Executable(network(), (), "Q/DQ")
    other = whole if on_board is None else Executable(on_board, (), "other")
    return compare(whole.model, whole, other, FEEDS, arithmetic=None, run_board=board)


def test_a_board_that_computes_otherwise_when_asked_for_more_is_reported() -> None:
    told = compared(Board("y", 7.0, with_integers=False))
    (notice,) = told.notices
    assert notice.startswith("the board computes 2 output values otherwise when intermediate tensors are asked for")
    assert told.outputs_differing == 2
    assert not any(layer.differing for layer in told.layers)


def test_a_layer_is_right_about_wrong_inputs_and_wrong_about_right_ones() -> None:
    inputs, twice = compared(Board("x.q", 100, with_integers=True)).layers
    assert (inputs.differing, inputs.differing_samples, inputs.max_lsb) == (2, 2, 112)
    assert inputs.own == 2
    assert inputs.channels == (2, *(0,) * 11)
    # the board's sum is not the one of the input that it says it had: 100 steps of 1/4 twice are 100 steps of 1/2
    assert (twice.differing, twice.own) == (0, 2)


def test_noise_in_a_layer_is_unknown() -> None:
    told = compared(Board("a.q", 5, with_integers=True))
    assert told.layers[1].max_lsb == 17  # -12 is right
    assert told.layers[1].kinds == ()
    assert told.layers[1].verdict == "unknown: no mistake that is known gives the board's integers"


def test_what_the_board_has_no_integers_for_is_not_compared_and_said() -> None:
    lacking = network()
    for node in lacking.graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                if name == "a.q":
                    names[slot] = "other"
    told = compared(Board("y", -6.0, with_integers=True), lacking)
    assert [layer.layer for layer in told.layers] == ["x"]
    assert "twice (Add): not compared, one side has no integers there" in told.notices


def test_a_network_without_integers_is_refused_in_one_line() -> None:
    plain = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
    )
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    one = Executable(model, (), "float")
    with pytest.raises(UserError, match="no layer with integers; quantize it first"):
        compare(model, one, one, FEEDS, arithmetic=None, run_board=lambda model, _: run(model))
