"""Sums, products, concatenations and activation functions of 8-bit operands, against the integer reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.emulation.reference.checks import INTEGER, agree, often
from tests.harness.emulation.reference.drawing import STYLES, Array, integers, kinds, real, step
from tests.harness.emulation.reference.written import Written


def _every_pair(kind: type, other: type) -> tuple[Array, Array]:
    """Two arrays that hold every combination of a sample of levels, the ends and zero among them."""
    one = np.unique(np.r_[np.iinfo(kind).min, np.iinfo(kind).max, np.arange(-128, 256, 7)].clip(np.iinfo(kind).min))
    two = np.unique(np.r_[np.iinfo(other).min, np.iinfo(other).max, np.arange(-128, 256, 5)].clip(np.iinfo(other).min))
    one, two = one[one <= np.iinfo(kind).max], two[two <= np.iinfo(other).max]
    left, right = np.meshgrid(one, two)
    return left.astype(kind), right.astype(other)


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
@often
@given(data=st.data())
def test_two_operands_of_different_steps(arithmetic: str, op_type: str, data: st.DataObject, tmp_path: Path) -> None:
    first, second = data.draw(st.integers(-3, 8)), data.draw(st.integers(-3, 8))
    near = first + second if op_type == "Mul" else max(first, second)
    out = near - data.draw(st.integers(0, 4) | st.integers(0, 14))
    kind, other, kind_out = (data.draw(kinds(arithmetic)) for _ in range(3))
    activation = data.draw(st.sampled_from(["none", "Relu", "LeakyRelu", "Clip"]))
    left, right = _every_pair(kind, other)
    net = Written()
    names = [net.input("x", left.shape, step(first), kind), net.input("y", right.shape, step(second), other)]
    made = net.op(op_type, names, "layer")
    if activation == "Clip":
        net.constant("low", np.asarray(0, np.float32))
        net.constant("high", np.asarray(6, np.float32))
        made = net.op("Clip", [made, "low", "high"], "activated")
    elif activation == "LeakyRelu":
        made = net.op("LeakyRelu", [made], "activated", alpha=0.1)
    elif activation == "Relu":
        made = net.op("Relu", [made], "activated")
    net.output(net.pair(made, step(out), kind_out))
    agree(net, arithmetic, {"x": real(left, step(first)), "y": real(right, step(second))}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("constant_first", [False, True])
@often
@given(data=st.data())
def test_a_constant_operand(
    arithmetic: str, op_type: str, constant_first: bool, data: st.DataObject, tmp_path: Path
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    first, second = data.draw(st.integers(-2, 8)), data.draw(st.integers(-2, 8))
    near = first + second if op_type == "Mul" else max(first, second)
    out = near - data.draw(st.integers(0, 6))
    kind = data.draw(kinds(arithmetic))
    shape = data.draw(st.sampled_from([(3, 1, 1), (1, 3, 4, 4), (1,), ()]))
    constant = np.asarray(integers(rng, shape, data.draw(st.sampled_from(STYLES))), np.int8)
    values = integers(rng, (2, 3, 4, 4), data.draw(st.sampled_from(STYLES)), kind)
    net = Written()
    names = [net.input("x", ["N", 3, 4, 4], step(first), kind), net.integers("c", constant, step(second))]
    net.output(net.pair(net.op(op_type, names[::-1] if constant_first else names, "layer"), step(out), kind))
    agree(net, arithmetic, {"x": real(values, step(first))}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_one_tensor_with_itself(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    position, op_type = data.draw(st.integers(-2, 6)), data.draw(st.sampled_from(["Add", "Mul", "Sub"]))
    kind = data.draw(kinds(arithmetic))
    levels: Array = np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1).astype(kind)
    net = Written()
    name = net.input("x", [256], step(position), kind)
    net.output(net.pair(net.op(op_type, [name, name], "layer"), step(position), kind))
    agree(net, arithmetic, {"x": real(levels, step(position))}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_concatenation(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count = data.draw(st.integers(1, 4))
    net, feed, names = Written(), {}, []
    for index in range(count):
        position, kind = data.draw(st.integers(-2, 8)), data.draw(kinds(arithmetic))
        values = integers(rng, (2, index + 1, 5), data.draw(st.sampled_from(STYLES)), kind)
        names.append(net.input(f"x{index}", values.shape, step(position), kind))
        feed[f"x{index}"] = real(values, step(position))
    made = net.op("Concat", names, "layer", axis=data.draw(st.sampled_from([1, -2])))
    net.output(net.pair(made, step(data.draw(st.integers(-2, 8))), data.draw(kinds(arithmetic))))
    agree(net, arithmetic, feed, tmp_path, "layer")


ALONE = ["Relu", "Clip", "Relu6", "ClipLow", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"]


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("function", ALONE)
@often
@given(data=st.data())
def test_activation_functions_on_every_level(
    arithmetic: str, function: str, data: st.DataObject, tmp_path: Path
) -> None:
    # Where 1 is half a step, the last bit of a curve's double decides; nobody writes such steps.
    coarsest = 0 if function in {"Sigmoid", "Tanh"} else -2
    position, out = data.draw(st.integers(-2, 9)), data.draw(st.integers(coarsest, 9))
    kind, kind_out = data.draw(kinds(arithmetic)), data.draw(kinds(arithmetic))
    levels: Array = np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1).astype(kind).reshape(1, 4, 64)
    net = Written()
    name = net.input("x", [1, 4, 64], step(position), kind)
    if function in {"Clip", "Relu6", "ClipLow"}:
        low = 0.0 if function == "Relu6" else data.draw(st.floats(-20, -0.125, width=32))
        high = 6.0 if function == "Relu6" else data.draw(st.floats(0, 20, width=32))
        inputs = [name, net.constant("low", np.asarray(low, np.float32))]
        if function != "ClipLow":
            inputs.append(net.constant("high", np.asarray(high, np.float32)))
        made = net.op("Clip", inputs, "layer")
    elif function == "LeakyRelu":
        alpha = 0.1 if arithmetic == "dpu" else data.draw(st.floats(-1, 2, width=32))
        made = net.op("LeakyRelu", [name], "layer", alpha=alpha)
    elif function == "PRelu":
        slopes = np.array([[26], [26], [26], [26]] if arithmetic == "dpu" else [[26], [-128], [0], [127]], np.int8)
        at = 8 if arithmetic == "dpu" else data.draw(st.integers(0, 10))
        made = net.op("PRelu", [name, net.integers("slopes", slopes, step(at))], "layer")
    elif function == "HardSigmoid":
        alpha, beta = float(np.float32(1 / 6)), 0.5
        if arithmetic != "dpu" and data.draw(st.booleans()):
            alpha, beta = float(np.float32(0.2)), data.draw(st.floats(-1, 2, width=32))
        made = net.op("HardSigmoid", [name], "layer", alpha=alpha, beta=beta)
    else:
        made = net.op(function, [name], "layer")
    net.output(net.pair(made, step(out), kind_out))
    # No FPGA has these curves: its processor computes them.
    layers = () if function in {"Sigmoid", "Tanh"} and arithmetic != "host" else ("layer",)
    agree(net, arithmetic, {"x": real(levels, step(position))}, tmp_path, *layers)


@pytest.mark.parametrize(("op_type", "slope"), [("PRelu", 64), ("PRelu", 25), ("PRelu", 27)])
def test_other_slopes_run_on_the_processor_of_a_dpu(op_type: str, slope: int, tmp_path: Path) -> None:
    """Negative ties tell: a DPU's layer rounds them up, its processor away from zero."""
    levels: Array = np.arange(-128, 128, dtype=np.int8)
    net = Written()
    slopes = net.integers("slopes", np.array([slope], np.int8), 2.0**-8)
    net.output(net.pair(net.op(op_type, [net.input("x", [256], 1.0), slopes], "layer"), 2.0))
    found = agree(net, "dpu", {"x": real(levels, 1.0)}, tmp_path)
    assert "layer" not in found.hardware


@pytest.mark.parametrize("arithmetic", [*INTEGER, "gpu"])
@often
@given(position=st.integers(-3, 9), shape=st.sampled_from([(2, 5), (1, 7), (2, 3, 4)]), seed=st.integers(0, 2**32 - 1))
def test_softmax_runs_in_software(
    arithmetic: str, position: int, shape: tuple[int, ...], seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    net = Written()
    name = net.input("x", shape, step(position))
    made = net.op("Softmax", [net.pair(net.op("Relu", [name], "relu"), step(position))], "scores", axis=-1)
    net.output(net.pair(made, 2.0**-7))
    found = agree(net, arithmetic, {"x": real(integers(rng, shape, "any"), step(position))}, tmp_path)
    assert arithmetic == "gpu" or any(notice.startswith("scores ") for notice in found.lowered.notices)


EDGES = np.array(
    [
        *(0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, -0.49999997, 0.50000006, -0.50000006),
        *(126.5, 127.0, 127.4999, 127.5, -127.5, -128.0, -128.5, 254.5, 255.5, 3e38, -3e38, np.inf, -np.inf),
        *(1e-45, -1e-45, 8388607.5, -8388607.5),
    ],
    np.float32,
)
#: What docs/emulation.md makes of EDGES in int8 at a step of 1: ties away from zero, ends saturate.
AWAY = [0, 0, 1, -1, 2, -2, 3, -3, 0, 0, 1, -1, 127, 127, 127, 127, -128, -128, -128, 127, 127, 127, -128, 127, -128]


@pytest.mark.parametrize("arithmetic", [*INTEGER, "gpu"])
@often
@given(position=st.integers(-4, 9), extra=st.lists(st.floats(width=32, allow_nan=False), max_size=20), data=st.data())
def test_entering(arithmetic: str, position: int, extra: list[float], data: st.DataObject, tmp_path: Path) -> None:
    kind = data.draw(kinds(arithmetic))
    with np.errstate(over="ignore"):
        values = np.r_[EDGES * np.float32(step(position)), np.array(extra, np.float32)].astype(np.float32)
    net = Written()
    weight = net.integers("w", np.array([[1]], np.int8), 1.0)
    made = net.op("MatMul", [net.input("x", [len(values), 1], step(position), kind), weight], "layer")
    net.output(net.pair(made, step(position), kind))
    found = agree(net, arithmetic, {"x": values.reshape(-1, 1)}, tmp_path)
    assert "x.quantized" in found.compared
    if arithmetic != "gpu" and kind is np.int8:
        assert found.reference.integers["x.quantized"].ravel().tolist()[: len(AWAY)] == AWAY


def test_the_vectors_of_the_dynamic_range(vectors_csv: Path, tmp_path: Path) -> None:
    """../shared/facts/histogram_vectors.csv: what `host` makes of each x at its scale; `gpu` rounds half to even."""
    rows = [line.split(",") for line in vectors_csv.read_text().split()[1:]]
    assert len(rows) == 18
    for scale in {row[1] for row in rows}:
        of_scale = [row for row in rows if row[1] == scale]
        values = np.array([[row[0]] for row in of_scale], np.float32)
        for arithmetic, column in (("host", 3), ("mathworks", 3), ("gpu", 6)):
            net = Written()
            weight = net.integers("w", np.array([[1]], np.int8), 1.0)
            made = net.op("MatMul", [net.input("x", values.shape, float(scale)), weight], "layer")
            net.output(net.pair(made, float(scale)))
            found = agree(net, arithmetic, {"x": values}, tmp_path)
            expected = [int(row[column]) for row in of_scale]
            assert found.reference.integers["x.quantized"].ravel().tolist() == expected
            assert found.reference.integers["layer.quantized"].ravel().tolist() == expected
