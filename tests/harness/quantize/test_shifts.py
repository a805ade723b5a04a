"""Positions that follow from others, against a search over all of them; and what a user reads when some were moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.quantize import Quantizer, calibrate, quantize
from harness.quantize.graph import metadata, read_model
from harness.quantize.quantizer import METADATA_KEY
from harness.quantize.rulebooks import rule_book
from harness.quantize.shifts import LayerShifts, finest_result, operand_positions, position_of
from tests.harness.quantize.test_shift_limits import Positions, run, violations

LIMITS = rule_book("fpga").shifts
assert LIMITS is not None
POSITION = st.integers(-12, 40)


def fits(ip: int, wp: int, bp: int | None, op: int) -> bool:
    """The limits as docs/emulation.md has them."""
    cut = ip + wp - op
    return 0 <= cut <= 16 and (bp is None or min(0, -(24 - (8 + cut))) <= ip + wp - bp <= 16)


@given(ip=POSITION, op=POSITION, weight=POSITION, bias=st.none() | POSITION)
def test_weights_and_bias_take_the_finest_positions_that_fit(ip: int, op: int, weight: int, bias: int | None) -> None:
    assert LIMITS is not None
    shifts = LayerShifts(LIMITS, ip, op)
    lower = range(-120, 41)
    possible = [
        (wp, bp)
        for wp in lower
        if wp <= weight
        for bp in ([None] if bias is None else (b for b in lower if b <= bias))
        if fits(ip, wp, bp, op)
    ]
    # What the walk over activations makes sure of, and nothing else, decides whether lowering is enough.
    assert bool(possible) == (op <= ip + weight and (bias is None or op <= bias + 16))
    if not possible:
        return
    finest = max(wp for wp, _ in possible)
    assert shifts.weight(weight, bias) == finest
    if bias is not None:
        assert shifts.bias(bias, finest) == max(bp for wp, bp in possible if wp == finest and bp is not None)
        assert shifts.bias_fits(bias, finest)


@given(first=POSITION, second=POSITION, wanted=POSITION)
def test_operands_of_a_sum_meet(first: int, second: int, wanted: int) -> None:
    assert LIMITS is not None
    op = min(wanted, finest_result(LIMITS, "Add", [first, second]))
    read = operand_positions(LIMITS, "Add", [first, second], op)
    highest = max(read)
    assert all(0 <= highest - position <= 15 for position in read)
    assert -15 <= highest - op <= 15
    # And none was moved without need.
    for index, position in enumerate(read):
        if position < (first, second)[index]:
            finer = [*read]
            finer[index] += 1
            assert max(finer) - min(finer) > 15 or max(finer) - op > 15


@given(first=POSITION, second=POSITION, wanted=POSITION)
def test_products_are_cut_by_16_bits_at_most(first: int, second: int, wanted: int) -> None:
    assert LIMITS is not None
    op = min(wanted, finest_result(LIMITS, "Mul", [first, second]))
    read = operand_positions(LIMITS, "Mul", [first, second], op)
    assert 0 <= sum(read) - op <= 16
    assert read[1] == second
    assert read[0] == first or sum(read) - op == 16


@pytest.mark.parametrize("position", [-118, -1, 0, 1, 7, 118])
def test_positions_of_steps(position: int) -> None:
    assert position_of(np.float32(2.0**-position)) == position


def tiny_weights(net: Any) -> None:  # noqa: ANN401  # the fixture's builder
    """A bias of 1e4 beside weights of 1e-6: the sum's step is far below what the result can hold."""
    net.add("Conv", ["x", net.weights("w", 4, 4, 1, 1, gain=1e-6), net.weights("b", 4, gain=1e4)], "c")
    net.conv("c", "last", (4, 4, 1, 1))


def cancelled(net: Any) -> None:  # noqa: ANN401  # the fixture's builder
    """x - x, nearly: a result much finer than the products that it is made of."""
    w = np.array([[1, -1 + 1e-6], [2, -2 + 1e-6]], np.float32).reshape(2, 2, 1, 1)
    net.add("Concat", ["x", "x"], "twice", axis=1)
    net.add("Conv", ["twice", net.constant("w", w)], "c")
    net.conv("c", "last", (2, 2, 1, 1))


@pytest.mark.parametrize(
    ("build", "channels", "says"), [(tiny_weights, 4, "weights of 'c'"), (cancelled, 1, "'c' 2^-")]
)
def test_what_was_moved_is_said(
    build: Callable[[Any], None], channels: int, says: str, builder: type[Any], tmp_path: Path
) -> None:
    net = builder(2)
    build(net)
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", channels, 4, 4]}, {"last": None}), path)
    data = np.random.default_rng(3).normal(size=(16, channels, 4, 4)).astype(np.float32)
    calibration = calibrate(path, [{"x": data}], environment="fpga")
    out = quantize(path, calibration, environment="fpga", method="minmax", out=tmp_path / "q.onnx", recover=())
    model = read_model(out.path)
    assert list(violations(model)) == []
    (note,) = [line for line in out.notes if "board's shifts" in line]
    assert says in note
    assert note in json.loads(metadata(model)[METADATA_KEY])["notes"]
    # host has the same scales without the limits: nothing to move there, and nothing said.
    calibration = calibrate(path, [{"x": data}], environment="host")
    other = quantize(path, calibration, environment="host", method="minmax", out=tmp_path / "h.onnx", recover=())
    assert not [line for line in other.notes if "shifts" in line]


def test_an_operand_is_coarser_only_for_the_sum_that_asks(builder: type[Any], tmp_path: Path) -> None:
    """A tensor 2^20 times smaller than the other operand keeps its 8 bits for its other reader."""
    net = builder(4)
    net.add("Relu", ["x"], "small")
    net.add("Conv", ["small", net.weights("w", 4, 4, 1, 1, gain=2.0**20)], "large")
    net.add("Add", ["small", "large"], "sum")
    net.conv("sum", "one", (4, 4, 1, 1))
    net.conv("small", "two", (4, 4, 1, 1))
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4, 4, 4]}, {"one": None, "two": None}), path)
    data = np.random.default_rng(5).normal(size=(16, 4, 4, 4)).astype(np.float32)
    calibration = calibrate(path, [{"x": data}], environment="fpga")
    out = quantize(path, calibration, environment="fpga", method="minmax", out=tmp_path / "q.onnx", recover=())
    model = read_model(out.path)
    assert list(violations(model)) == []
    found = Positions(model)
    node = {node.name: node for node in model.graph.node}
    assert found.of_input(node["two"], 0) == found.of_input(node["large"], 0) == 5  # 0 … 4 at 2^-5
    at = found.of_input(node["sum"], 0)
    assert at is not None
    assert at < 5
    assert run(out.path, data).any()


@pytest.mark.parametrize("gain", [1.0, 1e4])
def test_a_concatenation_that_ties_a_result_to_its_own_input(gain: float, builder: type[Any], tmp_path: Path) -> None:
    """pool(x) ++ w·x on one position, as a reduction block has it: with |w| above 2^7 there is none for both."""
    net = builder(8)
    net.add("Relu", ["x"], "start")
    net.add("MaxPool", ["start"], "pool", kernel_shape=[1, 1])
    net.add("Conv", ["start", net.weights("w", 4, 4, 1, 1, gain=gain)], "c")
    net.add("Concat", ["pool", "c"], "both", axis=1)
    net.conv("both", "last", (4, 8, 1, 1))
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4, 4, 4]}, {"last": None}), path)
    data = np.random.default_rng(9).normal(size=(16, 4, 4, 4)).astype(np.float32)
    calibration = calibrate(path, [{"x": data}], environment="fpga")
    out = quantize(path, calibration, environment="fpga", method="minmax", out=tmp_path / "q.onnx", recover=())
    model = read_model(out.path)
    assert list(violations(model)) == []
    assert out.kept_float == ()
    found = Positions(model)
    both = next(node for node in model.graph.node if node.name == "both")
    apart = found.of_input(both, 0) != found.of_input(both, 1)
    assert apart == (gain > 1) == any("operands keep positions of their own" in note for note in out.notes)


def test_mixed_precision_keeps_the_limits(builder: type[Any], tmp_path: Path) -> None:
    """The network that a search over float layers ends in is held to them as well."""
    net = builder(6)
    x = "x"
    for number, gain in enumerate((1e3, 1e-5, 30.0, 1e-4)):
        x = net.add(
            "Conv", [x, net.weights(f"w{number}", 4, 4, 1, 1, gain=gain), net.weights(f"b{number}", 4)], f"c{number}"
        )
        x = net.add("Relu", [x], f"r{number}")
    net.conv(x, "last", (4, 4, 1, 1))
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4, 4, 4]}, {"last": None}), path)
    data = np.random.default_rng(7).normal(size=(24, 4, 4, 4)).astype(np.float32)
    quantizer = Quantizer(path, "fpga")
    quantizer.calibrate([{"x": data[:16]}])
    made = quantizer.quantize(tmp_path / "q.onnx", held_back=[{"x": data[16:]}], sqnr_target=60, most_float=2)
    assert quantizer.mixed is not None
    assert 0 < len(quantizer.mixed.float_layers) <= 2
    assert list(violations(read_model(made.path))) == []
