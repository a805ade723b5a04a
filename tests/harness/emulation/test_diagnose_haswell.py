"""The 16-bit pairs of a real kernel: ONNX Runtime on an emulated processor with AVX2 and without VNNI.

The hypothesis is ours, the kernel is not: what it returns must be explained without one differing value.
"""

from __future__ import annotations

import pickle
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.emulation.diagnose.compare import Arrays, Executable, compare
from harness.quantize import Quantizer
from harness.quantize.graph import read_model

QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")

#: Runs there: a network over feeds, all outputs by name.
PROGRAM = """
import pickle, sys
import numpy as np, onnxruntime as ort
with open(sys.argv[1], "rb") as file:
    model, disabled, feeds = pickle.load(file)
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
names = [output.name for output in session.get_outputs()]
found = [dict(zip(names, map(np.asarray, session.run(None, feed)))) for feed in feeds]
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""


def network() -> ModelProto:
    """An odd number of products (3 x 3 x 3), an even one (1 x 1 x 8), a depthwise layer and a classifier."""
    random = np.random.default_rng(11)
    shapes = {"a.w": (8, 3, 3, 3), "b.w": (8, 8, 1, 1), "c.w": (8, 1, 3, 3), "d.w": (4, 8)}
    stored = {name: random.uniform(-0.1, 1, shape) for name, shape in shapes.items()}
    stored |= {"a.b": random.uniform(-1, 1, 8), "b.b": random.uniform(-1, 1, 8)}
    nodes = [
        helper.make_node("Conv", ["x", "a.w", "a.b"], ["a0"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a0"], ["a1"], "a.relu"),
        helper.make_node("Conv", ["a1", "b.w", "b.b"], ["b0"], "b"),
        helper.make_node("Relu", ["b0"], ["b1"], "b.relu"),
        helper.make_node("Conv", ["b1", "c.w"], ["c0"], "c", group=8),
        helper.make_node("Relu", ["c0"], ["c1"], "c.relu"),
        helper.make_node("GlobalAveragePool", ["c1"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "d.w"], ["y"], "d", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.skipif(QEMU is None or platform.machine() != "x86_64", reason="needs qemu-x86_64 (qemu-user) on x86")
def test_a_real_saturating_kernel_is_explained_to_the_last_value(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).uniform(-0.2, 1, (12, 3, 10, 10)).astype(np.float32)
    onnx.save(network(), tmp_path / "net.onnx")
    session = Quantizer(tmp_path / "net.onnx", "cpu")
    session.calibrate([{"x": samples}])
    made = session.quantize(tmp_path / "int8.onnx", method="minmax")
    feeds = [{"x": one[None]} for one in samples[:2]]

    def on_haswell(model: ModelProto, disabled: Sequence[str]) -> list[Arrays]:
        given, answer = tmp_path / "given", tmp_path / "answer"
        given.write_bytes(pickle.dumps((model.SerializeToString(), list(disabled), feeds)))
        command = [str(QEMU), "-cpu", "Haswell", sys.executable, "-c", PROGRAM, str(given), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode < 0:
            pytest.skip(f"this ONNX Runtime does not run under this QEMU (signal {-done.returncode})")
        assert done.returncode == 0, done.stderr
        found: list[Arrays] = pickle.loads(answer.read_bytes())
        return found

    int8 = Executable(read_model(made.path), made.disabled_optimizers, "Q/DQ")
    told = compare(int8.model, int8, int8, feeds, arithmetic=None, run_board=on_haswell, precise=True)
    by_name = {layer.layer: layer for layer in told.layers}
    for name in ("a", "b"):
        assert by_name[name].own > 0
        assert "16-bit saturation of pairs" in {kind.name for kind in by_name[name].kinds}, by_name[name]
    assert by_name["c"].own == 0  # depthwise kernels add in 32 bits
    assert by_name["x"].differing == 0
