"""The calls of the protocol: each checks what came in, asks the room that knows, and answers."""

# ruff: noqa: N802, ARG002 - the names and arguments are those of the generated base class

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from agents import __version__
from agents.artifacts import ArtifactStore
from agents.boards.base import Board
from agents.boards.pool import SamplerPool
from agents.config import AgentConfig
from agents.faults import AgentError, Fault
from agents.frames import Kind
from agents.identifiers import check_digest, check_identifier, check_options
from agents.leaving import Leaving, interrupted_when_left
from agents.limits import Limiter
from agents.memory import give_back
from agents.network import BLOCK_LIMIT_S, Network
from agents.networks import NetworkTable
from agents.patience import Patience
from agents.permits import PermitDesk
from agents.probe import ONNX, RuntimeProbe
from agents.programming import ProgrammableLogic, device_fingerprint
from agents.protocol import PROTOCOL_VERSION
from agents.protocol import agent_pb2 as pb
from agents.protocol import agent_pb2_grpc as rpc
from agents.quiet import Quiet
from agents.settings import SettingsDesk
from agents.settings_calls import asked_of, hold
from agents.streams import first_of, tensors_of
from agents.timing import check_block, with_defaults

_Reply = TypeVar("_Reply")
#: More names in one question than any job has files.
_MAX_DIGESTS = 1000
_MIN_INTERVAL_S = 0.1
_NO_TIME = "an emulated board has no time of its own: measure on the real board, or take only accuracy from this one"
_NO_STATE = "an emulated board has neither clocks nor a power mode: ask the real board for them"
_NO_LOGIC = "this agent programs no logic: only one started with --emulated stands in for an FPGA board"


class AgentService(rpc.AgentServicer):
    """The agent of one board.

    Args:
        config: as the operator started it.
        board: who the board is.
        store: its files.
        networks: its networks.
        limiter: named in the policy.
        probe: of the runtimes, perhaps still under way.
        permits: admits compiled networks.
        settings: of the board, held for a run.
    """

    def __init__(
        self,
        config: AgentConfig,
        board: Board,
        store: ArtifactStore,
        networks: NetworkTable,
        limiter: Limiter,
        probe: RuntimeProbe,
        permits: PermitDesk,
        settings: SettingsDesk,
    ) -> None:
        self._permits = permits
        self._settings = settings
        self._config = config
        self._board = board
        self._samplers = SamplerPool(board)
        self._store = store
        self._networks = networks
        self._limiter = limiter
        self._probe = probe
        self._logic = threading.Lock()
        self._programmed: ProgrammableLogic | None = None
        self._quiet = Quiet()
        self._patience = Patience(config.host_timeout_s)

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.BoardDescription:
        """Who and what this board is."""
        config = self._config
        who = self._board.identity()
        return pb.BoardDescription(
            agent_version=__version__,
            protocol_version=PROTOCOL_VERSION,
            board=self._board.kind,
            emulated=config.emulated,
            model=who.model,
            hostname=who.hostname,
            machine_id=who.machine_id,
            boot_id=who.boot_id,
            os=who.os,
            architecture=who.architecture,
            python_version=platform.python_version(),
            cpu_model=who.cpu_model,
            cpu_count=who.cpu_count,
            cpu_features=who.cpu_features,
            memory_total_bytes=who.memory_total_bytes,
            memory_available_bytes=who.memory_available_bytes,
            storage_quota_bytes=config.quota_bytes,
            storage_used_bytes=self._store.used_bytes(),
            storage_free_bytes=self._store.free_bytes(),
            runtimes=self._probe.descriptions(),
            details=who.details if config.emulated else {**who.details, **self._settings.details()},
            loaded=[
                pb.LoadedNetwork(
                    network_id=network.network_id,
                    digest=network.digest,
                    runtime=network.ready.runtime,
                    resident_bytes=network.child.resident_bytes(),
                )
                for network in self._networks.loaded()
            ],
            policy=pb.Policy(
                allow_loops=config.allow_loops,
                max_artifact_bytes=config.max_artifact_bytes,
                max_tensor_bytes=config.max_tensor_bytes,
                child_memory_bytes=config.child_memory_bytes,
                memory_limit_kind=self._limiter.kind,
                prepare_timeout_s=config.prepare_timeout_s,
                batch_timeout_s=config.batch_timeout_s,
                max_loaded_networks=config.max_networks,
            ),
        )

    def FindMissing(self, request: pb.FindMissingRequest, context: grpc.ServicerContext) -> pb.FindMissingReply:
        """Which digests are not here."""
        if len(request.digests) > _MAX_DIGESTS:
            raise AgentError(Fault.INVALID, f"{len(request.digests)} digests in one question: at most {_MAX_DIGESTS}")
        digests = [check_digest(digest) for digest in request.digests]
        missing = [
            pb.MissingArtifact(digest=digest, held_bytes=self._store.held_bytes(digest))
            for digest in dict.fromkeys(digests)
            if not self._store.has(digest)
        ]
        return pb.FindMissingReply(missing=missing)

    def Upload(self, request_iterator: Iterator[pb.UploadRequest], context: grpc.ServicerContext) -> pb.UploadReply:
        """Take in one file."""
        try:
            return self._receive(self._patience.of(request_iterator, context), context)
        finally:
            give_back()

    def _receive(self, requests: Iterator[pb.UploadRequest], context: grpc.ServicerContext) -> pb.UploadReply:
        header = first_of(requests, "header").header
        digest = check_digest(header.digest)
        with self._store.receiving(digest, header.size_bytes, header.offset, context.is_active) as receiver:
            if receiver is None:
                return pb.UploadReply(digest=digest, size_bytes=header.size_bytes, already_stored=True)
            for request in requests:
                if request.WhichOneof("part") != "chunk":
                    raise AgentError(Fault.INVALID, "a second header came in one upload: send one file a call")
                receiver.write(request.chunk)
            if not context.is_active():
                raise AgentError(Fault.TIMED_OUT, "the upload was cut: resume it")
            return pb.UploadReply(digest=receiver.finish(), size_bytes=header.size_bytes)

    def Remove(self, request: pb.RemoveRequest, context: grpc.ServicerContext) -> pb.RemoveReply:
        """Forget a file."""
        digest = check_digest(request.digest)
        if self._networks.uses(digest):
            raise AgentError(Fault.REFUSED, f"{digest[:12]}… is in use by a prepared network: unload that first")
        return pb.RemoveReply(freed_bytes=self._store.remove(digest))

    def Program(self, request: pb.ProgramRequest, context: grpc.ServicerContext) -> pb.ProgramReply:
        """Put a design and a network into the stand-in's logic."""
        design, digest = check_digest(request.design), check_digest(request.digest)
        if not self._config.emulated:
            raise AgentError(Fault.REFUSED, _NO_LOGIC)
        if not self._store.has(digest):
            raise AgentError(Fault.NOT_FOUND, f"{digest} is not on this board: upload it first")
        who = self._board.identity()
        device = device_fingerprint(self._board.kind, who)
        with self._logic:
            if self._programmed is None:
                self._programmed = ProgrammableLogic(self._store.root / "programmed.json", who.boot_id, device)
        try:
            before = self._programmed.program(design, digest)
        except OSError as error:
            message = f"the stand-in cannot note what it holds: {error.strerror}: free some space in its --data folder"
            raise AgentError(Fault.EXHAUSTED, message) from None
        return pb.ProgramReply(
            design_loaded=before.design_loaded,
            network_loaded=before.network_loaded,
            boot_id=who.boot_id,
            device=device,
        )

    def Prepare(self, request: pb.PrepareRequest, context: grpc.ServicerContext) -> Iterator[pb.PrepareEvent]:
        """Make a network ready."""
        digest = check_digest(request.digest)
        if request.runtime:
            check_identifier(request.runtime, "runtime")
        options = check_options(request.options)
        runtime = self._probe.find(request.runtime)
        if request.HasField("permit") and runtime.format == ONNX:
            message = f"runtime {runtime.name} takes no permit: leave it out, or name the runtime it is for"
            raise AgentError(Fault.INVALID, message)
        if runtime.format != ONNX:
            if not self._store.has(digest):
                raise AgentError(Fault.NOT_FOUND, f"{digest} is not on this board: upload it first")
            self._permits.admit(request.permit, digest)
        # Of a board's family, and asked anew each time: another design may have been loaded into its logic.
        details = self._board.identity().details if runtime.builds else {}
        waiting = context.is_active
        with (
            self._quiet.shared(waiting),  # loading and compiling would slow a block down
            contextlib.closing(self._networks.prepare(digest, runtime, options, waiting, details)) as events,
        ):
            for event in events:
                if self._config.emulated:
                    _forget_times(event)
                yield event

    def Infer(
        self, request_iterator: Iterator[pb.InferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InferReply]:
        """Run batches."""
        requests = self._patience.of(request_iterator, context)
        with self._network_of(requests, context.is_active) as network:
            limit_s = self._config.batch_timeout_s
            frames = network.infer(tensors_of(requests), self._quiet, context.is_active, limit_s)
            with contextlib.closing(frames):
                for frame in frames:
                    reply = pb.InferReply()
                    if frame.kind is Kind.PART:
                        reply.tensor.ParseFromString(frame.payload)
                    else:
                        reply.batch.ParseFromString(frame.payload)
                        if self._config.emulated:
                            reply.batch.ClearField("duration_ms")
                    with self._patience.with_host(context):
                        yield reply

    def LoadInputs(
        self, request_iterator: Iterator[pb.InferRequest], context: grpc.ServicerContext
    ) -> pb.LoadInputsReply:
        """Keep one batch for warm-up and blocks."""
        requests = self._patience.of(request_iterator, context)
        with self._network_of(requests, context.is_active) as network:
            return network.load_inputs(tensors_of(requests), self._config.batch_timeout_s)

    def WarmUp(self, request: pb.WarmUpRequest, context: grpc.ServicerContext) -> pb.WarmUpReply:
        """Run until steady."""
        check_identifier(request.network_id, "network_id")
        full = with_defaults(request)
        limit_s = min(full.max_duration_s, BLOCK_LIMIT_S) + self._config.batch_timeout_s
        return self._timed(request.network_id, context, lambda network: network.warm_up(full, limit_s))

    def TimeBlock(self, request: pb.TimeBlockRequest, context: grpc.ServicerContext) -> pb.Block:
        """Time one block."""
        check_identifier(request.network_id, "network_id")
        full = check_block(request)
        # Every run of it may take what a batch may take; a block as a whole is bounded all the same.
        limit_s = min(full.min_duration_s + full.min_iterations * self._config.batch_timeout_s, BLOCK_LIMIT_S)
        return self._timed(request.network_id, context, lambda network: network.time_block(full, limit_s))

    def StreamTelemetry(
        self, request: pb.TelemetryRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TelemetrySample]:
        """Sample the sensors."""
        interval_s, duration_s = request.interval_s, request.duration_s
        if not _MIN_INTERVAL_S <= interval_s <= 3600:
            raise AgentError(Fault.INVALID, f"interval_s {interval_s}: from {_MIN_INTERVAL_S} to 3600")
        if not 0 <= duration_s < float("inf"):
            raise AgentError(Fault.INVALID, f"duration_s {duration_s}: 0 (until cancelled) or more")
        with self._samplers.lend(interval_s, context.peer()) as sampler:
            began = time.monotonic()
            left = Leaving(context)
            count = 0
            while True:
                count += 1
                # Against the beginning, so that the time a sample takes does not add up.
                due_s = began + count * interval_s
                if duration_s and due_s - began > duration_s + 1e-9:
                    return
                if left.within(due_s - time.monotonic()):
                    return
                yield sampler.sample().to_proto()

    def HoldSettings(
        self, request_iterator: Iterator[pb.HoldRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.HoldEvent]:
        """Set the board's state for as long as the call lasts."""
        asked = asked_of(request_iterator)
        if self._config.emulated:
            raise AgentError(Fault.REFUSED, _NO_STATE)
        yield from hold(self._settings, asked, request_iterator, context)

    def Unload(self, request: pb.UnloadRequest, context: grpc.ServicerContext) -> pb.UnloadReply:
        """End a network."""
        self._networks.unload(check_identifier(request.network_id, "network_id"))
        return pb.UnloadReply()

    @contextlib.contextmanager
    def _network_of(
        self, request_iterator: Iterator[pb.InferRequest], waiting: Callable[[], bool]
    ) -> Iterator[Network]:
        """The network that the first request of a stream names."""
        first = first_of(request_iterator, "network_id")
        with self._networks.using(check_identifier(first.network_id, "network_id"), waiting) as network:
            yield network

    def _timed(self, network_id: str, context: grpc.ServicerContext, task: Callable[[Network], _Reply]) -> _Reply:
        """Do `task` with nothing else of this agent running beside it; stop it when the host leaves."""
        if self._config.emulated:
            raise AgentError(Fault.REFUSED, _NO_TIME)
        with (
            self._networks.using(network_id, context.is_active) as network,
            self._quiet.alone(context.is_active),
            interrupted_when_left(network, context),
        ):
            return task(network)


def _forget_times(event: pb.PrepareEvent) -> None:
    """How long this machine took says nothing of the board it stands in for."""
    if event.HasField("phase"):
        event.phase.ClearField("duration_ms")
    if event.HasField("ready"):
        for name in ("start_ms", "check_ms", "load_ms", "compile_ms"):
            event.ready.ClearField(name)
