"""One agent, spoken to in plain synchronous Python.

    with connect(target, work_dir=folder) as agent:
        print(agent.describe().board)
        agent.ship(path, digest, None)
        network = agent.prepare(digest, options=SessionChoice(intra_op_threads=2))
        for outputs in agent.infer(network.network_id, batches): ...

Every method may be called from any thread; several may be under way at once (telemetry beside a timed block).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agents.protocol import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
from harness._version import __version__
from harness.errors import Refused, TimedOut, Unreachable, UserError
from harness.targets.board_hold import Held, hold_settings
from harness.targets.board_settings import Settings
from harness.targets.calls import MARGIN_S, Calls
from harness.targets.inference import infer as _infer
from harness.targets.preparing import prepare, prepare_request
from harness.targets.tensors import Array, check_inputs, parts
from harness.targets.timed_calls import TimedCalls
from harness.targets.upload import CALL_TIMEOUT_S, Progress, Shipper
from harness.targets.validate import Checker
from harness.targets.values import (
    BoardInfo,
    PreparedNetwork,
    Programmed,
    SessionChoice,
    Shipped,
    SignedPermit,
    TelemetrySample,
    TimedBlock,
    WarmUp,
)

#: Describing probes the runtimes in a child process; importing one took 20 s on the slowest board tried (emulated).
DESCRIBE_TIMEOUT_S = 90.0
#: Limits assumed until the agent has said its own.
DEFAULT_PREPARE_S = 600.0
DEFAULT_BATCH_S = 120.0


def _never() -> str | None:
    return None


class AgentClient:
    """Speaks to one agent over an open channel; a context manager that closes it.

    Args:
        target: name in targets.yaml, for messages.
        channel: open or opening.
        stop: when set, no new call starts (clean-up calls excepted).
        obituary: how the agent's process ended, None while it lives or when it is not ours.
    """

    def __init__(
        self,
        target: str,
        channel: grpc.Channel,
        *,
        stop: threading.Event | None = None,
        obituary: Callable[[], str | None] = _never,
    ) -> None:
        self.target = target
        self._channel = channel
        self._stub = AgentStub(channel)
        self._checker = Checker(target)
        self._calls = Calls(target, stop if stop is not None else threading.Event(), obituary)
        self._shipper = Shipper(target, channel, self._stub, self._calls, self._checker)
        self._timed_calls = TimedCalls(self._stub, self._calls, self._checker)
        self._lock = threading.Lock()
        self._networks: dict[str, PreparedNetwork] = {}
        self._info: BoardInfo | None = None

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call and close the channel."""
        self._calls.cancel_all()
        self._channel.close()

    def cancel(self) -> None:
        """Abort whatever is in flight, from another thread; those who wait get `CallCancelled`."""
        self._calls.cancel_all()

    def await_serving(self, timeout_s: float) -> None:
        """Wait until the agent's health service says SERVING.

        Raises:
            Unreachable: nothing answers within `timeout_s`.
            Refused: it answers, and is not serving, or is no agent.
        """
        stub = health_pb2_grpc.HealthStub(self._channel)
        call = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True)
        try:
            with self._calls.track(call, "a health check", timeout_s=timeout_s):
                status = self._calls.result_of(call).status
        except TimedOut as error:
            raise Unreachable(
                self.target,
                f"no agent answers within {timeout_s:.0f} s; check the address and that `quantrig-agent` runs there",
            ) from error
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise Refused(self.target, "the agent says that it is not serving; see its log and restart it")

    def describe(self) -> BoardInfo:
        """Who and what the board is, asked anew at every call (memory and storage change).

        Raises:
            Refused: the agent speaks a newer protocol, or one so old that this host cannot.
            BadResult: a description that cannot be.
        """
        call = self._stub.Describe.future(pb.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S)
        with self._calls.track(call, "describing the board", timeout_s=DESCRIBE_TIMEOUT_S):
            reply = call.result()
        # Before any other field is read: a newer agent may mean something else by it.
        if reply.protocol_version > PROTOCOL_VERSION:
            raise Refused(
                self.target,
                f"agent {self._checker.texts([reply.agent_version], 'versions')[0]} speaks protocol "
                f"{reply.protocol_version}, this quantrig {__version__} speaks {PROTOCOL_VERSION}; "
                "update quantrig on this host, or install its agent version on the board",
            )
        if reply.protocol_version < OLDEST_PROTOCOL_VERSION:
            raise Refused(
                self.target,
                f"agent {self._checker.texts([reply.agent_version], 'versions')[0]} speaks protocol "
                f"{reply.protocol_version}, this quantrig {__version__} needs {OLDEST_PROTOCOL_VERSION} or newer; "
                f"upgrade the agent with `quantrig targets provision {self.target}`",
            )
        info = self._checker.board(reply)
        with self._lock:
            self._info = info
        return info

    def ship(self, path: Path, digest: str, progress: Progress | None = None) -> Shipped:
        """Bring a file to the board unless it is there already; resumes an upload that was cut.

        Args:
            path: the file; only its content travels, never its name.
            digest: sha256 of the file, 64 lower-case hex digits.
            progress: called with (bytes done, bytes in all) from a thread of gRPC's.

        Raises:
            Refused: quota, disk, or the file arrived damaged twice.
            UserError: the file cannot be read.
        """
        return self._shipper.ship(path, digest, progress)

    def program(self, design: str, digest: str) -> Programmed:
        """Put a design and a shipped network into the logic that a stand-in stands in for, unless they are there.

        Args:
            design: sha256 of the design's description.
            digest: of a file that the board holds.

        Raises:
            Refused: the agent is no stand-in, or is older than this call.
        """
        request = pb.ProgramRequest(design=design, digest=digest)
        call = self._stub.Program.future(request, timeout=CALL_TIMEOUT_S)
        with self._calls.track(call, "programming", timeout_s=CALL_TIMEOUT_S):
            reply = call.result()
        return self._checker.programmed(reply)

    def prepare(
        self,
        digest: str,
        *,
        options: SessionChoice | None = None,
        on_phase: Callable[[str, float], None] | None = None,
        permit: SignedPermit | None = None,
    ) -> PreparedNetwork:
        """Check, load and compile a shipped network in a process of its own on the board.

        Args:
            digest: of a file that the board holds.
            options: how to execute it.
            on_phase: called with (name, duration in ms) as each phase ends, and every few seconds while a long one
                (a board's compiler) is under way, with the time so far.
            permit: for a network that was compiled elsewhere; used up by this call, whatever comes of it.

        Raises:
            Refused: the network fails the agent's checks or policy, or the runtime cannot load it.
            Crashed: its process died.
            TimedOut: it took longer than the agent allows.
        """
        timeout_s = MARGIN_S + (self._info.policy.prepare_timeout_s if self._info else DEFAULT_PREPARE_S)
        prepared = prepare(
            self._stub,
            self._calls,
            self._checker,
            prepare_request(digest, options or SessionChoice(), permit),
            on_phase,
            timeout_s,
        )
        with self._lock:
            self._networks[prepared.network_id] = prepared
        return prepared

    def infer(self, network_id: str, batches: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        """Run batches as they come and give their outputs as they come, in order; at most three are under way.

        Args:
            network_id: of a network that this client prepared.
            batches: {input name: array} each; consumed in a thread of gRPC's. What it raises is raised here.

        Yields:
            {output name: array} of one batch, in the declared order.

        Raises:
            BadResult: outputs that were not declared, of other types or shapes, or missing. Their values are the
                caller's to judge: only it can name the sample that gave a NaN.
            TimedOut: no sign of life for longer than the agent's own limit for one batch.
            UserError: a batch does not fit the declared inputs.
        """
        return _infer(
            self._stub,
            self._calls,
            self._checker,
            self.target,
            self._network(network_id),
            batches,
            self._batch_timeout_s() + MARGIN_S,
        )

    def load_inputs(self, network_id: str, inputs: Mapping[str, Array]) -> None:
        """Keep one batch in the network's process: what warm-up and timed blocks run on.

        Raises:
            UserError: the batch does not fit the declared inputs.
        """
        check_inputs(self.target, inputs, self._network(network_id).inputs)
        size = sum(array.nbytes for array in inputs.values())
        messages = [pb.InferRequest(network_id=network_id), *(pb.InferRequest(tensor=p) for p in parts(inputs))]
        timeout_s = CALL_TIMEOUT_S + MARGIN_S + size / 125_000
        call = self._stub.LoadInputs.future(iter(messages), timeout=timeout_s)
        with self._calls.track(call, "loading inputs", timeout_s=timeout_s):
            held = call.result().size_bytes
        if held != size:
            self._checker.fail(f"{held} bytes as the size of inputs of {size} bytes")

    def warm_up(
        self,
        network_id: str,
        *,
        min_iterations: int,
        min_duration_s: float,
        max_duration_s: float,
        window_s: float = 1.0,
        tolerance: float = 0.02,
    ) -> WarmUp:
        """Run until the latency is steady: three windows of `window_s` whose medians differ by less than `tolerance`.

        Raises:
            Crashed: the network's process died.
        """
        request = pb.WarmUpRequest(
            network_id=network_id,
            min_iterations=min_iterations,
            min_duration_s=min_duration_s,
            max_duration_s=max_duration_s,
            window_s=window_s,
            tolerance=tolerance,
        )
        return self._timed_calls.warm_up(request, self._batch_timeout_s())

    def time_block(
        self, network_id: str, *, min_iterations: int, min_duration_s: float, max_iterations: int = 100_000
    ) -> TimedBlock:
        """One timed block on the board's own clock, every raw sample.

        Args:
            network_id: with inputs loaded, warmed up.
            min_iterations: samples at least.
            min_duration_s: and at least this long.
            max_iterations: samples at most, whatever the duration (≤ 100,000).

        Raises:
            BadResult: samples that cannot be: none, zero, more than asked, longer than the block.
            Crashed: the network's process died.
        """
        request = pb.TimeBlockRequest(
            network_id=network_id,
            min_iterations=min_iterations,
            min_duration_s=min_duration_s,
            max_iterations=max_iterations,
        )
        return self._timed_calls.time_block(request, self._batch_timeout_s())

    def telemetry(self, interval_s: float, duration_s: float = 0.0) -> Iterator[TelemetrySample]:
        """Sensor readings every `interval_s` (≥ 0.1 s) for `duration_s`; 0 goes on until the iterator is closed.

        Raises:
            BadResult: samples without a time, or far more of them than ordered.
            TimedOut: no sample for ten intervals and half a minute.
        """
        call = self._stub.StreamTelemetry(pb.TelemetryRequest(interval_s=interval_s, duration_s=duration_s))
        begun = time.monotonic()
        taken = 0
        with self._calls.track(call, "reading telemetry", idle_limit_s=MARGIN_S + 10 * interval_s) as flight:
            flight.owed(True)
            for sample in call:
                taken += 1
                # Twice the ordered rate and a burst of ten: beyond it somebody tries to fill the host's memory.
                if taken > 10 + 2 * (time.monotonic() - begun) / interval_s:
                    self._checker.fail(f"{taken} telemetry samples in {time.monotonic() - begun:.1f} s")
                checked = self._checker.telemetry(sample)
                flight.pause()
                yield checked
                flight.go_on(owed=True)

    def hold_settings(self, settings: Settings) -> AbstractContextManager[Held]:
        """Set the board's own state while a block runs, and give back what was there before.

        Whatever ends the block, and whoever dies, the agent gives back: on the end of this call, of the connection, of
        itself, or at its next start.

        Args:
            settings: what is asked for.

        Raises:
            Refused: another host holds them, the agent is older than this call, or only stands in for a board.
        """
        return hold_settings(self._stub, self._calls, self._checker, settings)

    def unload(self, network_id: str) -> None:
        """End the network's process and free its memory; allowed while the run stops."""
        call = self._stub.Unload.future(pb.UnloadRequest(network_id=network_id), timeout=CALL_TIMEOUT_S)
        with self._calls.track(call, "unloading", timeout_s=CALL_TIMEOUT_S, even_when_stopped=True):
            call.result()
        with self._lock:
            self._networks.pop(network_id, None)
        self._timed_calls.forget(network_id)

    def remove(self, digest: str) -> int:
        """Forget a stored file; bytes freed. Allowed while the run stops."""
        call = self._stub.Remove.future(pb.RemoveRequest(digest=digest), timeout=CALL_TIMEOUT_S)
        with self._calls.track(call, "removing a file", timeout_s=CALL_TIMEOUT_S, even_when_stopped=True):
            freed = call.result().freed_bytes
        return self._checker.size(freed, "freed_bytes")

    def _batch_timeout_s(self) -> float:
        return self._info.policy.batch_timeout_s if self._info else DEFAULT_BATCH_S

    def _network(self, network_id: str) -> PreparedNetwork:
        with self._lock:
            network = self._networks.get(network_id)
        if network is None:
            raise UserError(f"{self.target}: network {network_id!r} was not prepared here; call prepare() first")
        return network
