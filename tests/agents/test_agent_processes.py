"""Children that crash, hang, take too much, or are left behind: the agent serves on and nothing remains.

Rows 16, 19, 25 and 26 of docs/security.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agents.limits import choose_limiter, remove_leftovers
from agents.protocol import agent_pb2 as pb
from agents.protocol import agent_pb2_grpc as rpc
from tests.agents.conftest import (
    AgentProcess,
    Array,
    StartAgent,
    convolution_bytes,
    failure,
    filled_bytes,
    infer_requests,
    is_running,
    kill_hard,
    product_bytes,
    relu_bytes,
    tensor_parts,
    wait_for,
)

ONES = np.ones((1, 4), "float32")


def serves(agent: AgentProcess) -> bool:
    """Health and a small network."""
    health = health_pb2_grpc.HealthStub(agent.channel)
    for service in ("", "quantrig.agent.v1.Agent"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    ready = agent.prepare(relu_bytes("serves"))
    (got,) = agent.infer(ready.network_id, [{"serves": -ONES}])
    agent.stub.Unload(pb.UnloadRequest(network_id=ready.network_id), timeout=60)
    return bool((got["y"] == 0).all())


def slow_input(seconds: float) -> dict[str, Array]:
    """An input that keeps `product_bytes(64)` busy for roughly that long on one core of 50 GFLOP/s."""
    size = int((seconds * 50e9 / (2 * 64)) ** (1 / 3))
    return {"x": np.eye(size, dtype="float32")}


def test_health_and_reflection_are_the_standard_ones(agent: AgentProcess) -> None:
    health = health_pb2_grpc.HealthStub(agent.channel)
    assert failure(lambda: health.Check(health_pb2.HealthCheckRequest(service="other")))[0] is grpc.StatusCode.NOT_FOUND
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = reflection_pb2_grpc.ServerReflectionStub(agent.channel).ServerReflectionInfo(iter([request]))
    names = {service.name for service in reply.list_services_response.service}
    assert {"quantrig.agent.v1.Agent", "grpc.health.v1.Health"} <= names
    assert serves(agent)


def test_a_child_killed_in_the_middle_of_a_batch(agent: AgentProcess) -> None:
    ready = agent.prepare(product_bytes(64), intra_op_threads=1)
    child = max(agent.children())
    replies = agent.stub.Infer(infer_requests(ready.network_id, [slow_input(20)]), timeout=60)
    wait_for(lambda: cpu_seconds(child) > 1.0, "the batch under way")
    kill_hard(child)
    code, text = failure(lambda: list(replies))
    assert code is grpc.StatusCode.ABORTED
    assert "crashed: killed by SIGKILL" in text
    # Remembered for whoever asks later; another network, and this one again, work.
    for call in (
        lambda: agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id)),
        lambda: agent.infer(ready.network_id, [slow_input(0.001)]),
    ):
        code, text = failure(call)
        assert code is grpc.StatusCode.ABORTED
        assert f"network {ready.network_id} crashed: killed by SIGKILL" in text
    assert serves(agent)
    again = agent.prepare(product_bytes(64), intra_op_threads=1)
    assert again.network_id != ready.network_id
    assert not again.already_loaded
    for network_id in (ready.network_id, again.network_id):
        agent.stub.Unload(pb.UnloadRequest(network_id=network_id))
    wait_for(lambda: not agent.children(), "end of all children")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_batch_past_its_limit_ends_its_child_only(start_agent: StartAgent) -> None:
    agent = start_agent("--batch-timeout-s", "1.5")
    ready = agent.prepare(product_bytes(64), intra_op_threads=1)
    began = time.monotonic()
    code, text = failure(lambda: agent.infer(ready.network_id, [slow_input(60)]))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the batch ran past its limit of 1.5 s: its process was ended; prepare the network again" in text
    assert time.monotonic() - began < 60  # the batch would take many minutes
    assert failure(lambda: agent.infer(ready.network_id, [slow_input(0.01)]))[0] is grpc.StatusCode.ABORTED
    assert serves(agent)
    assert not agent.children()


def test_a_block_past_its_limit_ends_its_child_only(start_agent: StartAgent) -> None:
    agent = start_agent("--batch-timeout-s", "2")
    ready = agent.prepare(product_bytes(64), intra_op_threads=1)
    agent.load_inputs(ready.network_id, slow_input(1))
    os.kill(max(agent.children()), signal.SIGSTOP)  # a child that hangs
    code, text = failure(lambda: agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id)))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the block ran past its limit of 2 s" in text
    assert serves(agent)


def test_preparing_past_its_limit_ends_the_child(start_agent: StartAgent) -> None:
    agent = start_agent("--prepare-timeout-s", "0.02")
    digest = agent.upload(relu_bytes())
    code, text = failure(lambda: agent.prepare_events(digest))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "preparing ran past its limit of 0.02 s" in text
    wait_for(lambda: not agent.children(), "end of the child")
    assert not agent.stub.Describe(pb.DescribeRequest()).loaded


def test_a_cancelled_stream_leaves_the_network_usable(agent: AgentProcess) -> None:
    ready = agent.prepare(convolution_bytes(seed=9))
    batch = {"x": np.zeros((200, 3, 16, 16), "float32")}
    for after in range(4):
        stop = threading.Event()

        def requests(after: int = after, stop: threading.Event = stop) -> Iterator[pb.InferRequest]:
            whole = list(infer_requests(ready.network_id, [batch] * 3))
            yield from whole[: 1 + after]  # after 0: nothing but the id; 1..3: in the middle of a batch
            stop.wait(60)

        replies = agent.stub.Infer(requests())
        wait_for(lambda: agent.stub.Describe(pb.DescribeRequest()).loaded, "the network")
        replies.cancel()
        stop.set()
        (got,) = agent.infer(ready.network_id, [{"x": batch["x"][:1]}])
        assert got["y"].shape == (1, 10)


def test_a_host_that_leaves_during_a_block_stops_it(agent: AgentProcess) -> None:
    ready = agent.prepare(convolution_bytes(seed=9))
    agent.load_inputs(ready.network_id, {"x": np.zeros((1, 3, 16, 16), "float32")})
    began = time.monotonic()
    for _ in range(3):
        code, _ = failure(
            lambda: agent.stub.TimeBlock(
                pb.TimeBlockRequest(network_id=ready.network_id, min_iterations=99_999, min_duration_s=60), timeout=0.3
            )
        )
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    block = agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id, min_iterations=3, max_iterations=3))
    assert len(block.latency_ns) == 3
    assert time.monotonic() - began < 60  # not three minutes


def test_a_host_that_leaves_during_prepare_leaves_no_child(agent: AgentProcess) -> None:
    before = set(agent.children())
    digest = agent.upload(relu_bytes("leaver"))
    events = agent.stub.Prepare(pb.PrepareRequest(digest=digest))
    wait_for(lambda: set(agent.children()) - before, "the child")
    events.cancel()
    wait_for(lambda: set(agent.children()) <= before, "its end")
    assert digest not in {network.digest for network in agent.stub.Describe(pb.DescribeRequest()).loaded}


def test_a_stalled_host_is_cut_off(start_agent: StartAgent) -> None:
    agent = start_agent("--host-timeout-s", "2")
    ready = agent.prepare(relu_bytes())
    never = threading.Event()

    def stalled() -> Iterator[pb.InferRequest]:
        yield pb.InferRequest(network_id=ready.network_id)
        never.wait(60)

    replies = agent.stub.Infer(stalled(), timeout=60)
    assert failure(lambda: list(replies))[0] is grpc.StatusCode.CANCELLED
    never.set()
    assert agent.infer(ready.network_id, [{"x": ONES}])


def test_children_die_with_a_killed_agent(start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.prepare(relu_bytes())
    ready = agent.prepare(product_bytes(64), intra_op_threads=1)
    children = agent.children()
    assert len(children) == 2
    busy = agent.stub.Infer(infer_requests(ready.network_id, [slow_input(60)]))
    wait_for(lambda: max(cpu_seconds(pid) for pid in children) > 1.0, "a batch under way")
    agent.process.kill()
    wait_for(lambda: not any(is_running(pid) for pid in children), "death of the children")
    busy.cancel()
    assert len(list((agent.data_dir / "homes").iterdir())) == 2  # nobody was left to remove them
    again = start_agent(data_dir=agent.data_dir)
    again.stub.Describe(pb.DescribeRequest(), timeout=120)
    wait_for(lambda: not list((agent.data_dir / "homes").iterdir()), "removal by the next agent")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
def test_a_clean_stop_with_a_batch_under_way(start_agent: StartAgent, how: str) -> None:
    agent = start_agent()
    ready = agent.prepare(product_bytes(64), intra_op_threads=1)
    (child,) = agent.children()
    home = Path(os.readlink(f"/proc/{child}/cwd"))
    busy = agent.stub.Infer(infer_requests(ready.network_id, [slow_input(60)]))
    wait_for(lambda: cpu_seconds(child) > 0.8, "a batch under way")
    began = time.monotonic()
    if how == "stdin":
        assert agent.process.stdin is not None
        agent.process.stdin.close()
    else:
        agent.process.send_signal(getattr(signal, how))
    assert agent.process.wait(60) == 0
    assert time.monotonic() - began < 60  # the batch would take many minutes
    assert not is_running(child)
    assert not home.exists()
    assert failure(lambda: list(busy))[0] in (
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNAVAILABLE,
    )


def test_as_many_networks_as_allowed(start_agent: StartAgent) -> None:
    agent = start_agent("--max-networks", "2")
    first = agent.prepare(relu_bytes("a"))
    agent.prepare(relu_bytes("b"))
    code, text = failure(lambda: agent.prepare(relu_bytes("c")))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 networks are loaded, as many as this agent allows: unload one first" in text
    digest = agent.stub.Describe(pb.DescribeRequest()).loaded[0].digest
    code, text = failure(lambda: agent.stub.Remove(pb.RemoveRequest(digest=digest)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "in use by a prepared network: unload that first" in text
    agent.stub.Unload(pb.UnloadRequest(network_id=first.network_id))
    agent.prepare(relu_bytes("c"))
    code, text = failure(lambda: agent.stub.Unload(pb.UnloadRequest(network_id=first.network_id)))
    assert code is grpc.StatusCode.NOT_FOUND


def test_row_16_a_child_has_a_fixed_environment(start_agent: StartAgent) -> None:
    planted = {"XLNX_ENABLE_FINGERPRINT_CHECK": "0", "ORT_TENSORRT_ENGINE_CACHE_PATH": "/", "PYTHONSTARTUP": "/x"}
    agent = start_agent(env={**os.environ, **planted, "LD_LIBRARY_PATH": "/nowhere"})
    agent.prepare(relu_bytes())
    (child,) = agent.children()
    entries = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
    names = {entry.partition("=")[0] for entry in entries if entry}
    assert names <= {
        *("PATH", "LANG", "HOME", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
        "ORT_DISABLE_TELEMETRY",
    }
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    # Nothing open but its channel, its output, and what the runtime opened for itself: no file of the store.
    targets = {os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()}
    assert not [target for target in targets if target.startswith(str(agent.data_dir))]
    assert Path(os.readlink(f"/proc/{child}/cwd")).parent == agent.data_dir / "homes"
    assert not [target for target in targets if "inet" in target]
    # And no connection to anywhere.
    inodes = {target[8:-1] for target in targets if target.startswith("socket:[")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = [line.split() for line in Path(f"/proc/{child}/net/{table}").read_text().splitlines()[1:]]
        assert not inodes & {row[9] for row in rows}


@pytest.mark.parametrize("kind", ["cgroup-v2", "cgroup-v1", "rlimit", "rlimit-data"])
def test_row_19_a_memory_bomb_ends_its_child_only(start_agent: StartAgent, kind: str) -> None:
    try:
        choose_limiter(kind)
    except ValueError as unavailable:
        pytest.skip(str(unavailable))
    # Address space: a runtime's libraries and threads reserve much.
    size_mb = 1800 if kind.startswith("rlimit") else 700
    agent = start_agent("--memory-limit", kind, "--child-memory-mb", str(size_mb))
    policy = agent.stub.Describe(pb.DescribeRequest(), timeout=120).policy
    assert (policy.memory_limit_kind, policy.child_memory_bytes) == (kind, size_mb << 20)
    ready = agent.prepare(filled_bytes())
    (got,) = agent.infer(ready.network_id, [{"shape": np.array([1000, 1000])}])
    assert got["y"] == 1e6
    code, text = failure(lambda: agent.infer(ready.network_id, [{"shape": np.array([1 << 15, 1 << 15])}]))  # 4 GiB
    if kind.startswith("rlimit"):
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "more than the memory limit of its process" in text
    else:
        assert code is grpc.StatusCode.ABORTED
        assert "crashed: killed by its memory limit of 700 MB" in text
    assert failure(lambda: agent.infer(ready.network_id, [{"shape": np.array([1, 1])}]))[0] is grpc.StatusCode.ABORTED
    assert serves(agent)
    wait_for(lambda: not agent.children(), "end of the child")
    assert not groups_of(agent.pid)


def test_row_19_a_file_too_large_for_the_limit_is_an_answer(start_agent: StartAgent) -> None:
    agent = start_agent("--child-memory-mb", "150")
    digest = agent.upload(os.urandom(200 << 20))
    code, text = failure(lambda: agent.prepare_events(digest))
    assert code in (grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "memory limit" in text


def groups_of(pid: int) -> list[Path]:
    """Control groups that the agent made and that still exist."""
    found: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, _, path = line.split(":", 2)
        for top in ("memory", "", "unified"):
            with contextlib.suppress(OSError):
                found += Path(f"/sys/fs/cgroup/{top}{path}").glob(f"quantrig-{pid}-*")
    return [path for path in found if not path.name.endswith("-0")]


def test_groups_left_by_a_killed_agent_are_removed_by_the_next(start_agent: StartAgent) -> None:
    if not choose_limiter().kind.startswith("cgroup"):
        pytest.skip("no writable memory controller here")
    agent = start_agent()
    agent.prepare(relu_bytes())
    children = agent.children()
    left = groups_of(agent.pid)
    assert left
    agent.kill()
    wait_for(lambda: not any(is_running(pid) for pid in children), "death of the children")
    assert groups_of(agent.pid) == left
    second = start_agent()
    assert not groups_of(agent.pid)
    remaining = second.prepare(relu_bytes())
    remove_leftovers(groups_of(second.pid)[0].parent)  # those of a living agent stay
    assert groups_of(second.pid)
    assert second.infer(remaining.network_id, [{"x": ONES}])


def test_row_25_more_calls_than_threads_are_refused_at_once(agent: AgentProcess) -> None:
    ready = agent.prepare(relu_bytes("flood"))
    never = threading.Event()

    def stalled() -> Iterator[pb.InferRequest]:
        yield pb.InferRequest(network_id=ready.network_id)
        never.wait(60)

    channels = [grpc.insecure_channel(agent.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    flood: list[Any] = [rpc.AgentStub(channels[number % 4]).Infer(stalled(), timeout=60) for number in range(40)]
    refused = wait_for(lambda: [call for call in flood if call.done()], "the first refusals")
    assert all(call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for call in refused)
    assert len(refused) < 40
    for call in flood:
        call.cancel()
    never.set()
    for channel in channels:
        channel.close()
    wait_for(lambda: still_answers(agent), "an agent that serves again")
    assert agent.infer(ready.network_id, [{"flood": ONES}])


def still_answers(agent: AgentProcess) -> bool:
    try:
        agent.stub.FindMissing(pb.FindMissingRequest(), timeout=120)
    except grpc.RpcError:
        return False
    return True


def http2(kind: int, payload: bytes, flags: int = 0) -> bytes:
    """A frame of RFC 9113, section 4.1, on stream 0."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def test_row_25_a_flood_of_pings_is_sent_away(agent: AgentProcess) -> None:
    host, port = agent.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, b""))
        answer = b""
        with contextlib.suppress(ConnectionError):
            for number in range(1000):
                raw.sendall(http2(6, struct.pack(">Q", number)))
        with contextlib.suppress(ConnectionError):
            while piece := raw.recv(65536):
                answer += piece
    assert b"too_many_pings" in answer
    assert still_answers(agent)


def part(**fields: object) -> pb.InferRequest:
    whole: dict[str, object] = {
        "name": "x",
        "dtype": "float32",
        "shape": [1, 4],
        "data": bytes(16),
        "last_of_tensor": True,
        "last_of_batch": True,
    }
    return pb.InferRequest(tensor=pb.TensorPart(**{**whole, **fields}))  # type: ignore[arg-type]


MALFORMED = {
    "object dtype": part(dtype="object"),
    "pickle's dtype": part(dtype="O"),
    "structured dtype": part(dtype="f4,f4"),
    "string dtype": part(dtype="str"),
    "another dtype": part(dtype="float64", data=bytes(32)),
    "no dtype": part(dtype=""),
    "negative": part(shape=[-1, 4]),
    "overflowing": part(shape=[1 << 62, 4]),
    "overflowing to 0": part(shape=[1 << 63 - 1, 1 << 62], data=b""),
    "another rank": part(shape=[4]),
    "a fixed dimension": part(shape=[2, 2]),
    "too short": part(data=bytes(15)),
    "too long": part(data=bytes(17)),
    "empty": part(data=b""),
    "too large a part": part(shape=[1 << 17, 4], data=bytes((1 << 20) + 4)),
    "unknown name": part(name="z"),
    "no name": part(name=""),
    "name with control characters": part(name="x\n\x1b[31m"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_row_26_only_plain_tensors_of_the_declared_type_and_size(agent: AgentProcess, kind: str) -> None:
    ready = agent.prepare(relu_bytes())
    for call in (agent.stub.Infer, agent.stub.LoadInputs):
        requests = [pb.InferRequest(network_id=ready.network_id), MALFORMED[kind], MALFORMED[kind]]
        code, text = failure(partial(call, iter(requests), timeout=120))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, text
    (got,) = agent.infer(ready.network_id, [{"x": -ONES}])  # the same child, unharmed
    assert (got["y"] == 0).all()


def test_row_26_streams_out_of_order(agent: AgentProcess) -> None:
    ready = agent.prepare(relu_bytes())
    name = pb.InferRequest(network_id=ready.network_id)
    half = part(data=bytes(8), last_of_tensor=False, last_of_batch=False)
    streams = {
        "nothing": [],
        "no network": [part()],
        "an empty message": [pb.InferRequest()],
        "two networks": [name, name],
        "ends in a tensor": [name, half],
        "ends in a batch": [name, part(last_of_batch=False)],
        "twice in one batch": [name, part(last_of_batch=False), part()],
        "batch ends in a tensor": [name, half, part(name="", data=b"", last_of_tensor=False)],
        "other tensor in between": [name, half, part(name="y")],
    }
    for kind, requests in streams.items():
        code, text = failure(partial(agent.stub.Infer, iter(requests), timeout=120))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, (kind, text)
    assert agent.infer(ready.network_id, [{"x": ONES}])


def test_row_26_a_refusal_comes_before_the_rest_of_a_long_batch(agent: AgentProcess) -> None:
    ready = agent.prepare(relu_bytes())
    sent = 0

    def long() -> Iterator[pb.InferRequest]:
        nonlocal sent
        yield pb.InferRequest(network_id=ready.network_id)
        for one in tensor_parts("x", np.zeros((16 << 20, 4), "float64")):
            sent += 1
            yield pb.InferRequest(tensor=one)

    code, text = failure(lambda: agent.stub.Infer(long(), timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'x' is float32, not 'float64'" in text
    assert sent < 256  # of 512


def test_what_a_runtime_prints_is_kept_out_of_the_frames(agent: AgentProcess) -> None:
    """Both outputs of the child are one pipe into the agent, drained; its frames go over a socket of their own."""
    before = set(agent.children())
    agent.prepare(relu_bytes("printer"))
    (child,) = set(agent.children()) - before
    assert os.readlink(f"/proc/{child}/fd/1") == os.readlink(f"/proc/{child}/fd/2")
    assert os.readlink(f"/proc/{child}/fd/0") == os.devnull
