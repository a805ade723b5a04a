"""An agent that serves a board from a tree of files: identity and telemetry over gRPC."""

from __future__ import annotations

import pytest

from agents.protocol import agent_pb2 as pb
from tests.agents.boards.conftest import Tree
from tests.agents.boards.test_jetson_board import FILES, OC, TEGRASTATS
from tests.agents.conftest import StartAgent, is_running, wait_for


def test_a_jetson_over_grpc(tree: Tree, start_agent: StartAgent) -> None:
    tree.put(FILES)
    tree.tool("nvpmodel", "echo 'NV Power Mode: 15W'; echo 0")
    tree.tool("tegrastats", f'echo $$ > "{tree.root}/pid"\n' + TEGRASTATS)
    agent = start_agent("--board", "jetson-orin-nano", "--board-root", str(tree.root))
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=30)
    assert board.board == "jetson-orin-nano"
    assert board.model.startswith("NVIDIA Jetson Orin Nano")
    assert (board.details["jetpack"], board.details["power_mode"]) == ("6.2", "15W")

    stream = agent.stub.StreamTelemetry(pb.TelemetryRequest(interval_s=0.1), timeout=20)
    sample = next(stream)
    assert (sample.gpu_percent, sample.total_power_mw, sample.total_power_rail) == (99, 16321, "VDD_IN")
    assert [load.percent if load.HasField("percent") else None for load in sample.cpu] == [38, None, 1]
    assert sample.HasField("throttled")
    assert not sample.throttled
    tree.put({f"{OC}/oc3_event_cnt": "38\n"})
    throttled = next(sample for sample in stream if sample.throttled)
    assert list(throttled.throttled_by) == ["instantaneous over-current (1 events)"]
    assert throttled.clocks_mhz["gpu"] == pytest.approx(612)
    pid = int((tree.root / "pid").read_text())
    assert is_running(pid)
    stream.cancel()
    wait_for(lambda: not is_running(pid), "the end of tegrastats")
