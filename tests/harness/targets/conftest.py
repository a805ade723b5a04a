"""Real servers, real agents, a real TCP link that counts and can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper

from agents.protocol.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from harness.targets.target import Target, Via, ViaKind

MakeTarget = Callable[..., Target]
Serve = Callable[[AgentServicer], str]


@pytest.fixture
def make_target(tmp_path: Path) -> MakeTarget:
    """`make_target("local")`, `make_target("address", address=…, tls=…)`."""

    def make(
        kind: ViaKind, name: str = "bench", address: str | None = None, tls: Path | None = None, board: str = "generic"
    ) -> Target:
        return Target(name=name, board=board, environment="cpu", via=Via(kind, address, tls), base=tmp_path)

    return make


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Agents started by a test keep their files below its own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a gRPC server with some servicer and a health service; its address."""
    with ExitStack() as stack:

        def start(servicer: AgentServicer) -> str:
            pool = stack.enter_context(ThreadPoolExecutor(8))
            server = grpc.server(pool, options=[("grpc.max_send_message_length", -1)])
            stack.callback(lambda: server.stop(0).wait(60))
            add_AgentServicer_to_server(servicer, server)
            checks = health.HealthServicer()
            checks.set("", health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            return f"127.0.0.1:{port}"

        yield start


def agents_of(process: psutil.Process) -> list[psutil.Process]:
    """Its children that serve as agents."""

    def serves(child: psutil.Process) -> bool:
        try:
            return "serve" in child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ends at this moment, or nobody has waited for it
            return False

    return [child for child in process.children() if serves(child)]


class Link:
    """A TCP proxy on loopback: counts what the client sends, can cut every connection once so many bytes passed."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self.received = 0
        self.cuts = 0
        self._cut_at: int | None = None
        self._flip_at: int | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int) -> None:
        """Cut all connections when `count` more bytes went towards the agent; once."""
        with self._lock:
            self._cut_at = self.sent + count

    def flip_after(self, count: int) -> None:
        """Damage the byte that comes `count` bytes from now on its way to the agent; once."""
        with self._lock:
            self._flip_at = self.sent + count

    def _damaged(self, data: bytes) -> bytes:
        with self._lock:
            if self._flip_at is None or not self.sent <= self._flip_at < self.sent + len(data):
                return data
            at, self._flip_at = self._flip_at - self.sent, None
        return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._upstream, 60)
            except OSError:
                return
            with self._lock:
                self._open |= {near, far}
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, towards_agent: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(self._damaged(data) if towards_agent else data)
                with self._lock:
                    if towards_agent:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                    cut = self._cut_at is not None and self.sent >= self._cut_at
                    if cut:
                        self._cut_at = None
                        self.cuts += 1
                if cut:
                    self.cut()
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def cut(self) -> None:
        """Cut every connection now; new ones are accepted."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Stop for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@pytest.fixture
def link() -> Iterator[Callable[[str], Link]]:
    """`link(address)`: a counting, cuttable way to the agent there."""
    with ExitStack() as stack:

        def make(upstream: str) -> Link:
            made = Link(upstream)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def matmul_model(tmp_path: Path) -> Callable[..., Path]:
    """A float network `y = x @ w`, free batch; `repeat` products with an orthogonal matrix, so that values stay put."""

    def make(width: int = 16, repeat: int = 1, seed: int = 0) -> Path:
        matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
        nodes = [
            helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", "w"], ["y" if i == repeat - 1 else f"h{i + 1}"])
            for i in range(repeat)
        ]
        graph = helper.make_graph(
            nodes,
            "matmul",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
            [numpy_helper.from_array(matrix.astype(np.float32), "w")],
        )
        path = tmp_path / f"matmul-{width}-{repeat}-{seed}.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString())
        return path

    return make
