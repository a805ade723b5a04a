"""Measuring a call in a child process: memory and CPU that are known beforehand, and the peers where installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import quantizer_networks
from benchmarks.peer_runs import PEERS_PYTHON, REPOSITORY, Tool, ToolFailed, measure, ours
from benchmarks.peers.measuring import Task
from benchmarks.quantizer_evaluation import Evaluator

SHARED = Path(__file__).parents[3] / "shared/data"
needs_networks = pytest.mark.skipif(not SHARED.is_dir(), reason="the networks are not beside the repository")
needs_peers = pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="the peers are not installed: make bench does it")

#: Touches 300 MB before the call and 100 MB in it; burns half a second in the call and a third before.
KNOWN = """
import time
import numpy as np
from benchmarks.peers import measuring

def burn(seconds):
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass

def prepare(task, samples):
    assert samples.tolist() == [0.0, 1.0, 2.0]
    large = np.ones(300_000_000, np.uint8)
    del large
    burn(0.3)
    def call():
        more = np.ones(100_000_000, np.uint8)
        burn(0.5)
        return {"said": task.variant, "last": int(more[-1])}
    return call

measuring.main(prepare)
"""


def test_the_call_is_told_from_the_process_and_from_what_was_freed_before(tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", np.arange(5, dtype=np.float32))
    task = Task(Path("model.onnx"), tmp_path / "samples.npy", "x", tmp_path / "out.onnx", "some variant", 3)
    finished = subprocess.run(
        [sys.executable, "-c", KNOWN, task.as_json()],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    used = json.loads(finished.stdout.splitlines()[-1])

    assert used["note"] == {"said": "some variant", "last": 1}
    assert 95 < used["call_growth_mb"] < 115
    assert used["process_peak_mb"] < 300
    assert 0.45 < used["call_cpu_s"] < 0.8
    assert used["process_cpu_s"] > used["call_cpu_s"] + 0.25


def test_a_task_survives_the_command_line() -> None:
    task = Task(Path("/a/model.onnx"), Path("/b/x.npy"), "input:0", Path("/c/out.onnx"), "calibrate MinMax", None)
    assert Task.from_json(task.as_json()) == task


def test_a_tool_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", np.zeros((1, 4), np.float32))
    task = Task(tmp_path / "missing.onnx", tmp_path / "samples.npy", "x", tmp_path / "out.onnx", "cpu")
    with pytest.raises(ToolFailed, match=r"missing\.onnx"):
        measure(ours("cpu"), task)


@needs_networks
@needs_peers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variant"),
    [("onnxruntime_static", "MinMax"), ("nncf_onnx", "fast"), ("quark_onnx", "XINT8"), ("child", "cpu")],
)
def test_each_package_makes_an_int8_network_that_runs(tmp_path: Path, module: str, variant: str) -> None:
    network = quantizer_networks.load("resnet8", 16)
    ((name, samples),) = network.calibration.items()
    np.save(tmp_path / "samples.npy", samples)
    task = Task(network.model, tmp_path / "samples.npy", name, tmp_path / "int8.onnx", variant)
    tool = ours(variant) if module == "child" else Tool(module, f"benchmarks.peers.{module}", variant)

    used = measure(tool, task)

    kinds = {node.op_type for node in onnx.load(str(task.out)).graph.node}
    assert kinds & {"QuantizeLinear", "DequantizeLinear"}
    result = Evaluator(network, limit=100).compare(task.out, used.note.get("disabled_optimizers", []))
    assert result.sqnr_db > 5
    assert 0 < used.call_cpu_s < used.process_cpu_s
