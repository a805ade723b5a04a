"""The work of one layer on a DPU core: against loops that walk the tiles, and PG338's limits."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulation.performance.dpu import DPU_ARCHS, DpuArch
from harness.emulation.performance.dpu_layers import Work, software_reason, works
from harness.emulation.performance.layers import LayerShape, NetworkShape, Volume
from tests.harness.emulation.performance.networks import node, shape_of, weights

B4096, B1600 = DPU_ARCHS["B4096"], DPU_ARCHS["B1600"]


def conv(first: Volume, channels: int, kernel: tuple[int, int], out: tuple[int, int], **more: int) -> LayerShape:
    stride, groups = more.get("stride", 1), more.get("groups", 1)
    count = first.channels // groups * channels * kernel[0] * kernel[1]
    return LayerShape(
        "c", "Conv", "conv", (first,), Volume(channels, *out), ("",), ("c",),
        kernel=kernel, strides=(stride, stride), groups=groups, weights=count, macs=count * out[0] * out[1],
    )  # fmt: skip


def work(layer: LayerShape, arch: DpuArch = B4096) -> Work:
    found = works(NetworkShape((layer,), {"x": layer.inputs[0]}, (layer.name,)), arch)[layer.name]
    assert isinstance(found, Work)
    return found


def walked(layer: LayerShape, arch: DpuArch) -> int:
    """One cycle for each tile of pixels, input and output channels, and each tap: counted by walking them."""
    rows = range(layer.output.height)
    columns = range(0, layer.output.width, arch.pixels)
    taps = itertools.product(range(layer.kernel[0]), range(layer.kernel[1]))
    depth = range(0, layer.inputs[0].channels, arch.input_channels)
    wide = range(0, layer.output.channels, arch.output_channels)
    return sum(1 for _ in itertools.product(rows, columns, taps, depth, wide))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(DPU_ARCHS)),
    st.integers(9, 40),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 20),
)
def test_a_convolution_takes_a_cycle_a_tile(name: str, inputs: int, outputs: int, kernel: int, h: int, w: int) -> None:
    layer = conv(Volume(inputs, h, w), outputs, (kernel, kernel), (h, w))
    found = work(layer, DPU_ARCHS[name])
    assert found.array_cycles == walked(layer, DPU_ARCHS[name])
    assert found.array_cycles * DPU_ARCHS[name].macs_per_cycle >= layer.macs
    assert found.moved_bytes == layer.weights + inputs * h * w + outputs * h * w


def test_idle_input_lanes_take_columns_of_the_kernel() -> None:
    # 3 channels on 16 lanes: 5 columns at once, so a kernel of 7 takes 2 steps across
    first = conv(Volume(3, 224, 224), 64, (7, 7), (112, 112), stride=2)
    assert work(first).array_cycles == 112 * 14 * 7 * 2 * 4
    # 8 channels are half of 16: two columns at once
    assert work(conv(Volume(8, 8, 8), 16, (3, 3), (8, 8))).array_cycles == 8 * 1 * 3 * 2
    assert work(conv(Volume(9, 8, 8), 16, (3, 3), (8, 8))).array_cycles == 8 * 1 * 3 * 3


def test_rows_that_a_stride_skips_are_not_read() -> None:
    skipping = work(conv(Volume(16, 8, 8), 16, (1, 1), (4, 4), stride=2))
    assert skipping.moved_bytes == 256 + 16 * 64 / 2 + 16 * 16
    assert work(conv(Volume(16, 8, 8), 16, (3, 3), (4, 4), stride=2)).moved_bytes == 2304 + 16 * 64 + 16 * 16


def test_groups_run_one_after_the_other() -> None:
    whole = work(conv(Volume(64, 8, 8), 64, (1, 1), (8, 8)))
    halves = work(conv(Volume(64, 8, 8), 64, (1, 1), (8, 8), groups=2))
    assert (whole.array_cycles, halves.array_cycles) == (8 * 4 * 4, 2 * 8 * 2 * 2)


def test_the_other_unit_works_on_half_the_pixels(tmp_path: Path) -> None:
    network = shape_of(
        tmp_path,
        [
            node("MaxPool", ["x"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["pool", "w"], "deep", group=20, pads=[1, 1, 1, 1]),
            node("Add", ["pool", "deep"], "sum"),
            node("Concat", ["sum", "deep"], "cat", axis=1),
            node("GlobalAveragePool", ["cat"], "mean"),
            node("Flatten", ["mean"], "flat"),
            node("Gemm", ["flat", "g"], "dense"),
        ],
        [weights("w", 20, 1, 3, 3), weights("g", 40, 10)],
        (1, 20, 12, 20),
    )
    found = {name: one for name, one in works(network, B4096).items() if isinstance(one, Work)}
    steps = 6 * 3 * 2  # 6 rows, 10 columns by 4, 20 channels by 16
    assert found["pool"].side_cycles == 4 * steps
    assert found["deep"].side_cycles == 9 * steps
    assert found["sum"].side_cycles == 2 * steps
    assert found["mean"].side_cycles == 60 * 1 * 1 * 3
    assert found["dense"].array_cycles == 3 * 1  # 40 inputs by 16, 10 outputs by 16
    assert found["cat"] == found["flat"] == Work()
    assert found["dense"].moved_bytes == 400 + 40 + 10
    assert sum(one.launches for one in found.values()) == 5


def test_a_depthwise_layer_takes_a_small_map_from_the_chip(tmp_path: Path) -> None:
    def moved(size: int, *, twice: bool) -> tuple[float, float]:
        nodes = [node("Conv", ["x", "w"], "wide"), node("Conv", ["wide", "d"], "deep", group=64)]
        if twice:
            nodes.append(node("Relu", ["wide"], "also"))
        outputs = ("deep", "also") if twice else ("deep",)
        constants = [weights("w", 64, 16, 1, 1), weights("d", 64, 1, 1, 1)]
        found = works(shape_of(tmp_path, nodes, constants, (1, 16, size, size), *outputs), B4096)
        wide, deep = found["wide"], found["deep"]
        assert isinstance(wide, Work)
        assert isinstance(deep, Work)
        return wide.moved_bytes, deep.moved_bytes

    given, made = 16 * 100**2, 64 * 100**2
    assert moved(100, twice=False) == (1024 + given, 64 + made)
    assert moved(100, twice=True) == (1024 + given + made, 64 + 2 * made)
    given, made = 16 * 150**2, 64 * 150**2  # 1.44 MB
    assert moved(150, twice=False) == (1024 + given + made, 64 + 2 * made)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (conv(Volume(16, 32, 32), 16, (17, 1), (16, 32)), "kernel 17 x 1, a DPU takes 16"),
        (conv(Volume(16, 90, 90), 16, (9, 9), (9, 9), stride=9), "stride 9, a DPU takes 8"),
        (conv(Volume(4097, 1, 1), 16, (1, 1), (1, 1)), "4097 input channels .times dilation., B4096 takes 4096"),
        (conv(Volume(16, 8, 8), 16, (3, 3), (8, 8)), None),
        (conv(Volume(4096, 1, 1), 16, (1, 1), (1, 1)), None),
    ],
)
def test_limits_of_a_convolution(layer: LayerShape, says: str | None) -> None:
    reason = software_reason(layer, B4096)
    if says is None:
        assert reason is None
    else:
        assert re.search(says, reason or "")


def test_what_is_left_to_the_processor(tmp_path: Path) -> None:
    network = shape_of(
        tmp_path,
        [
            node("Conv", ["x", "w"], "conv"),
            node("Sigmoid", ["conv"], "gate"),
            node("Mul", ["conv", "gate"], "scaled"),
            node("HardSwish", ["scaled"], "swish"),
            node("LRN", ["swish"], "lrn", size=3),
            node("Transpose", ["lrn"], "turned", perm=[0, 2, 3, 1]),
            node("Flatten", ["turned"], "flat"),
            node("Gemm", ["flat", "g"], "dense"),
            node("Softmax", ["dense"], "soft"),
        ],
        [weights("w", 8, 3, 1, 1), weights("g", 128, 4)],
        (1, 3, 4, 4),
    )
    found = works(network, B1600)
    assert {name for name, one in found.items() if isinstance(one, str)} == {"gate", "lrn", "turned", "soft"}
    assert found["gate"] == "a DPU has no Sigmoid"
    assert found["soft"] == "a DPU has no Softmax"


def test_a_product_of_activations_and_a_giant_vector_are_software(tmp_path: Path) -> None:
    network = shape_of(tmp_path, [node("MatMul", ["x", "x"], "square")], [], (1, 6, 6))
    assert works(network, B4096)["square"] == "a product of two activations"
    large = LayerShape(
        "g", "Gemm", "fc", (Volume(20481),), Volume(1), ("",), ("g",), weights=20481, macs=20481
    )  # fmt: skip
    assert software_reason(large, B1600) == "20481 inputs, B1600 takes 20480"
    assert software_reason(large, B4096) is None
