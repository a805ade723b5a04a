"""Agents on boards that are not here: a copy of the agent's package beside stand-ins for the vendors' packages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import ROOT, AgentProcess, Array, infer_requests, model_bytes, outputs_of

STAND_INS = Path(__file__).parent / "stand_ins"
CPU = "CPUExecutionProvider"
#: Release files as on the boards of ../shared/facts/jetson_power_clock_samples.txt.
L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


class Board:
    """One copy of the agent in a folder of its own; started when asked, as often as asked.

    Args:
        folder: where.
        providers: what the stand-in for ONNX Runtime takes, operators by provider; None: the real package serves.
    """

    def __init__(self, folder: Path, providers: Mapping[str, Sequence[str]] | None = None, **vendor: object) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.data = folder / "data"
        self.root.mkdir(parents=True)
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / "agents", folder / "agents", ignore=ignored)
        if providers is not None:
            (folder / "onnxruntime").mkdir()
            shutil.copy(STAND_INS / "vendor_onnxruntime.py", folder / "onnxruntime" / "__init__.py")
            chosen: dict[str, object] = {"providers": providers, "broken": [], "old": False, "build_s": 0, "fails": ""}
            (folder / "onnxruntime" / "vendor.json").write_text(json.dumps(chosen | vendor))

    def package(self, name: str, version: str) -> None:
        """An installed package, as importlib.metadata sees it."""
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of the board's own."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> AgentProcess:
        """The agent as a process."""
        environment = {**os.environ, **(env or {}), "PYTHONPATH": str(self.folder)}
        return AgentProcess(self.data, "--board-root", str(self.root), *options, env=environment, cwd=self.folder)

    def sessions(self) -> list[dict[str, Any]]:
        """What the stand-in for ONNX Runtime was given and did, in order."""
        path = self.folder / "onnxruntime" / "sessions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def did(self) -> list[str]:
        """What it built or loaded."""
        return [one["did"] for one in self.sessions() if "did" in one]


MakeBoard = Callable[..., Board]


@pytest.fixture
def make_board(tmp_path: Path) -> MakeBoard:
    """Boards of a test's own."""
    return lambda providers=None, **vendor: Board(tmp_path / "board", providers, **vendor)


@pytest.fixture
def run_agent() -> Iterator[Callable[..., AgentProcess]]:
    """Starts agents of boards and ends them."""
    started: list[AgentProcess] = []

    def start(board: Board, *options: str, env: Mapping[str, str] | None = None) -> AgentProcess:
        started.append(board.start(*options, env=env))
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.stop()


def prepare(agent: AgentProcess, data: bytes, runtime: str = "", **options: object) -> list[pb.PrepareEvent]:
    """Upload a network and prepare it with a runtime; all events."""
    request = pb.PrepareRequest(
        digest=agent.upload(data),
        runtime=runtime,
        options=pb.SessionOptions(**options),  # type: ignore[arg-type]
    )
    return list(agent.stub.Prepare(request, timeout=60))


def run(agent: AgentProcess, ready: pb.PreparedNetwork, name: str, batch: Array) -> dict[str, Array]:
    """The outputs of one batch."""
    replies = agent.stub.Infer(infer_requests(ready.network_id, [{name: batch}]), timeout=60)
    return outputs_of(replies)[0]


def qdq_bytes(batch: int | str = 1) -> bytes:
    """A quantized product: Q/DQ on both sides of a MatMul, then a Softmax that stays float. N x 4 to N x 3."""
    weights = np.random.default_rng(5).integers(-127, 128, (4, 3), dtype=np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"], name="product"),
        helper.make_node("QuantizeLinear", ["m", "sm", "zx"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "sm", "zx"], ["md"]),
        helper.make_node("Softmax", ["md"], ["y"], name="last"),
    ]
    zero = np.zeros((), np.int8)
    stored = {
        "w": weights, "sx": np.float32(0.02), "sw": np.float32(0.01), "sm": np.float32(0.05), "zx": zero, "zw": zero,
    }  # fmt: skip
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
