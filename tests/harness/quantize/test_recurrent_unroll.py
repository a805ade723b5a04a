"""Recurrent layers written out step by step against ONNX Runtime's own LSTM, GRU and RNN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.quantize.marks import float_mark
from harness.quantize.preparation import prepare_model
from harness.quantize.recurrent.unroll import MAX_STEPS

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Variant:
    """One recurrent layer: what it is and which of its optional inputs it has."""

    op: str
    steps: int | str = 3
    directions: int = 1
    initial_h: bool = False
    initial_c: bool = False
    bias: bool = True
    peepholes: bool = False
    lengths: tuple[int, ...] | None = None
    outputs: tuple[int, ...] = (0, 1, 2)
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 14
    inputs: int = 5
    hidden: int = 4
    batch: int = 2


def network(variant: Variant, seed: int = 0) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    rng, data = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    d, hidden, rows = variant.directions, variant.hidden, GATES[variant.op] * variant.hidden
    steps = variant.steps if isinstance(variant.steps, int) else 6
    constants: dict[str, NDArray[Any]] = {
        "W": rng.normal(size=(d, rows, variant.inputs)).astype(np.float32),
        "R": rng.normal(size=(d, rows, hidden)).astype(np.float32),
    }
    feed: dict[str, NDArray[Any]] = {"X": data.normal(size=(steps, variant.batch, variant.inputs)).astype(np.float32)}
    names = ["X", "W", "R", "", "", "", "", ""]
    if variant.bias:
        constants["B"] = rng.normal(size=(d, 2 * rows)).astype(np.float32)
        names[3] = "B"
    if variant.lengths is not None:
        constants["lengths"] = np.array(variant.lengths, np.int32)
        names[4] = "lengths"
    values = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [variant.steps, "N", variant.inputs])]
    for slot, name, wanted in ((5, "H0", variant.initial_h), (6, "C0", variant.initial_c)):
        if wanted:
            names[slot] = name
            feed[name] = data.normal(size=(d, variant.batch, hidden)).astype(np.float32)
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [d, "N", hidden]))
    if variant.peepholes:
        constants["P"] = rng.normal(size=(d, 3 * hidden)).astype(np.float32)
        names[7] = "P"
    results = ("Y", "Y_h", "Y_c") if variant.op == "LSTM" else ("Y", "Y_h")
    made = [name if index in variant.outputs else "" for index, name in enumerate(results)]
    while names[-1] == "":
        names.pop()
    node = helper.make_node(variant.op, names, made, name="layer", hidden_size=hidden, **variant.attributes)
    graph = helper.make_graph(
        [node],
        "recurrent",
        values,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made if name],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", variant.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feed


def run(model: ModelProto, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, feed)
    return outputs


WRITTEN_OUT = {
    "lstm": Variant("LSTM"),
    "lstm one step": Variant("LSTM", steps=1, initial_h=True, initial_c=True),
    "lstm one step from zero": Variant("LSTM", steps=1),
    "lstm without bias": Variant("LSTM", bias=False),
    "lstm initial state": Variant("LSTM", initial_h=True, initial_c=True),
    "lstm initial state only": Variant("LSTM", initial_h=True),
    "lstm initial cell only": Variant("LSTM", initial_c=True),
    "lstm reverse": Variant("LSTM", attributes={"direction": "reverse"}),
    "lstm both ways": Variant(
        "LSTM", directions=2, initial_h=True, initial_c=True, attributes={"direction": "bidirectional"}
    ),
    "lstm peepholes": Variant("LSTM", peepholes=True, initial_c=True),
    "lstm peepholes from zero": Variant("LSTM", peepholes=True),
    "lstm peepholes both ways": Variant(
        "LSTM", directions=2, peepholes=True, initial_c=True, attributes={"direction": "bidirectional"}
    ),
    "lstm coupled gates": Variant("LSTM", initial_c=True, attributes={"input_forget": 1}),
    "lstm coupled gates, peepholes": Variant("LSTM", initial_c=True, peepholes=True, attributes={"input_forget": 1}),
    "lstm clip": Variant("LSTM", initial_h=True, initial_c=True, attributes={"clip": 0.6}),
    "lstm clip, peepholes": Variant("LSTM", initial_c=True, peepholes=True, attributes={"clip": 0.6}),
    "lstm activations": Variant("LSTM", attributes={"activations": ["Sigmoid", "Relu", "Softsign"]}),
    "lstm only Y": Variant("LSTM", outputs=(0,)),
    "lstm only Y_h": Variant("LSTM", outputs=(1,)),
    "lstm only Y_c": Variant("LSTM", outputs=(2,)),
    "lstm equal lengths": Variant("LSTM", lengths=(3, 3)),
    "lstm opset 13": Variant("LSTM", opset=13, initial_h=True),
    "lstm opset 22": Variant("LSTM", opset=22, initial_h=True),
    "gru": Variant("GRU", outputs=(0, 1)),
    "gru one step": Variant("GRU", steps=1, initial_h=True),
    "gru initial state": Variant("GRU", initial_h=True),
    "gru reset after": Variant("GRU", attributes={"linear_before_reset": 1}),
    "gru reset after, initial state": Variant("GRU", initial_h=True, attributes={"linear_before_reset": 1}),
    "gru both ways": Variant("GRU", directions=2, attributes={"direction": "bidirectional", "linear_before_reset": 1}),
    "gru reverse": Variant("GRU", initial_h=True, attributes={"direction": "reverse"}),
    "gru clip": Variant("GRU", initial_h=True, attributes={"clip": 0.6}),
    "gru clip, reset after": Variant("GRU", initial_h=True, attributes={"clip": 0.6, "linear_before_reset": 1}),
    "gru activations": Variant("GRU", attributes={"activations": ["Sigmoid", "Relu"]}),
    "gru without bias": Variant("GRU", bias=False, attributes={"linear_before_reset": 1}),
    "rnn": Variant("RNN", initial_h=True),
    "rnn relu both ways": Variant(
        "RNN", directions=2, attributes={"direction": "bidirectional", "activations": ["Relu", "Relu"]}
    ),
    "rnn clip": Variant("RNN", attributes={"clip": 0.6}),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_it_computes_what_the_operator_computes(name: str) -> None:
    model, feed = network(WRITTEN_OUT[name])
    prepared = prepare_model(model, "net")
    operators = {node.op_type for node in prepared.model.graph.node}
    assert not operators & set(GATES), "the layer was not written out"
    onnx.checker.check_model(prepared.model, full_check=True)
    for reference, other in zip(run(model, feed), run(prepared.model, feed), strict=True):
        assert other.shape == reference.shape
        np.testing.assert_allclose(other, reference, rtol=2e-5, atol=2e-6)


KEPT = {
    "free length": (Variant("LSTM", steps="T"), "sequence length is free"),
    "long": (Variant("GRU", steps=MAX_STEPS + 1), f"at most {MAX_STEPS}"),
    "unequal lengths": (Variant("LSTM", lengths=(3, 2)), "differ in length"),
    "parameters": (
        Variant("RNN", attributes={"activations": ["LeakyRelu"], "activation_alpha": [0.1]}),
        "activation functions with parameters",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_written_out_stays_with_its_reason(name: str) -> None:
    variant, reason = KEPT[name]
    model, feed = network(variant)
    prepared = prepare_model(model, "net")
    (node,) = prepared.model.graph.node
    assert node.op_type == variant.op
    mark = float_mark(node)
    assert mark is not None
    assert reason in mark
    for reference, other in zip(run(model, feed), run(prepared.model, feed), strict=True):
        np.testing.assert_array_equal(other, reference)


def test_the_batch_stays_free_and_nodes_keep_the_layers_name() -> None:
    model, _ = network(WRITTEN_OUT["lstm both ways"])
    prepared = prepare_model(model, "net")
    assert all(node.name.startswith("layer/") for node in prepared.model.graph.node)
    assert set(prepared.unrolled) == {"layer"}
    assert set(prepared.unrolled["layer"]) == {node.name for node in prepared.model.graph.node}
    for batch in (1, 5):
        wider, feed = network(Variant("LSTM", directions=2, initial_h=True, initial_c=True, batch=batch,
                                      attributes={"direction": "bidirectional"}))  # fmt: skip
        for reference, other in zip(run(wider, feed), run(prepared.model, feed), strict=True):
            np.testing.assert_allclose(other, reference, rtol=2e-5, atol=2e-6)


def test_preparing_again_changes_nothing() -> None:
    for variant in (WRITTEN_OUT["gru initial state"], KEPT["free length"][0]):
        once = prepare_model(network(variant)[0], "net").model
        assert prepare_model(once, "net").model.SerializeToString(deterministic=True) == once.SerializeToString(
            deterministic=True
        )
