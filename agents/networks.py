"""The networks that are ready to run: one child process each, found by id, remembered when it died."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agents.artifacts import ArtifactStore
from agents.config import AgentConfig
from agents.faults import AgentError, Fault
from agents.frames import Frame, Kind
from agents.limits import Limiter
from agents.probe import RuntimeChoice
from agents.process import ChildProcess
from agents.protocol import CHUNK_BYTES
from agents.protocol import agent_pb2 as pb
from agents.quiet import Quiet, turn
from agents.secret import Secret

#: Causes of death kept for hosts that ask late.
_REMEMBERED = 64
#: A network nobody used for this long makes room for another one.
_IDLE_S = 600.0
#: No single warm-up or block is longer, whatever a host asks for.
BLOCK_LIMIT_S = 900.0
#: A compiler at work is told to the host this often, but no oftener than a host of any version takes (64 phases).
_BEAT_S = 2.0
_MAX_BEATS = 48
_POLL_S = 0.2

Waiting = Callable[[], bool]
_Message = TypeVar("_Message", bound=Message)


class Network:
    """One prepared network: the calls a host can make on it, one at a time."""

    def __init__(self, child: ChildProcess, ready: pb.PreparedNetwork, digest: str, key: bytes) -> None:
        self.child = child
        self.ready = ready
        self.digest = digest
        self.key = key
        self.turn = threading.Lock()
        self.used_s = time.monotonic()

    @property
    def network_id(self) -> str:
        """As the hosts know it."""
        return self.ready.network_id

    def infer(
        self, parts: Iterator[pb.TensorPart], quiet: Quiet, waiting: Waiting, limit_s: float
    ) -> Generator[Frame, None, None]:
        """Run the batches that `parts` make up; PART and BATCH_DONE frames, in order.

        The next batch is taken from the host only when the last one was answered, so no data set piles up here.
        """
        with self._stream(Kind.BEGIN_INFER, limit_s):
            whole = True
            for part in parts:
                whole = part.last_of_batch
                if not whole:
                    self._forward(part, limit_s)
                    continue
                with quiet.shared(waiting):
                    self._forward(part, limit_s)
                    frame = self.child.receive("the batch", limit_s)
                while frame.kind is Kind.PART:
                    yield frame
                    frame = self.child.receive("the batch", limit_s)
                yield frame
            if not whole:
                raise AgentError(Fault.INVALID, "the stream ended in the middle of a batch: mark its last part")

    def load_inputs(self, parts: Iterator[pb.TensorPart], limit_s: float) -> pb.LoadInputsReply:
        """Keep one batch in the child."""
        with self._stream(Kind.BEGIN_LOAD, limit_s):
            for part in parts:
                self._forward(part, limit_s)
                if part.last_of_batch:
                    return _parsed(pb.LoadInputsReply(), self.child.receive("loading the inputs", limit_s), Kind.LOADED)
        raise AgentError(Fault.INVALID, "the stream ended in the middle of the batch: mark its last part")

    def warm_up(self, request: pb.WarmUpRequest, limit_s: float) -> pb.WarmUpReply:
        """Run until steady."""
        self.child.send(Kind.WARM_UP, request.SerializeToString())
        return _parsed(pb.WarmUpReply(), self.child.receive("the warm-up", limit_s), Kind.WARM)

    def time_block(self, request: pb.TimeBlockRequest, limit_s: float) -> pb.Block:
        """Time one block."""
        self.child.send(Kind.TIME_BLOCK, request.SerializeToString())
        return _parsed(pb.Block(), self.child.receive("the block", limit_s), Kind.BLOCK)

    @contextlib.contextmanager
    def _stream(self, begin: Kind, limit_s: float) -> Iterator[None]:
        """Begin a stream of parts and, however it ends, leave the child waiting for its next task."""
        self.child.send(begin)
        try:
            yield
        finally:
            # After a cancelled or refused stream: what the child still has to say about it is read and forgotten.
            if self.child.alive:
                with contextlib.suppress(AgentError):
                    self.child.send(Kind.END, timeout_s=limit_s)
                    self._drain(limit_s)

    def _drain(self, limit_s: float) -> None:
        while True:
            try:
                if self.child.receive("ending the stream", limit_s).kind is Kind.ENDED:
                    return
            except AgentError as error:
                if error.fault in (Fault.CRASHED, Fault.TIMED_OUT):
                    raise

    def _forward(self, part: pb.TensorPart, limit_s: float) -> None:
        if len(part.data) > CHUNK_BYTES:
            raise AgentError(Fault.INVALID, f"a part of {len(part.data)} bytes is too large: at most {CHUNK_BYTES}")
        self.child.send(Kind.PART, part.SerializeToString(), limit_s)
        if not part.last_of_batch and self.child.has_spoken():
            # Only a refusal comes before the batch is whole: do not take in the rest of it first.
            self.child.receive("taking the input", limit_s)


class NetworkTable:
    """All networks of the agent.

    Args:
        config: limits and policy.
        store: where the files are.
        limiter: makes the memory limit of each child.
    """

    def __init__(self, config: AgentConfig, store: ArtifactStore, limiter: Limiter) -> None:
        self._secret = Secret(store.root / "secret")
        self._config = config
        self._store = store
        self._limiter = limiter
        self._guard = threading.Lock()
        self._preparing = threading.Lock()
        self._networks: dict[str, Network] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._starting: set[ChildProcess] = set()
        self._closed = False

    def get(self, network_id: str) -> Network:
        """The network of that id.

        Raises:
            AgentError: CRASHED when it died, NOT_FOUND when there never was one (or it was unloaded).
        """
        self._bury()
        with self._guard:
            network = self._networks.get(network_id)
            cause = self._ended.get(network_id)
        if network is not None:
            return network
        if cause is not None:
            raise AgentError(Fault.CRASHED, f"network {network_id} {cause}: prepare it again")
        raise AgentError(Fault.NOT_FOUND, f"network {network_id} is not loaded: prepare it first")

    @contextlib.contextmanager
    def using(self, network_id: str, waiting: Waiting) -> Iterator[Network]:
        """The network of that id, with no other call on it meanwhile.

        Raises:
            AgentError: as `get`, or TIMED_OUT when the caller is gone.
        """
        network = self.get(network_id)
        with turn(network.turn, waiting):
            if not network.child.alive:
                self.get(network_id)  # says how it died
            try:
                yield network
            finally:
                network.used_s = time.monotonic()

    def loaded(self) -> list[Network]:
        """Those that run."""
        self._bury()
        with self._guard:
            return list(self._networks.values())

    def prepare(
        self,
        digest: str,
        runtime: RuntimeChoice,
        options: pb.SessionOptions,
        waiting: Waiting,
        details: Mapping[str, str] | None = None,
    ) -> Generator[pb.PrepareEvent, None, None]:
        """Events of making a network ready; at once when the same one is resident.

        Args:
            digest: of a stored file.
            runtime: which executes it; one of compiled networks is given only what a permit was admitted for.
            options: already checked.
            waiting: false once the caller is gone.
            details: what the board's family tells of it.

        Raises:
            AgentError: NOT_FOUND, REFUSED, EXHAUSTED, DATA_LOSS, CRASHED, TIMED_OUT.
        """
        key = b"\0".join((digest.encode(), runtime.name.encode(), options.SerializeToString(deterministic=True)))
        with turn(self._preparing, waiting):
            for network in self.loaded():
                if network.key == key:
                    network.used_s = time.monotonic()
                    ready = pb.PreparedNetwork()
                    ready.CopyFrom(network.ready)
                    ready.already_loaded = True
                    ready.resident_bytes = network.child.resident_bytes()
                    yield pb.PrepareEvent(ready=ready)
                    return
            descriptor = self._store.open(digest)
            try:
                self._make_room()
                child = self._start(digest, runtime, options, descriptor, details or {})
            finally:
                os.close(descriptor)
            registered = False
            try:
                for event in self._events(child, waiting):
                    if event.HasField("ready"):
                        event.ready.network_id = f"n-{digest[:8]}-{secrets.token_hex(4)}"
                        self._register(Network(child, event.ready, digest, key))
                        registered = True
                    yield event
            except AgentError as error:
                if error.fault is Fault.DATA_LOSS:
                    self._store.remove(digest)  # or the next upload would be skipped
                raise
            finally:
                with self._guard:
                    self._starting.discard(child)
                if not registered:
                    child.end("its preparation was not finished")

    def unload(self, network_id: str) -> None:
        """End a network's process. One that died already is forgotten without complaint.

        Raises:
            AgentError: NOT_FOUND.
        """
        with self._guard:
            network = self._networks.pop(network_id, None)
            known = self._ended.pop(network_id, None)
        if network is not None:
            network.child.end("it was unloaded")
        elif known is None:
            raise AgentError(Fault.NOT_FOUND, f"network {network_id} is not loaded: nothing to unload")

    def uses(self, digest: str) -> bool:
        """Whether a network that runs was made from this file."""
        return any(network.digest == digest for network in self.loaded())

    def close(self) -> None:
        """End every child."""
        with self._guard:
            self._closed = True
            children = [network.child for network in self._networks.values()] + list(self._starting)
            self._networks.clear()
        for child in children:
            child.end("the agent stops")

    def _start(
        self,
        digest: str,
        runtime: RuntimeChoice,
        options: pb.SessionOptions,
        descriptor: int,
        details: Mapping[str, str],
    ) -> ChildProcess:
        config = self._config
        task: dict[str, object] = {
            "do": "run",
            "digest": digest,
            "entry": runtime.entry,
            "format": runtime.format,
            "options": options.SerializeToString().hex(),
            "descriptor": descriptor,
            "allow_loops": config.allow_loops,
            "max_tensor_bytes": config.max_tensor_bytes,
            "built": str(self._store.built),
            "key": self._secret.key_for(f"built {digest}").hex(),
            "root": str(config.board_root or "/"),
            "details": dict(details),
            "emulated": config.emulated,
        }
        try:
            limit = self._limiter.limit(config.child_memory_bytes)
        except OSError as error:
            raise AgentError(Fault.EXHAUSTED, f"the board cannot limit a process: {error.strerror}") from None
        child = ChildProcess(task, limit, config.child_memory_bytes, (descriptor,), self._store.homes)
        with self._guard:
            self._starting.add(child)
            closed = self._closed
        if closed:
            child.end("the agent stops")
        return child

    def _events(self, child: ChildProcess, waiting: Waiting) -> Iterator[pb.PrepareEvent]:
        deadline = time.monotonic() + self._config.prepare_timeout_s
        start_ms = 0.0
        building: pb.PhaseDone | None = None
        while True:
            if building is not None:
                yield from self._signs_of_life(child, building, deadline, waiting)
            left_s = max(deadline - time.monotonic(), 0.001)
            try:
                frame = child.receive("preparing", left_s, waiting)
            except AgentError as error:
                if error.fault is Fault.TIMED_OUT:
                    message = (
                        f"preparing ran past its limit of {self._config.prepare_timeout_s:g} s: its process was ended; "
                        "use a smaller network or raise --prepare-timeout-s"
                    )
                    raise AgentError(Fault.TIMED_OUT, message) from None
                raise
            if frame.kind is Kind.READY:
                ready = _parsed(pb.PreparedNetwork(), frame, Kind.READY)
                ready.start_ms = start_ms
                ready.resident_bytes = child.resident_bytes()
                yield pb.PrepareEvent(ready=ready)
                return
            phase = _parsed(pb.PhaseDone(), frame, Kind.PHASE)
            building = phase if phase.under_way else None
            if phase.name == "start":
                # Only this side saw the process begin.
                start_ms = phase.duration_ms = (time.perf_counter() - child.started) * 1e3
            yield pb.PrepareEvent(phase=phase)

    def _signs_of_life(
        self, child: ChildProcess, building: pb.PhaseDone, deadline: float, waiting: Waiting
    ) -> Iterator[pb.PrepareEvent]:
        """While a compiler is silent, that it is still at work; ends when the child speaks or nobody listens."""
        began = time.monotonic()
        beat_s = max(_BEAT_S, self._config.prepare_timeout_s / _MAX_BEATS)
        due = began + beat_s
        while time.monotonic() < deadline and waiting():
            if child.has_spoken(_POLL_S):
                return
            if time.monotonic() >= due:
                due += beat_s
                so_far = pb.PhaseDone()
                so_far.CopyFrom(building)
                so_far.duration_ms = (time.monotonic() - began) * 1e3
                yield pb.PrepareEvent(phase=so_far)

    def _register(self, network: Network) -> None:
        with self._guard:
            self._networks[network.network_id] = network

    def _make_room(self) -> None:
        """Room for one more, by ending what nobody used for long.

        Raises:
            AgentError: EXHAUSTED when all are in use.
        """
        networks = self.loaded()
        if len(networks) < self._config.max_networks:
            return
        oldest = min(networks, key=lambda network: network.used_s)
        if time.monotonic() - oldest.used_s < _IDLE_S or oldest.turn.locked():
            message = f"{len(networks)} networks are loaded, as many as this agent allows: unload one first"
            raise AgentError(Fault.EXHAUSTED, message)
        self.unload(oldest.network_id)

    def _bury(self) -> None:
        """Move networks whose process died to the remembered ones."""
        with self._guard:
            for network_id, network in list(self._networks.items()):
                if not network.child.alive:
                    del self._networks[network_id]
                    self._ended[network_id] = network.child.cause
                    while len(self._ended) > _REMEMBERED:
                        self._ended.popitem(last=False)


def _parsed(message: _Message, frame: Frame, expected: Kind) -> _Message:
    """The message a frame carries; what a child says is not believed more than what a host says."""
    if frame.kind is not expected:
        raise AgentError(Fault.BUG, f"the network's process answered {frame.kind.name} for {expected.name}")
    try:
        message.ParseFromString(frame.payload)
    except DecodeError:
        raise AgentError(Fault.BUG, f"the network's process sent a malformed {expected.name}") from None
    return message
