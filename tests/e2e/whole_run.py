"""Whole runs as a user starts them: real processes, a real network of a few kilobytes, real agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from tests.warm import process as warm

CLASSES = 4


def tiny_network(path: Path, *, batch: int | str = "N", channels: int = 3) -> None:
    """Conv, ReLU, pool and a fully connected layer over [N, channels, 8, 8]."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.3, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p1"], name="pool1"),
        helper.make_node("Flatten", ["p1"], ["f1"], name="flatten1"),
        helper.make_node("Gemm", ["f1", "w2", "b2"], ["y"], name="fc1", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        [weight("w1", 16, channels, 3, 3), weight("b1", 16), weight("w2", CLASSES, 16), weight("b2", CLASSES)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def labels_of(model: Path, x: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What the float network says: its accuracy is 1 by construction."""
    import onnxruntime

    (y,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    best: np.ndarray[Any, np.dtype[np.int64]] = np.asarray(y).argmax(axis=1).astype(np.int64)
    return best


class Bench:
    """A folder with a job, a lab and a database, and the commands run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.model = folder / "tiny.onnx"
        self.job = folder / "job.yaml"
        self.lab = folder / "targets.yaml"
        self.out = folder / "out"
        self.store = folder / "quantrig.db"
        self.env = os.environ | {
            "QUANTRIG_STORE": str(self.store),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_STATE_HOME": str(folder / "state"),
            "TERM": "dumb",
        }
        tiny_network(self.model)
        self.data(200)
        self.write_job()
        self.write_lab()

    def data(self, count: int) -> None:
        x = np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)
        np.savez(self.folder / "data.npz", x=x, labels=labels_of(self.model, x))

    def write_job(self, extra: str = "") -> None:
        self.job.write_text(
            f"name: tiny\nmodel: tiny.onnx\ndata: {{source: data.npz, calibration: 40}}\n"
            f"metrics: [accuracy_top1]\n{extra}"
        )

    def write_lab(self, text: str | None = None) -> None:
        self.lab.write_text(
            text
            or "targets:\n"
            "  here: {board: generic, environment: cpu, via: local}\n"
            "  jetson: {board: jetson-orin-nano, environment: gpu, via: emulated}\n"
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments],
            cwd=self.folder, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def quantrig(self, *arguments: str, code: int = 0, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        done = warm.quantrig(*arguments, cwd=self.folder, env=self.env, timeout_s=timeout_s)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.quantrig("run", "job.yaml", "--profile", "quick", "--out", "out", *arguments, code=code)

    def record(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "run.json").read_text())
        return loaded

    def target(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.record()["targets"] if one["name"] == name)
        return found

    def run_id(self) -> str:
        listed = json.loads(self.quantrig("runs", "--json").stdout)
        newest: str = listed[0]["run_id"]
        return newest


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Agent:
    """An agent of our own on loopback, to be killed and started again at the same address."""

    def __init__(self, folder: Path, port: int = 0, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agents", "serve", "--listen", f"127.0.0.1:{port}", "--ready-json",
             "--exit-on-stdin-eof", "--data", str(folder), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["listening"]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(60)
