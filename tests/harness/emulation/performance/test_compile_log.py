"""The compile log tells what the model says: layers, notices, groups, memory."""

from __future__ import annotations

import re
from pathlib import Path

from harness.emulation.performance.estimate import compile_log, estimate_network, find_device
from harness.emulation.performance.layers import NetworkShape
from harness.emulation.performance.processors import PROCESSORS
from tests.harness.emulation.performance.networks import node, shape_of, weights


def branched(folder: Path) -> NetworkShape:
    return shape_of(
        folder,
        [
            node("Conv", ["x", "w"], "first", pads=[1, 1, 1, 1]),
            node("Relu", ["first"], "relu"),
            node("Conv", ["relu", "v"], "second", pads=[1, 1, 1, 1], dilations=[1, 1], group=2),
            node("Add", ["second", "relu"], "sum"),
            node("GlobalAveragePool", ["sum"], "pool"),
            node("Flatten", ["pool"], "flat"),
            node("Gemm", ["flat", "f"], "fc"),
            node("Softmax", ["fc"], "softmax"),
        ],
        [weights("w", 4, 3, 3, 3), weights("v", 4, 2, 3, 3), weights("f", 4, 2)],
        (1, 3, 8, 8),
    )


def test_logonet(logonet_shape: NetworkShape) -> None:
    lines = compile_log(logonet_shape, PROCESSORS["zcu102_int8"])
    assert lines[0].startswith("Compiling the network for zcu102_int8: int8, 64/16 threads")
    assert lines[-1] == "Compiled"
    layers = [line for line in lines if line.endswith(("(HW)", "(SW)"))]
    assert [int(line.split()[0]) for line in layers] == list(range(1, 17))
    software = [line.split()[1] for line in layers if line.endswith("(SW)")]
    assert software == ["data", "imageinput_norm", "softmax", "output"]
    assert re.search(r"conv_4 +Conv\+Relu 128 kernels 3x3 stride 2x2 +\(HW\)", "\n".join(layers))
    notices = [line for line in lines if line.startswith("Notice")]
    assert [re.findall("'(.*?)'", line)[0] for line in notices] == ["imageinput_norm", "flatten", "softmax"]
    groups = [line for line in lines if line.startswith("Layer group")]
    assert [line.split()[3] for line in groups] == ["conv_1>>maxpool_4", "fc_1>>fc_3"]
    memory = [line.split() for line in lines if "0x" in line]
    assert memory[0][:3] == ["InputData", "0x00000000", "12,451,840"]
    assert memory[-1][:3] == ["End", "0x02d40000", "47,448,064"]
    assert all(("estimated" in row) == (row[0] not in {"InputData", "FCWeightData", "End"}) for row in memory)
    assert all("\n" not in line for line in lines)


def test_the_same_network_gives_the_same_lines(tmp_path: Path) -> None:
    network = branched(tmp_path)
    device = find_device(bitstream="zcu102_single")
    assert compile_log(network, device) == compile_log(network, device)


def test_cycles_of_the_groups_add_up_to_the_networks(tmp_path: Path) -> None:
    found = estimate_network(branched(tmp_path), PROCESSORS["zcu102_single"])
    groups = [line for line in found.compile_log if line.startswith("Layer group")]
    assert [line.split()[3] for line in groups] == ["first", "second", "sum", "pool", "fc"]
    assert found.cycles is not None
    cycles = [int(re.findall(r"([\d,]+) cycles", line)[0].replace(",", "")) for line in groups]
    assert abs(sum(cycles) - found.cycles) < len(groups)


def test_a_dpus_log_has_layers_and_groups_and_no_memory_map(tmp_path: Path) -> None:
    lines = compile_log(branched(tmp_path), find_device(dpu="B4096", board="zcu102"))
    assert "B4096" in lines[0]
    assert any("softmax" in line and line.endswith("(SW)") for line in lines)
    assert any(line.startswith("Layer group 1") for line in lines)
    assert not any("0x" in line for line in lines)
