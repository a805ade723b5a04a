"""External memory: byte for byte the two published maps, and what must hold of any."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.emulation.performance.layers import LayerShape, NetworkShape, Volume
from harness.emulation.performance.memory_map import MemoryMap, memory_map
from harness.emulation.performance.processors import PROCESSORS, find_processor
from harness.emulation.performance.reading import read_shape
from tests.harness.emulation.performance.networks import VECTORS, mnist_fc, node, shape_of, weights

INT8, ARRIA = PROCESSORS["zcu102_int8"], PROCESSORS["arria10soc_single"]


def published(network: str) -> list[tuple[str, int, int]]:
    with (VECTORS / "mathworks_memory_map.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == network]
    return [(row["buffer"], int(row["offset"], 16), int(row["bytes"])) for row in rows]


def laid_out(found: MemoryMap) -> list[tuple[str, int, int]]:
    return [(buffer.name, buffer.offset_bytes, buffer.size_bytes) for buffer in found.buffers]


def check_whole(found: MemoryMap) -> None:
    end = 0
    for buffer in found.values():
        assert buffer.offset_bytes == end
        assert buffer.size_bytes > 0
        assert buffer.size_bytes % found.page_bytes == 0
        assert buffer.note
        end += buffer.size_bytes
    assert end == found.total_bytes


def test_logonet_on_zcu102_int8(logonet_shape: NetworkShape) -> None:
    found = memory_map(logonet_shape, INT8)
    assert found["InputData"].size_bytes == 12_451_840
    assert found["FCWeightData"].size_bytes == 10_878_976
    assert laid_out(found) == published("LogoNet")
    assert {name for name, buffer in found.items() if buffer.basis == "rule"} == {"InputData", "FCWeightData"}
    check_whole(found)


@pytest.mark.parametrize("shape", [("N", 1, 28, 28), ("N", 28, 28), ("N", 784)])
def test_mnist_on_arria10soc_single(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    found = memory_map(read_shape(mnist_fc(tmp_path / "m.onnx", shape)), ARRIA)
    assert found["InputData"].size_bytes == 376_832
    assert found["FCWeightData"].size_bytes == 815_104
    assert laid_out(found) == published("MNIST-FC")
    assert "ConvWeightData" not in found
    check_whole(found)


def test_sizes_without_a_rule_are_called_estimated(logonet_shape: NetworkShape) -> None:
    found = memory_map(logonet_shape, INT8)
    for name in ("OutputResult", "SchedulerData", "SystemBuffer", "InstructionData", "ConvWeightData"):
        assert (found[name].basis, found[name].note.partition(":")[0]) == ("estimated", "no published rule")


def test_a_page_that_no_map_shows_is_said_to_be_taken_from_elsewhere(logonet_shape: NetworkShape) -> None:
    assert "no map of zcu102_single" in memory_map(logonet_shape, PROCESSORS["zcu102_single"]).page_source


def test_an_input_with_channels_last_is_stored_as_an_image(tmp_path: Path) -> None:
    last = shape_of(
        tmp_path,
        [node("Transpose", ["x"], "turned", perm=[0, 3, 1, 2]), node("Conv", ["turned", "w"], "conv")],
        [weights("w", 8, 3, 3, 3)],
        (1, 40, 50, 3),
    )
    first = shape_of(tmp_path, [node("Conv", ["x", "w"], "conv")], [weights("w", 8, 3, 3, 3)], (1, 3, 40, 50))
    assert laid_out(memory_map(last, INT8)) == laid_out(memory_map(first, INT8))
    assert memory_map(first, INT8)["InputData"].size_bytes == -(-30 * 40 * 50 * 8 // 131_072) * 131_072


def test_a_bias_in_a_node_of_its_own_counts_as_the_layers(tmp_path: Path) -> None:
    # the weights fill whole pages of 4 KiB, so biases begin another
    constants = [weights("w", 1024, 1020), weights("wt", 1020, 1024), weights("b", 1020)]
    split = shape_of(
        tmp_path, [node("MatMul", ["x", "w"], "fc"), node("Add", ["fc", "b"], "bias")], constants, (1, 1024)
    )
    whole = shape_of(tmp_path, [node("Gemm", ["x", "wt", "b"], "fc", transB=1)], constants, (1, 1024))
    none = shape_of(tmp_path, [node("MatMul", ["x", "w"], "fc")], constants, (1, 1024))
    sizes = [memory_map(network, ARRIA)["FCWeightData"].size_bytes for network in (split, whole, none)]
    padded = 1024 * 4 * 1020 * 4  # a vector takes a place of four values for each of its own
    assert sizes == [padded + 4096, padded + 4096, padded]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 40),
    side=st.integers(3, 60),
    outputs=st.integers(1, 90),
    root=st.integers(1, 9),
    bitstream=st.sampled_from(sorted(PROCESSORS)),
)
def test_any_map_is_gapless_and_its_input_holds_thirty_frames(
    channels: int, side: int, outputs: int, root: int, bitstream: str
) -> None:
    image = Volume(channels, side, side)
    layer = LayerShape(
        "conv", "Conv", "conv", (image,), Volume(outputs, side - 2, side - 2), ("",), ("conv",), kernel=(3, 3)
    )
    processor = find_processor(bitstream, conv_threads=root**2)
    found = memory_map(NetworkShape((layer,), {"x": image}, ("conv",)), processor)
    check_whole(found)
    groups = (channels + root - 1) // root
    frames = 30 * side * side * groups * root * processor.element_bytes
    assert 0 <= found["InputData"].size_bytes - frames < processor.page_bytes
    assert found["ConvWeightData"].size_bytes >= 9 * channels * outputs * processor.element_bytes
