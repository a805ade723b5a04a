"""LSTM and GRU in int8: what is quantized, what stays float with which reason, and that it runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agents.network_check import CheckPolicy, check_network
from harness.quantize import Quantizer, calibrate, details, quantize
from harness.quantize.graph import read_model
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
HIDDEN, INPUTS, CLASSES = 24, 12, 5


def network(path: Path, op: str, steps: int | str, *, direction: str = "bidirectional") -> Path:
    """A recurrent layer and a fully connected one behind its last state."""
    rng = np.random.default_rng(3)
    gates, ways = {"LSTM": 4, "GRU": 3}[op], 2 if direction == "bidirectional" else 1
    rows = gates * HIDDEN
    constants = {
        "W": rng.normal(size=(ways, rows, INPUTS)) / np.sqrt(INPUTS),
        "R": rng.normal(size=(ways, rows, HIDDEN)) / np.sqrt(HIDDEN),
        "B": rng.normal(size=(ways, 2 * rows)) * 0.1,
        "F": rng.normal(size=(ways * HIDDEN, CLASSES)) / np.sqrt(HIDDEN),
    }
    attributes: dict[str, Any] = {"hidden_size": HIDDEN, "direction": direction}
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    nodes = [
        helper.make_node(op, ["x", "W", "R", "B"], ["", "last"], name="rnn", **attributes),
        helper.make_node("Transpose", ["last"], ["by_sample"], name="transpose", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["by_sample", "flat"], ["features"], name="flatten"),
        helper.make_node("MatMul", ["features", "F"], ["y"], name="classes"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, "N", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([-1, ways * HIDDEN], np.int64), "flat"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def feeds(steps: int, count: int, seed: int) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(steps, 4, INPUTS)).astype(np.float32)} for _ in range(count)]


def run(path: Path, feed: dict[str, NDArray[Any]], disabled: tuple[str, ...] = ()) -> NDArray[Any]:
    session = ort.InferenceSession(str(path), disabled_optimizers=list(disabled) or None)
    result: NDArray[Any] = session.run(None, feed)[0]
    return result


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_a_short_layer_computes_its_products_in_int8(tmp_path: Path, op: str, environment: str) -> None:
    path = network(tmp_path / "net.onnx", op, 6)
    ranges = calibrate(path, feeds(6, 16, 0), environment=environment)
    made = quantize(path, ranges, environment=environment, out=tmp_path / "int8.onnx")
    # The layer goes by its own name, as a whole.
    found = details(made.path)
    assert {"rnn", "classes"} <= set(found.QuantizedLayerNames)
    assert not any(name.startswith("rnn/") and "gates" not in name for name, _ in made.kept_float)
    assert "would add up from step to step" in dict(made.kept_float)["rnn/gates and state"]
    # Every product of the six steps and both directions reads int8, and the steps share one copy of their weights.
    model = read_model(made.path)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert len(products) == 2 * (1 + 5)
    assert all(makers[name] == "DequantizeLinear" for node in products for name in node.input[:2])
    recurrent = {node.input[1] for node in products if "/step" in node.name}
    # Where layers were fitted one by one, steps may differ; by plain rounding they never do.
    plain = quantize(path, ranges, environment=environment, method="minmax", out=tmp_path / "p.onnx", recover=())
    shared = {n.input[1] for n in read_model(plain.path).graph.node if n.op_type == "Gemm" and "/step" in n.name}
    assert len(shared) == 2 <= len(recurrent)
    with made.path.open("rb") as file:
        assert check_network(file.read(), CheckPolicy()).has_loops is False
    for feed in feeds(6, 2, 1):
        reference = run(path, feed)
        assert sqnr_db(reference, run(made.path, feed, made.disabled_optimizers)) > (
            15 if environment in {"fpga", "host"} else 20
        )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_a_layer_of_free_length_keeps_it_and_stores_int8_weights(tmp_path: Path, op: str, environment: str) -> None:
    path = network(tmp_path / "net.onnx", op, "T")
    made = quantize(
        path, calibrate(path, feeds(7, 8, 0), environment=environment), environment=environment, out=tmp_path / "q.onnx"
    )
    reason = dict(made.kept_float)["rnn"]
    assert "free" in reason
    assert "weights are int8, its arithmetic float" in reason
    stored = details(made.path).QuantizedLearnables
    rows = stored[stored.Layer == "rnn"]
    assert set(rows.Parameter) == {"InputWeights", "RecurrentWeights"}
    assert rows.Value.str.endswith("int8").all()
    for steps in (1, 3, 11):
        feed = feeds(steps, 1, steps)[0]
        assert sqnr_db(run(path, feed), run(made.path, feed, made.disabled_optimizers)) > 18


def test_an_excluded_layer_is_float_in_all_of_its_parts(tmp_path: Path) -> None:
    for name, steps in (("short", 4), ("free", "T")):
        path = network(tmp_path / f"{name}.onnx", "LSTM", steps)
        ranges = calibrate(path, feeds(4, 4, 0), layers="all")
        made = quantize(path, ranges, out=tmp_path / "q.onnx", exclude=["rnn", "classes"])
        assert made.quantized_layers == 0
        assert dict(made.kept_float)["rnn"] == "excluded by name"
        assert "nothing to quantize: the network stays float" in made.notes
        feed = feeds(4, 1, 1)[0]
        np.testing.assert_allclose(run(made.path, feed), run(path, feed), rtol=1e-4, atol=1e-5)


def step_network(path: Path) -> Path:
    """One step of a GRU, whose state goes out and comes back, with a number that scales the input."""
    rng = np.random.default_rng(5)
    rows = 3 * HIDDEN
    constants = {
        "W": rng.normal(size=(1, rows, INPUTS)) / np.sqrt(INPUTS),
        "R": rng.normal(size=(1, rows, HIDDEN)) * 1.5 / np.sqrt(HIDDEN),
        "F": rng.normal(size=(HIDDEN, 1)),
    }
    nodes = [
        helper.make_node("Cast", ["gain"], ["factor"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "factor"], ["louder"], name="gain"),
        helper.make_node("Unsqueeze", ["louder", "first"], ["sequence"], name="unsqueeze"),
        helper.make_node("GRU", ["sequence", "W", "R", "", "", "state"], ["", "after"], name="gru", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["after", "first"], ["now"], name="squeeze"),
        helper.make_node("MatMul", ["now", "F"], ["y"], name="score"),
    ]
    graph = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, "N", HIDDEN]),
            helper.make_tensor_value_info("gain", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1, "N", HIDDEN]),
        ],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def by_hand(path: Path, data: dict[str, NDArray[Any]], disabled: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """Scores, and the state before each step, with the state fed back in a plain loop."""
    session = ort.InferenceSession(str(path), disabled_optimizers=list(disabled) or None)
    state = np.zeros((1, 1, HIDDEN), np.float32)
    scores, states = [], []
    for row in data["x"]:
        states.append(state)
        y, state = session.run(["y", "after"], {"x": row[None], "gain": data["gain"], "state": state})
        scores.append(y)
    return np.concatenate(scores), np.concatenate(states)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_network_that_feeds_its_state_back(tmp_path: Path, environment: str) -> None:
    path = step_network(tmp_path / "step.onnx")
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(60, INPUTS)).astype(np.float32), "gain": np.array(2)}
    np.savez(tmp_path / "data.npz", x=data["x"], gain=data["gain"])
    quantizer = Quantizer(path, environment, state={"state": "after"})
    table = quantizer.calibrate(tmp_path / "data.npz", layers="all")
    # The ranges are those of the states that the float network came to by itself.
    _, states = by_hand(path, data)
    row = table[table.iloc[:, 0] == "state"].iloc[0]
    assert row["MinValue"] == pytest.approx(states.min(), rel=1e-5)
    assert row["MaxValue"] == pytest.approx(states.max(), rel=1e-5)
    made = quantizer.quantize(tmp_path / "int8.onnx")
    assert "gru" in details(made.path).QuantizedLayerNames
    # Validation feeds each network its own state: it finds what a plain loop finds.
    reference, _ = by_hand(path, data)
    other, _ = by_hand(made.path, data, made.disabled_optimizers)
    found = quantizer.validate(tmp_path / "data.npz")
    assert found.NumSamples == 60
    assert found.sqnr_db == pytest.approx(sqnr_db(reference, other), abs=0.01)
    assert found.sqnr_db > 15


def test_pieces_and_complete_feeds_calibrate_alike(tmp_path: Path) -> None:
    path = step_network(tmp_path / "step.onnx")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, INPUTS)).astype(np.float32)
    _, states = by_hand(path, {"x": x, "gain": np.array(3)})
    tables = []
    for data in (
        {"x": x, "gain": np.array(3)},
        [{"x": x[:7], "gain": np.array(3)}, {"x": x[7:], "gain": np.array(3)}],
        [{"x": x[i : i + 1], "gain": np.array(3), "state": states[i : i + 1]} for i in range(20)],
    ):
        quantizer = Quantizer(path, state={"state": "after"})
        tables.append(quantizer.calibrate(data, layers="all"))
    for other in tables[1:]:
        np.testing.assert_allclose(
            other[["MinValue", "MaxValue"]].astype(float), tables[0][["MinValue", "MaxValue"]].astype(float), rtol=1e-5
        )


def test_state_that_names_nothing(tmp_path: Path) -> None:
    path = step_network(tmp_path / "step.onnx")
    with pytest.raises(Exception, match="'h' is not an input of the network; its inputs: x, state, gain"):
        Quantizer(path, state={"h": "after"})
    with pytest.raises(Exception, match="'h' is not an output of the network; its outputs: y, after"):
        Quantizer(path, state={"state": "h"})
