"""An agent that serves a board from a tree of files: identity and telemetry over gRPC."""

from __future__ import annotations

import pytest

from agents.boards.jetson import Jetson
from agents.boards.pool import SamplerPool
from agents.protocol import agent_pb2 as pb
from tests.agents.boards.conftest import Tree
from tests.agents.boards.test_jetson_board import FILES, OC, TEGRASTATS
from tests.agents.conftest import StartAgent, is_running, wait_for


def test_a_jetson_over_grpc(tree: Tree, start_agent: StartAgent) -> None:
    tree.put(FILES)
    tree.tool("nvpmodel", "echo 'NV Power Mode: 15W'; echo 0")
    tree.tool("tegrastats", f'echo $$ > "{tree.root}/pid"\n' + TEGRASTATS)
    agent = start_agent("--board", "jetson-orin-nano", "--board-root", str(tree.root))
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert board.board == "jetson-orin-nano"
    assert board.model.startswith("NVIDIA Jetson Orin Nano")
    assert (board.details["jetpack"], board.details["power_mode"]) == ("6.2", "15W")

    stream = agent.stub.StreamTelemetry(pb.TelemetryRequest(interval_s=0.1), timeout=120)
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


def test_what_happens_between_two_streams_is_told_and_nothing_runs_there(tree: Tree, start_agent: StartAgent) -> None:
    """As a host samples: a short stream before and after each block."""
    tree.put(FILES)
    tree.tool("tegrastats", f'echo $$ > "{tree.root}/pid"\n' + TEGRASTATS)
    agent = start_agent("--board", "jetson-orin-nano", "--board-root", str(tree.root))

    def one() -> pb.TelemetrySample:
        request = pb.TelemetryRequest(interval_s=0.1, duration_s=0.1)
        (sample,) = agent.stub.StreamTelemetry(request, timeout=120)
        pid = int((tree.root / "pid").read_text())
        wait_for(lambda: not is_running(pid), "the end of tegrastats")
        return sample

    assert not one().throttled
    tree.put({f"{OC}/oc2_event_cnt": "18\n", "proc/stat": "cpu0 100 0 50 1000 150 0 0 0 0 0\n"})
    sample = one()
    assert list(sample.throttled_by) == ["average over-current (3 events)"]
    assert sample.gpu_percent == 99  # the tool was started again
    assert not one().throttled


def test_a_later_host_is_not_told_what_happened_before_it_came(tree: Tree) -> None:
    tree.put(FILES)
    now_s = 0.0
    pool = SamplerPool(Jetson("jetson-orin-nano", tree.sources), lambda: now_s)

    def throttled(interval_s: float = 0.5) -> bool | None:
        with pool.lend(interval_s) as sampler:
            return sampler.sample().throttled

    events = iter(range(100, 200))

    def happens() -> None:
        tree.put({f"{OC}/oc3_event_cnt": f"{next(events)}\n"})

    assert throttled() is False
    happens()
    now_s += 100
    assert throttled() is True
    happens()
    now_s += 121
    assert throttled() is False
    happens()
    assert throttled(1.0) is False  # another rhythm, another watch
    happens()
    with pool.lend(1.0, "another host") as sampler:
        assert sampler.sample().throttled is False
    with pool.lend(1.0) as first, pool.lend(1.0) as second:
        assert first is not second  # two streams at one time
