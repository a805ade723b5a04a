"""The networks that are ready to run: one child process each, found by id, remembered when it died."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping

from agents.artifacts import ArtifactStore
from agents.config import AgentConfig
from agents.faults import AgentError, Fault
from agents.limits import Limiter
from agents.network import Network, Waiting
from agents.preparing import preparing
from agents.probe import RuntimeChoice
from agents.process import ChildProcess
from agents.protocol import agent_pb2 as pb
from agents.quiet import turn
from agents.secret import Secret

#: Causes of death kept for hosts that ask late.
_REMEMBERED = 64
#: A network nobody used for this long makes room for another one.
_IDLE_S = 600.0


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
                for event in preparing(child, self._config.prepare_timeout_s, waiting):
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
