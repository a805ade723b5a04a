"""Parts of the agent alone: who computes when, control groups by their files, frames, providers."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper

from agents.faults import AgentError, Fault, one_line
from agents.frames import MAX_FRAME_BYTES, Channel, ChannelClosed, ChannelTimeout, Kind
from agents.limits import GroupLimiter
from agents.limits import _start_ticks as start_ticks
from agents.protocol import agent_pb2 as pb
from agents.quiet import Quiet
from agents.runtimes import describe_all, load_runtime
from agents.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from agents.runtimes.ort_session import really_used
from agents.timing import check_block, time_block, warm_up, with_defaults
from tests.agents.conftest import model_bytes, relu_bytes


def always() -> bool:
    return True


def test_a_block_runs_alone_and_is_not_starved() -> None:
    quiet = Quiet()
    running: list[str] = []
    seen: list[list[str]] = []
    stop = threading.Event()

    def batches() -> None:
        while not stop.is_set():
            with quiet.shared(always):
                running.append("batch")
                running.remove("batch")

    threads = [threading.Thread(target=batches) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        with quiet.alone(always):
            seen.append(list(running))
    stop.set()
    for thread in threads:
        thread.join(60)
    assert seen == [[]] * 50


def test_batches_share() -> None:
    quiet = Quiet()
    with quiet.shared(always), quiet.shared(always):
        pass


def test_whoever_leaves_while_waiting_holds_up_nobody() -> None:
    quiet = Quiet()

    def gone() -> bool:
        return False

    with quiet.shared(always):
        with pytest.raises(AgentError) as left, quiet.alone(gone):
            pass
        assert left.value.fault is Fault.TIMED_OUT
        with quiet.shared(always):  # not kept out by the one who wanted to be alone
            pass


def test_a_group_of_version_2_by_its_files(tmp_path: Path) -> None:
    """What is written where, by the kernel's cgroup-v2 document; a plain directory takes the place of cgroupfs.

    A kernel's own answer is in test_row_19, on machines that have such a hierarchy.
    """
    limit = GroupLimiter("cgroup-v2", tmp_path).limit(700 << 20)
    (group,) = tmp_path.iterdir()
    assert group.name.startswith(f"quantrig-{os.getpid()}-")
    written = {path.name: path.read_text() for path in group.iterdir()}
    assert written == {"memory.max": str(700 << 20), "memory.swap.max": "0", "memory.oom.group": "1"}
    limit.apply(1234)
    assert (group / "cgroup.procs").read_text() == "1234"
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert not limit.exceeded()
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert limit.exceeded()


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def test_frames_of_any_size_arrive_whole() -> None:
    near, far = pair()
    other = Channel(far)
    for size in (0, 1, 5, 1 << 20, MAX_FRAME_BYTES):
        payload = os.urandom(size)
        sender = threading.Thread(target=near.send, args=(Kind.PART, payload, time.monotonic() + 60))
        sender.start()
        frame = other.receive(time.monotonic() + 60)
        sender.join()
        assert (frame.kind, frame.payload) == (Kind.PART, payload)
    with pytest.raises(ChannelClosed):
        near.send(Kind.PART, bytes(MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize("header", [struct.pack("<BI", 4, MAX_FRAME_BYTES + 1), struct.pack("<BI", 99, 0)])
def test_a_child_cannot_make_the_agent_take_in_what_is_no_frame(header: bytes) -> None:
    near, far = pair()
    far.sendall(header)
    with pytest.raises(ChannelClosed):
        near.receive(time.monotonic() + 60)


def test_a_silent_or_closed_channel() -> None:
    near, far = pair()
    with pytest.raises(ChannelTimeout):
        near.receive(time.monotonic() + 0.05)

    def send_until_full() -> None:  # nobody reads
        while True:
            near.send(Kind.PART, bytes(1 << 20), time.monotonic() + 0.2)

    with pytest.raises(ChannelTimeout):
        send_until_full()
    far.close()
    with pytest.raises(ChannelClosed):
        near.receive(time.monotonic() + 60)


def test_errors_cross_the_channel() -> None:
    near, far = pair()
    near.send_error(AgentError(Fault.REFUSED, "no\nsuch\tthing"))
    error = Channel(far).receive(time.monotonic() + 60).error()
    assert (error.fault, error.message) == (Fault.REFUSED, "no such thing")


def test_messages_are_one_short_line() -> None:
    assert one_line("a\r\n\x1b[31m b\u2028c\0") == "a [31m b c"
    assert len(one_line("x" * 10_000)) == 600


def test_a_provider_without_any_use_is_refused() -> None:
    """A session of ONNX Runtime that registers a provider which then gets no node."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    available = onnxruntime.get_available_providers()
    if "AzureExecutionProvider" not in available:
        pytest.skip("this build has only one provider")
    wanted = ["AzureExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(relu_bytes(), settings, providers=wanted)
    assert session.get_providers() == wanted
    with pytest.raises(AgentError, match="provider AzureExecutionProvider would run no part of this network"):
        really_used(session, wanted)
    assert really_used(session, ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]


def test_networks_whose_tensors_cannot_travel() -> None:
    data = model_bytes(
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])],
    )
    with pytest.raises(AgentError, match=r"input x is of type tensor\(string\), which cannot travel"):
        OnnxRuntimeCpu().load(data, pb.SessionOptions())


def test_a_runtime_that_cannot_be_imported_is_described_with_its_problem() -> None:
    with pytest.raises(AgentError, match="the runtime no_such_module:Runtime cannot be loaded: ModuleNotFoundError"):
        load_runtime("no_such_module:Runtime")
    described = describe_all()[0]
    assert (described["name"], described["problem"]) == ("onnxruntime", "")


def test_defaults_of_a_warm_up() -> None:
    full = with_defaults(pb.WarmUpRequest(network_id="n", min_iterations=3))
    assert (full.min_iterations, full.min_duration_s, full.max_duration_s) == (3, 2.0, 60.0)
    assert (full.window_s, full.tolerance) == (1.0, 0.02)
    for field in ("min_duration_s", "max_duration_s", "window_s", "tolerance"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(AgentError, match=field):
                with_defaults(pb.WarmUpRequest(**{field: value}))  # type: ignore[arg-type]


def test_a_falling_latency_is_not_steady_and_a_constant_one_is() -> None:
    def spin(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    durations = iter(np.geomspace(0.02, 0.001, 40))
    request = pb.WarmUpRequest(min_iterations=1, min_duration_s=0.01, max_duration_s=0.3, window_s=0.02, tolerance=0.01)
    falling = warm_up(lambda: spin(next(durations, 0.001)), request)
    assert falling.duration_s <= 2.0
    request.tolerance, request.max_duration_s = 0.2, 60
    assert warm_up(lambda: spin(0.004), request).steady


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"min_iterations": 5, "max_iterations": 4}, "min_iterations 5 is more than max_iterations 4"),
        ({"max_iterations": 100_001}, "at most 100000"),
        ({"min_iterations": 100_001}, "more than max_iterations 100000"),
        ({"min_duration_s": -1.0}, "min_duration_s"),
        ({"min_duration_s": float("nan")}, "min_duration_s"),
    ],
)
def test_blocks_that_cannot_be(fields: dict[str, float], text: str) -> None:
    with pytest.raises(AgentError, match=text):
        check_block(pb.TimeBlockRequest(**fields))  # type: ignore[arg-type]


def test_a_block_of_known_latencies() -> None:
    """Every inference of 1 ms is one sample of at least that, and nothing is added or lost."""
    ran = 0

    def one_millisecond() -> None:
        nonlocal ran
        ran += 1
        end = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < end:
            pass

    block = time_block(one_millisecond, check_block(pb.TimeBlockRequest(min_duration_s=0.05)), 3)
    assert len(block.latency_ns) == ran <= 50
    assert min(block.latency_ns) >= 1_000_000
    assert float(np.quantile(block.latency_ns, 0.25)) < 1_100_000  # the others may have been interrupted
    assert block.duration_s >= 0.05
    assert block.batch_size == 3
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert block.peak_memory_bytes <= int(peak.split()[1]) * 1024


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    """Ticks since boot, of the kernel's own account (the process's creation as psutil computes it, in whole ticks)."""
    me = psutil.Process()
    ticks = (me.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")
    assert abs(int(start_ticks(os.getpid())) - ticks) <= os.sysconf("SC_CLK_TCK")  # boot time is whole seconds
    assert start_ticks(2**22 + 1) == ""  # beyond the largest pid of Linux (PID_MAX_LIMIT)
