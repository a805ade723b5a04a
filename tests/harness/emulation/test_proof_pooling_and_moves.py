"""Pooling, resizing and operators that move integers, against the integer reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.emulation.reference.agreement import compare
from tests.harness.emulation.reference.checks import INTEGER, agree, often
from tests.harness.emulation.reference.drawing import STYLES, Array, integers, kinds, real, step
from tests.harness.emulation.reference.written import Written


def _data(draw: st.DrawFn | st.DataObject, shape: tuple[int, ...], kind: type, position: int) -> Array:
    take = draw.draw if isinstance(draw, st.DataObject) else draw
    rng = np.random.default_rng(take(st.integers(0, 2**32 - 1)))
    return real(integers(rng, shape, take(st.sampled_from(STYLES)), kind), step(position))


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize(
    "kernel",
    [
        (1, 1),
        (2, 2),
        (3, 3),
        (3, 6),
        (6, 3),
        (5, 5),
        (6, 6),
        (7, 7),
        (8, 8),
        (14, 14),
        (2, 3),
        (9, 9),
        (1, 5),
        (4,),
        (11,),
    ],
)
@often
@given(data=st.data())
def test_average_pool(arithmetic: str, kernel: tuple[int, ...], data: st.DataObject, tmp_path: Path) -> None:
    rank = len(kernel)
    position, kind = data.draw(st.integers(-2, 6)), data.draw(kinds(arithmetic))
    strides = [data.draw(st.integers(1, size + 1)) for size in kernel]
    spatial = [size + data.draw(st.integers(0, 3)) for size in kernel]
    attributes: dict[str, int | list[int]] = {}
    if data.draw(st.booleans()):
        attributes["pads"] = [data.draw(st.integers(0, min(size - 1, 2))) for size in kernel * 2]
        # A DPU covers no window with elements that are not counted.
        attributes["count_include_pad"] = 1 if arithmetic == "dpu" else data.draw(st.integers(0, 1))
    if arithmetic != "dpu":
        attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    shape = (2, 3, *spatial)
    net = Written(opset=19)
    made = net.op(
        "AveragePool",
        [net.input("x", ["N", 3, *spatial], step(position), kind)],
        "layer",
        kernel_shape=list(kernel),
        strides=strides[:rank],
        **attributes,
    )
    if data.draw(st.booleans()):
        made = net.op("Relu", [made], "activated")
    net.output(net.pair(made, step(position + data.draw(st.integers(-1, 3))), data.draw(kinds(arithmetic))))
    agree(net, arithmetic, {"x": _data(data, shape, kind, position)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_averages_over_everything(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    position, kind = data.draw(st.integers(-2, 6)), data.draw(kinds(arithmetic))
    spatial = data.draw(st.sampled_from([(1, 1), (3, 3), (7, 7), (14, 14), (2, 5), (13, 13), (4, 4), (3, 6)]))
    net = Written(opset=18)
    name = net.input("x", ["N", 3, *spatial], step(position), kind)
    if data.draw(st.booleans()):
        made = net.op("GlobalAveragePool", [name], "layer")
    else:
        axes = data.draw(st.sampled_from([[2, 3], [-2, -1], [3, 2]]))
        net.constant("axes", np.array(axes, np.int64))
        made = net.op("ReduceMean", [name, "axes"], "layer", keepdims=data.draw(st.integers(0, 1)))
    net.output(net.pair(made, step(position + data.draw(st.integers(-1, 3))), data.draw(kinds(arithmetic))))
    agree(net, arithmetic, {"x": _data(data, (2, 3, *spatial), kind, position)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", [*INTEGER, "gpu"])
@often
@given(data=st.data())
def test_max_pool(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    position, kind = data.draw(st.integers(-2, 6)), data.draw(kinds(arithmetic))
    kernel = data.draw(st.sampled_from([(2, 2), (3, 3), (3, 1), (5, 5), (2,), (3,)]))
    spatial = [size + data.draw(st.integers(0, 4)) for size in kernel]
    net = Written(opset=17)
    name = net.input("x", ["N", 2, *spatial], step(position), kind)
    if data.draw(st.booleans()):
        pads = [data.draw(st.integers(0, size - 1)) for size in kernel * 2]
        made = net.op(
            "MaxPool",
            [name],
            "layer",
            kernel_shape=list(kernel),
            strides=[data.draw(st.integers(1, 3)) for _ in kernel],
            pads=pads,
            ceil_mode=data.draw(st.integers(0, 1)) if not any(pads) else 0,
        )
    else:
        made = net.op("GlobalMaxPool", [name], "layer")
    net.output(net.pair(made, step(position), kind))
    layers = () if arithmetic == "gpu" else ("layer",)
    agree(net, arithmetic, {"x": _data(data, (2, 2, *spatial), kind, position)}, tmp_path, *layers)


MOVES = ["Reshape", "Flatten", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Tile", "Gather", "DepthToSpace"]


@pytest.mark.parametrize("arithmetic", INTEGER)
@pytest.mark.parametrize("op_type", [*MOVES, "SpaceToDepth", "Expand", "Identity", "Pad", "ReduceMax"])
@often
@given(data=st.data())
def test_moves(arithmetic: str, op_type: str, data: st.DataObject, tmp_path: Path) -> None:
    position, kind = data.draw(st.integers(-2, 6)), data.draw(kinds(arithmetic))
    out = position + data.draw(st.sampled_from([0, 0, -1, 2]))
    shape = (1, 4, 6, 2)
    net = Written(opset=17)
    name = net.input("x", shape, step(position), kind)
    numbers = {
        "Reshape": [1, -1, 4],
        "Squeeze": [0],
        "Unsqueeze": [0, 2],
        "Tile": [2, 1, 1, 2],
        "Gather": [3, 0, 0],
        "Expand": [3, 4, 6, 2],
        "Split": [1, 3],
        "Pad": [0, 1, 2, 0, 0, 0, 1, 1],
    }
    inputs = [name]
    if op_type in numbers:
        inputs.append(net.constant("numbers", np.array(numbers[op_type], np.int64)))
    if op_type == "Slice":
        for what, values in {"starts": [1, -1], "ends": [4, -100], "axes": [1, 2], "steps": [1, -2]}.items():
            inputs.append(net.constant(what, np.array(values, np.int64)))
    if op_type == "Split":
        results = net.split(inputs, ["layer", "second"], axis=1)
    else:
        of_operator: dict[str, dict[str, Any]] = {
            "Transpose": {"perm": [0, 2, 3, 1]},
            "Flatten": {"axis": 2},
            "Gather": {"axis": 1},
            "DepthToSpace": {"blocksize": 2},
            "SpaceToDepth": {"blocksize": 2},
            "Pad": {"mode": data.draw(st.sampled_from(["constant", "edge", "reflect"]))},
            "ReduceMax": {"axes": [1], "keepdims": 0},
        }
        results = [net.op(op_type, inputs, "layer", **of_operator.get(op_type, {}))]
    for result in results:
        net.output(net.pair(result, step(out), kind))
    agree(net, arithmetic, {"x": _data(data, shape, kind, position)}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(
    position=st.integers(-2, 6),
    coarser=st.integers(-1, 3),
    value=st.floats(-40, 40, width=32) | st.integers(-9, 9).map(lambda halves: halves / 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_with_a_value(
    arithmetic: str, position: int, coarser: int, value: float, seed: int, tmp_path: Path
) -> None:
    net = Written(opset=17)
    name = net.input("x", (1, 2, 4), step(position))
    net.constant("pads", np.array([0, 0, 1, 0, 1, 2], np.int64))
    made = net.op("Pad", [name, "pads", net.constant("value", np.asarray(value, np.float32))], "layer")
    net.output(net.pair(made, step(position - coarser)))
    values = integers(np.random.default_rng(seed), (1, 2, 4), "any")
    agree(net, arithmetic, {"x": real(values, step(position))}, tmp_path, "layer")


@pytest.mark.parametrize("arithmetic", [*INTEGER, "gpu"])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_zeros_in_front_of_a_pool_stay_zeros(arithmetic: str, pool: str, tmp_path: Path) -> None:
    """ONNX Runtime may fold a Pad into the pool behind it, whose own padding is no zero: -inf, or not counted."""
    net = Written(opset=17)
    name = net.input("x", (1, 2, 4, 4), 0.5)
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    made = net.pair(net.op("Pad", [name, pads], "padded"), 0.5)
    net.output(net.pair(net.op(pool, [made], "layer", kernel_shape=[3, 3]), 0.5))
    values = real(-np.arange(1, 33).reshape(1, 2, 4, 4), 0.5)

    found = agree(net, arithmetic, {"x": values}, tmp_path)

    if pool == "MaxPool":
        assert found.reference.outputs["layer.dequantized"][0, 0, 0, 0] == 0.0


@pytest.mark.parametrize("arithmetic", INTEGER)
@often
@given(data=st.data())
def test_resize(arithmetic: str, data: st.DataObject, tmp_path: Path) -> None:
    position, kind = data.draw(st.integers(-2, 6)), data.draw(kinds(arithmetic))
    spatial = (data.draw(st.integers(1, 5)), data.draw(st.integers(2, 6)))
    mode = data.draw(st.sampled_from(["nearest", "linear"]))
    factors = [data.draw(st.sampled_from([1, 2, 4])) for _ in range(2)]
    transform = data.draw(st.sampled_from(["half_pixel", "asymmetric", "pytorch_half_pixel"]))
    net = Written(opset=17)
    name = net.input("x", (1, 2, *spatial), step(position), kind)
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(st.sampled_from(["floor", "round_prefer_floor", "ceil"]))
    if data.draw(st.booleans()):
        inputs = [name, "", net.constant("scales", np.array([1, 1, *factors], np.float32))]
    else:
        sizes = [1, 2, *(size * factor for size, factor in zip(spatial, factors, strict=True))]
        inputs = [name, "", "", net.constant("sizes", np.array(sizes, np.int64))]
    out = position + (data.draw(st.integers(-1, 2)) if mode == "linear" else 0)
    net.output(net.pair(net.op("Resize", inputs, "layer", **attributes), step(out), kind))
    agree(net, arithmetic, {"x": _data(data, (1, 2, *spatial), kind, position)}, tmp_path, "layer")


def test_linear_resizing_by_thirds_runs_in_software(tmp_path: Path) -> None:
    net = Written()
    name = net.input("x", (1, 1, 2, 2), 0.5)
    inputs = [name, "", net.constant("scales", np.array([1, 1, 3, 3], np.float32))]
    net.output(net.pair(net.op("Resize", inputs, "layer", mode="linear"), 0.5))
    values = np.array([[[[1, 2.5], [-3, 40]]]], np.float32)

    found = compare(net.save(tmp_path / "net.onnx"), "dpu", {"x": values})

    assert found.differing == {}
    assert [notice for notice in found.lowered.notices if notice.startswith("layer (Resize)")]
    assert found.hardware.isdisjoint({"layer"})


def test_a_dpu_leaves_averages_of_less_than_a_window_to_software(tmp_path: Path) -> None:
    net = Written()
    name = net.input("x", (1, 1, 4, 4), 0.5)
    made = net.op("AveragePool", [name], "layer", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    net.output(net.pair(made, 0.5))
    values = real(np.arange(16).reshape(1, 1, 4, 4) * 7 - 50, 0.5)

    found = compare(net.save(tmp_path / "net.onnx"), "dpu", {"x": values})
    with_host = compare(tmp_path / "net.onnx", "host", {"x": values})

    assert found.differing == with_host.differing == {}
    assert "layer" not in found.hardware
    assert "layer" in with_host.hardware
