"""Row 27 of the list of attacks: an agent that lies. Each test is one lie told over a real gRPC connection."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from agents.protocol import PROTOCOL_VERSION
from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentServicer
from harness.errors import BadResult, BoardError, Crashed, Refused, TimedOut
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.target import Target
from harness.targets.values import TimedBlock

MakeTarget = Callable[..., Target]
Serve = Callable[[AgentServicer], str]


DIGEST = "a" * 64


class Agent(AgentServicer):
    """Answers soundly; a test replaces one answer."""

    def __init__(self) -> None:
        self.description = pb.BoardDescription(
            agent_version="0.1.0",
            protocol_version=PROTOCOL_VERSION,
            board="generic",
            cpu_count=2,
            runtimes=[pb.RuntimeDescription(name="onnxruntime", version="1.0", providers=["CPUExecutionProvider"])],
            policy=pb.Policy(prepare_timeout_s=5, batch_timeout_s=1),
        )
        self.ready = pb.PreparedNetwork(
            network_id="n-1",
            inputs=[pb.TensorSpec(name="x", dtype="float32", shape=[-1, 2])],
            outputs=[pb.TensorSpec(name="y", dtype="float32", shape=[-1, 2])],
            start_ms=1,
            check_ms=1,
            load_ms=1,
        )
        self.block: Callable[[pb.TimeBlockRequest], pb.Block] = sound_block
        self.warm = pb.WarmUpReply(steady=True, iterations=3, duration_s=0.0, first_ms=1)
        self.replies: list[pb.InferReply] = [*output(np.ones((1, 2), np.float32)), done(0)]
        self.programmed: pb.ProgramReply | None = pb.ProgramReply(boot_id="b-1", device=DIGEST)
        self.samples: list[pb.TelemetrySample] = []
        self.refusal = (grpc.StatusCode.OK, "")
        self.silence: threading.Event | None = None  # Infer answers only when it is set
        self.hears_the_end = True  # Infer ends when the host has nothing more to send, as an honest agent does

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.BoardDescription:  # noqa: N802 named by the protocol
        return self.description

    def Program(self, request: pb.ProgramRequest, context: grpc.ServicerContext) -> pb.ProgramReply:  # noqa: N802 named by the protocol
        if self.programmed is None:  # an agent that is older than this call
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self.programmed

    def Prepare(self, request: pb.PrepareRequest, context: grpc.ServicerContext) -> Iterator[pb.PrepareEvent]:  # noqa: N802 named by the protocol
        yield pb.PrepareEvent(phase=pb.PhaseDone(name="load", duration_ms=1))
        yield pb.PrepareEvent(ready=self.ready)

    def Infer(  # noqa: N802 named by the protocol
        self, request_iterator: Iterator[pb.InferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InferReply]:
        for request in request_iterator:
            if request.tensor.last_of_batch:
                break
        if self.silence is not None:
            self.silence.wait(60)
        yield from self.replies
        if self.hears_the_end:
            for _ in request_iterator:
                pass

    def WarmUp(self, request: pb.WarmUpRequest, context: grpc.ServicerContext) -> pb.WarmUpReply:  # noqa: N802 named by the protocol
        return self.warm

    def TimeBlock(self, request: pb.TimeBlockRequest, context: grpc.ServicerContext) -> pb.Block:  # noqa: N802 named by the protocol
        return self.block(request)

    def StreamTelemetry(  # noqa: N802 named by the protocol
        self, request: pb.TelemetryRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TelemetrySample]:
        yield from self.samples

    def Unload(self, request: pb.UnloadRequest, context: grpc.ServicerContext) -> pb.UnloadReply:  # noqa: N802 named by the protocol
        context.abort(*self.refusal)


def sound_block(request: pb.TimeBlockRequest, **changes: object) -> pb.Block:
    """A block that takes its time for real: the client compares with its own clock."""
    begun = time.perf_counter_ns()
    while time.perf_counter_ns() - begun < 2_000_000:
        pass
    fields: dict[str, Any] = {
        "latency_ns": [100_000] * request.min_iterations,
        "started_unix_s": 1.7e9,
        "duration_s": 0.002,
        "clock": "perf_counter",
        "clock_resolution_ns": 1,
        "batch_size": 1,
        "cpu_time_s": 0.001,
        "peak_memory_bytes": 1 << 20,
    }
    return pb.Block(**{**fields, **changes})


def output(array: npt.NDArray[Any], name: str = "y", **changes: object) -> list[pb.InferReply]:
    fields: dict[str, Any] = {
        "name": name,
        "dtype": array.dtype.name,
        "shape": array.shape,
        "data": array.tobytes(),
        "last_of_tensor": True,
        "last_of_batch": True,
    }
    return [pb.InferReply(tensor=pb.TensorPart(**{**fields, **changes}))]


def done(index: int, duration_ms: float = 1.0) -> pb.InferReply:
    return pb.InferReply(batch=pb.BatchDone(index=index, duration_ms=duration_ms))


@pytest.fixture
def agent() -> Agent:
    return Agent()  # type: ignore[abstract]  # no test makes the other calls


@pytest.fixture
def client(agent: Agent, serve: Serve, make_target: MakeTarget, tmp_path: Path) -> Iterator[AgentClient]:
    with connect(make_target("address", address=serve(agent)), work_dir=tmp_path) as open_client:
        yield open_client


def run(client: AgentClient) -> list[dict[str, Any]]:
    prepared = client.prepare(DIGEST)
    return list(client.infer(prepared.network_id, [{"x": np.zeros((1, 2), np.float32)}]))


def time_block(client: AgentClient, **changes: int) -> TimedBlock:
    return client.time_block("n-1", **{"min_iterations": 4, "max_iterations": 10, **changes}, min_duration_s=0.001)


def test_a_sound_agent_is_believed(client: AgentClient) -> None:
    (outputs,) = run(client)
    np.testing.assert_array_equal(outputs["y"], np.ones((1, 2), np.float32))
    assert time_block(client).latency_ns == (100_000,) * 4
    assert client.describe().runtimes[0].providers == ("CPUExecutionProvider",)


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_ns": []},
        {"latency_ns": [100_000] * 3},  # fewer than ordered
        {"latency_ns": [100_000] * 11},  # more than ordered
        {"latency_ns": [100_000, 0, 100_000, 100_000]},
        {"latency_ns": [10**18] * 4},
        {"latency_ns": [2**64 - 1] * 4},
        {"duration_s": math.nan},
        {"duration_s": math.inf},
        {"duration_s": -1.0},
        {"duration_s": 3600.0},  # longer than the host waited
        {"cpu_time_s": math.nan},
        {"cpu_time_s": -0.5},
        {"started_unix_s": math.nan},
        {"clock_resolution_ns": -1.0},
        {"batch_size": 0},
        {"peak_memory_bytes": 2**63},
    ],
    ids=str,
)
def test_row_27_impossible_block(agent: Agent, client: AgentClient, changes: dict[str, Any]) -> None:
    agent.block = lambda request: sound_block(request, **changes)
    with pytest.raises(BadResult, match=r"^bench: the agent returned .*; its results are not used"):
        time_block(client)


def test_row_27_a_flood_of_samples_does_not_enter_memory(agent: Agent, client: AgentClient) -> None:
    # 10^7 one-byte samples: 10 MB on the wire, over gRPC's 4 MiB; 10^9 would be the same refusal, only slower to send.
    agent.block = lambda request: sound_block(request, latency_ns=[1] * 10_000_000)
    with pytest.raises(BadResult, match="oversized message"):
        time_block(client, max_iterations=100_000)


def test_row_27_samples_below_the_message_limit_are_counted(agent: Agent, client: AgentClient) -> None:
    agent.block = lambda request: sound_block(request, latency_ns=[1] * 3_000_000)
    with pytest.raises(BadResult, match="3000000 latency samples where 1 … 100000"):
        time_block(client, max_iterations=100_000)


@pytest.mark.parametrize(
    "changes", [{"duration_s": math.nan}, {"duration_s": 1e6}, {"first_ms": -1.0}, {"first_ms": math.inf}], ids=str
)
def test_row_27_impossible_warm_up(agent: Agent, client: AgentClient, changes: dict[str, float]) -> None:
    agent.warm = pb.WarmUpReply(**{"steady": True, "duration_s": 0.0, "first_ms": 1.0, **changes})  # type: ignore[arg-type]
    with pytest.raises(BadResult):
        client.warm_up("n-1", min_iterations=1, min_duration_s=0, max_duration_s=1)


@pytest.mark.parametrize(
    "changes",
    [{"device": "no digest"}, {"device": ""}, {"network_loaded": True}],
    ids=str,
)
def test_row_27_impossible_programming(agent: Agent, client: AgentClient, changes: dict[str, Any]) -> None:
    assert client.program(DIGEST, DIGEST).boot_id == "b-1"
    agent.programmed = pb.ProgramReply(**{"boot_id": "b-1", "device": DIGEST, **changes})
    with pytest.raises(BadResult):
        client.program(DIGEST, DIGEST)


def test_an_agent_that_is_too_old_to_program_says_so(agent: Agent, client: AgentClient) -> None:
    agent.programmed = None
    with pytest.raises(Refused, match="older agent; update it"):
        client.program(DIGEST, DIGEST)


ONES = np.ones((1, 2), np.float32)


@pytest.mark.parametrize(
    ("replies", "complaint"),
    [
        ([*output(ONES.astype(np.float64)), done(0)], "as float64.* where float32"),
        ([*output(np.ones((1, 3), np.float32)), done(0)], r"\(1, 3\) where"),
        ([*output(ONES, shape=[-1, 2]), done(0)], "where float32"),
        ([*output(ONES, shape=[2**40, 2]), done(0)], "exceeds 2048 MiB"),
        ([*output(ONES, dtype="object"), done(0)], "as object"),
        ([*output(ONES, data=ONES.tobytes() * 2), done(0)], "more data of output"),
        ([*output(ONES, data=b"\0"), done(0)], "1 of the 8 bytes"),
        ([*output(ONES, data=b"", last_of_tensor=False)] * 2 + [done(0)], "empty piece"),
        ([*output(ONES), *output(ONES), done(0)], "twice in one batch"),
        ([*output(ONES), *output(ONES, name="z"), done(0)], "'z' that the network did not declare"),
        ([done(0)], "without its output 'y'"),
        ([*output(ONES), done(7)], "answer to batch 7 where batch 0"),
        ([*output(ONES), done(0), *output(ONES), done(1)], "not sent"),
        ([*output(ONES), done(0, math.nan)], "duration of a batch"),
        ([*output(ONES), done(0, -1.0)], "duration of a batch"),
        ([], "0 answers to 1 batches"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_row_27_impossible_outputs(
    agent: Agent, client: AgentClient, replies: list[pb.InferReply], complaint: str
) -> None:
    agent.replies = replies
    with pytest.raises(BadResult, match=complaint):
        run(client)


def test_nan_passes_for_the_caller_to_name_the_sample(agent: Agent, client: AgentClient) -> None:
    agent.replies = [*output(np.array([[1, math.nan]], np.float32)), done(0)]
    agent.hears_the_end = True
    (outputs,) = run(client)
    np.testing.assert_array_equal(outputs["y"], np.array([[1, math.nan]], np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": "../../etc"},
        {"network_id": ""},
        {"network_id": "n" * 65},
        {"outputs": []},
        {"outputs": [pb.TensorSpec(name="y", dtype="object", shape=[1])]},
        {"outputs": [pb.TensorSpec(name="y", dtype="float32", shape=[-7])]},
        {"outputs": [pb.TensorSpec(name="y", dtype="float32", shape=[1] * 1000)]},
        {"outputs": [pb.TensorSpec(name="y", dtype="float32")] * 2},
        {"outputs": [pb.TensorSpec(name=f"y{i}", dtype="float32") for i in range(300)]},
        {"load_ms": -1.0},
        {"load_ms": math.nan},
        {"compile_ms": math.inf},
        {"resident_bytes": 2**62},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_row_27_impossible_network(agent: Agent, client: AgentClient, changes: dict[str, Any]) -> None:
    fields = {"network_id": "n-1", "outputs": list(agent.ready.outputs)}
    agent.ready = pb.PreparedNetwork(**{**fields, **changes})
    with pytest.raises(BadResult):
        client.prepare(DIGEST)


def test_row_27_text_is_cut_and_stripped_of_control_characters(agent: Agent, client: AgentClient) -> None:
    agent.description.board = "=cmd|'/c calc'!A1\r\n\x1b[31m<script>alert(1)</script>\u202e\x00"
    agent.description.cpu_model = "x" * 1_000_000
    info = client.describe()
    assert info.board == "=cmd|'/c calc'!A1 [31m<script>alert(1)</script>"  # escaping it is the report's work
    assert len(info.cpu_model) <= 200


@pytest.mark.parametrize(
    "changes",
    [
        {"machine_id": "../x"},
        {"memory_total_bytes": 2**63},
        {"cpu_count": 2**31},
        {"cpu_features": ["f"] * 100_000},
        {"runtimes": [pb.RuntimeDescription(name="r")] * 1000},
        {"loaded": [pb.LoadedNetwork(network_id="A B")]},
        {"policy": pb.Policy(batch_timeout_s=math.inf)},
        {"policy": pb.Policy(prepare_timeout_s=math.nan)},
        {"details": {f"name{number}": "" for number in range(100_000)}},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_row_27_impossible_description(agent: Agent, client: AgentClient, changes: dict[str, Any]) -> None:
    agent.description.MergeFrom(pb.BoardDescription(**changes))
    with pytest.raises(BadResult):
        client.describe()


def test_row_27_details_are_one_clean_line_each(agent: Agent, client: AgentClient) -> None:
    agent.description.details.update({"jet\x1bpack": "6.2\n\x1b[31mroot", "power_mode": "x" * 100_000})
    details = client.describe().details
    assert len(details) == 2
    assert all(text.isprintable() for pair in details.items() for text in pair)
    assert len(details["power_mode"]) < 10_000


def test_row_27_impossible_sensor_values_are_unknown(agent: Agent, client: AgentClient) -> None:
    agent.samples = [
        pb.TelemetrySample(
            unix_s=1.7e9,
            gpu_percent=math.nan,
            ram_used_mb=-1,
            total_power_mw=math.inf,
            cpu=[pb.CpuLoad(percent=50), pb.CpuLoad(), pb.CpuLoad(percent=1e9)],
            temperature_c={"cpu": 41.5, "off": -256.0, "bad": math.nan},
            power_mw={"in\x00put": 5000.0, "x": -math.inf},
            throttled_by=["under\x1b[2Jvoltage"],
            clocks_mhz={"gpu": 612.0, "emc": math.inf, "cpu": -1.0},
        )
    ]
    (sample,) = client.telemetry(0.1, 0.1)
    assert (sample.gpu_percent, sample.ram_used_mb, sample.total_power_mw) == (None, None, None)
    assert sample.cpu_percent == (50.0, None, None)
    assert sample.temperature_c == {"cpu": 41.5}
    assert sample.power_mw == {"in put": 5000.0}
    assert "\x1b" not in sample.throttled_by[0]
    assert sample.clocks_mhz == {"gpu": 612.0}


@pytest.mark.parametrize("samples", [[pb.TelemetrySample(unix_s=math.nan)], [pb.TelemetrySample(unix_s=1)] * 500])
def test_row_27_telemetry_without_time_or_end(
    agent: Agent, client: AgentClient, samples: list[pb.TelemetrySample]
) -> None:
    agent.samples = samples
    with pytest.raises(BadResult):
        list(client.telemetry(10.0, 10.0))


def test_newer_protocol_is_refused_with_both_versions(
    agent: Agent, serve: Serve, make_target: MakeTarget, tmp_path: Path
) -> None:
    agent.description.protocol_version = PROTOCOL_VERSION + 1
    agent.description.agent_version = "9.9.9"
    with (
        pytest.raises(
            Refused, match=rf"agent 9.9.9 speaks protocol {PROTOCOL_VERSION + 1}.*{PROTOCOL_VERSION}; update"
        ),
        connect(make_target("address", address=serve(agent)), work_dir=tmp_path),
    ):
        pass


def test_a_service_that_is_no_agent_is_refused(serve: Serve, make_target: MakeTarget, tmp_path: Path) -> None:
    address = serve(AgentServicer())  # type: ignore[abstract]  # it knows none of the calls
    with (
        pytest.raises(Refused, match="another service, or an older agent"),
        connect(make_target("address", address=address), work_dir=tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Refused),
        (grpc.StatusCode.NOT_FOUND, Refused),
        (grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (grpc.StatusCode.PERMISSION_DENIED, Refused),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Refused),
        (grpc.StatusCode.ABORTED, Crashed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut),
        (grpc.StatusCode.INTERNAL, BoardError),
    ],
)
def test_status_codes_become_our_errors(
    agent: Agent, client: AgentClient, code: grpc.StatusCode, kind: type[BoardError]
) -> None:
    agent.refusal = (code, "the thing and the remedy\nand a second line")
    with pytest.raises(BoardError, match="the thing and the remedy and a second line") as caught:
        client.unload("n-1")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_silent_agent_ends_in_a_bounded_time(
    agent: Agent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.silence = threading.Event()
    monkeypatch.setattr("harness.targets.client.MARGIN_S", 0.2)  # on top of the second that this agent allows a batch
    begun = time.monotonic()
    with pytest.raises(TimedOut, match="no sign of life"):
        run(client)
    assert time.monotonic() - begun < 50  # and not the minute that this agent is silent
    agent.silence.set()
