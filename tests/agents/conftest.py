"""Real agents, one process each, and the small networks they run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agents.protocol import agent_pb2 as pb
from agents.protocol import agent_pb2_grpc as rpc

Array = NDArray[Any]
_Result = TypeVar("_Result")
ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0  # for a loaded machine; how fast it must be is a test of its own


class AgentProcess:
    """`python -m agents serve` at work, and a host's side of its calls."""

    def __init__(self, data_dir: Path, *options: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        command = [sys.executable, "-m", "agents", "serve", "--data", str(data_dir), "--ready-json"]
        command += ["--exit-on-stdin-eof", *options]
        if "--listen" not in options:
            command += ["--listen", "127.0.0.1:0"]
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=cwd, env=env
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.kill()
            raise AssertionError(f"the agent did not start: {self.log.read_text()}")
        self.start_s = time.monotonic() - began
        self.ready: dict[str, Any] = json.loads(line)
        self.address = str(self.ready["listening"])
        self._channel: grpc.Channel | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address)
        return self._channel

    @property
    def stub(self) -> rpc.AgentStub:
        return rpc.AgentStub(self.channel)

    def upload(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.stub.Upload(iter(upload_requests(digest, data)), timeout=60)
        return digest

    def prepare(self, data: bytes, **options: object) -> pb.PreparedNetwork:
        return self.prepare_events(self.upload(data), **options)[-1].ready

    def prepare_events(self, digest: str, **options: object) -> list[pb.PrepareEvent]:
        request = pb.PrepareRequest(digest=digest, options=pb.SessionOptions(**options))  # type: ignore[arg-type]
        return list(self.stub.Prepare(request, timeout=60))

    def infer(self, network_id: str, batches: Iterable[Mapping[str, Array]]) -> list[dict[str, Array]]:
        return outputs_of(self.stub.Infer(infer_requests(network_id, batches), timeout=60))

    def load_inputs(self, network_id: str, batch: Mapping[str, Array]) -> pb.LoadInputsReply:
        return self.stub.LoadInputs(infer_requests(network_id, [batch]), timeout=60)

    def children(self) -> list[int]:
        """Process ids of the agent's children (zombies included)."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def child_of(self, network_id: str) -> int:
        """The one child there is, once the probe of the runtimes is over."""
        self.stub.Describe(pb.DescribeRequest(), timeout=60)
        (pid,) = wait_for(lambda: self.children() if len(self.children()) == 1 else None, f"child of {network_id}")
        return pid

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def stop(self) -> int:
        """Close stdin, as a host that ends does; the exit status."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def kill(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.process.kill()
        self.process.wait(60)


StartAgent = Callable[..., AgentProcess]


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents with options of a test's own; each gets a data directory unless it names one."""
    started: list[AgentProcess] = []

    def start(*options: str, data_dir: Path | None = None, env: Mapping[str, str] | None = None) -> AgentProcess:
        agent = AgentProcess(data_dir or tmp_path / f"agent{len(started)}", *options, env=env)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        if agent.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.stop()
        if agent.process.poll() is None:
            agent.kill()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One agent for all tests of a module that leave it as they found it."""
    agent = AgentProcess(tmp_path_factory.mktemp("agent") / "data", "--max-networks", "32")
    yield agent
    assert agent.stop() == 0


def wait_for(check: Callable[[], _Result | None], what: str, limit_s: float = 60.0) -> _Result:
    """The first true result of `check`, asked until a deadline."""
    deadline = time.monotonic() + limit_s
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {limit_s} s")
        select.select([], [], [], 0.01)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_hard(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def upload_requests(
    digest: str, data: bytes, *, size_bytes: int | None = None, offset: int = 0, chunk_bytes: int = 1 << 20
) -> Iterator[pb.UploadRequest]:
    header = pb.UploadHeader(digest=digest, size_bytes=len(data) if size_bytes is None else size_bytes, offset=offset)
    yield pb.UploadRequest(header=header)
    for start in range(offset, len(data), chunk_bytes):
        yield pb.UploadRequest(chunk=data[start : start + chunk_bytes])


def tensor_parts(name: str, tensor: Array, *, last: bool = True, part_bytes: int = 1 << 20) -> Iterator[pb.TensorPart]:
    raw = tensor.tobytes()
    for start in range(0, max(len(raw), 1), part_bytes):
        ends = start + part_bytes >= len(raw)
        part = pb.TensorPart(data=raw[start : start + part_bytes], last_of_tensor=ends, last_of_batch=ends and last)
        if not start:
            part.name, part.dtype = name, tensor.dtype.name
            part.shape.extend(tensor.shape)
        yield part


def infer_requests(network_id: str, batches: Iterable[Mapping[str, Array]]) -> Iterator[pb.InferRequest]:
    yield pb.InferRequest(network_id=network_id)
    for batch in batches:
        names = list(batch)
        for name in names:
            for part in tensor_parts(name, batch[name], last=name == names[-1]):
                yield pb.InferRequest(tensor=part)


def outputs_of(replies: Iterable[pb.InferReply]) -> list[dict[str, Array]]:
    """The batches of outputs that a stream of replies holds."""
    batches: list[dict[str, Array]] = []
    batch: dict[str, Array] = {}
    first, raw = pb.TensorPart(), bytearray()
    for reply in replies:
        if reply.HasField("batch"):
            assert reply.batch.index == len(batches)
            batches.append(batch)
            batch = {}
            continue
        part = reply.tensor
        if not raw and part.name:
            first = part
        raw += part.data
        if part.last_of_tensor:
            batch[first.name] = np.frombuffer(bytes(raw), first.dtype).reshape(tuple(first.shape))
            raw.clear()
    assert not raw
    assert not batch
    return batches


def failure(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Status and text of a call that must fail; the text is one line."""

    def to_its_end() -> None:
        result = call()
        if isinstance(result, Iterator):
            list(result)

    with pytest.raises(grpc.RpcError) as caught:
        to_its_end()
    error: Any = caught.value
    assert "\n" not in error.details()
    return error.code(), error.details()


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "network", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def convolution_bytes(seed: int = 0) -> bytes:
    """A float convolution, pooling and a matrix product: N x 3 x 16 x 16 to N x 10."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((8, 3, 3, 3)).astype("float32")
    product = random.standard_normal((8, 10)).astype("float32")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(product, "m")],
    )


def relu_bytes(name: str = "x") -> bytes:
    """The smallest network: y = max(x, 0), N x 4. Another input name makes another digest."""
    return model_bytes(
        [helper.make_node("Relu", [name], ["y"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )


def filled_bytes() -> bytes:
    """A tensor of the shape that the input says, summed: its memory is bounded by nothing in the file."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], value=value),
        helper.make_node("ReduceSum", ["filled"], ["y"], keepdims=0),
    ]
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )


def product_bytes(products: int = 4) -> bytes:
    """Square matrix products one after another, N x N: as slow as the host makes N."""
    nodes = [helper.make_node("MatMul", [f"t{i}", "x"], [f"t{i + 1}"]) for i in range(products)]
    nodes.insert(0, helper.make_node("Identity", ["x"], ["t0"]))
    nodes.append(helper.make_node("ReduceMax", [f"t{products}"], ["y"], keepdims=0))
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
