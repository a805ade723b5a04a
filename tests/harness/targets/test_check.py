"""`check_targets`: every board asked at once, and the canary that tells what its int8 arithmetic does."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.targets.canary import Canary, CanaryVerdict, canary, judge
from harness.targets.check import check_targets
from harness.targets.lab import Target
from harness.targets.spawn import spawned_agent

MakeTarget = Callable[..., Target]
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


def pairwise_saturated(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """a @ b as `vpmaddubsw` and a 32-bit sum compute it: neighbouring products added in 16 bits, saturating."""
    products = a.astype(np.int64)[:, :, None] * b.astype(np.int64)[None, :, :]
    pairs = products.reshape(a.shape[0], -1, 2, b.shape[1]).sum(axis=2)
    return np.asarray(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1))


def initializers(reference: Canary) -> dict[str, Any]:
    graph = onnx.load_from_string(reference.model).graph
    return {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}


def test_reference_agrees_with_the_onnx_reference_evaluator() -> None:
    reference = canary()
    onnx.checker.check_model(onnx.load_from_string(reference.model), full_check=True)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(reference.model))
    y, z = evaluator.run(["y", "z"], reference.inputs)
    np.testing.assert_array_equal(y, reference.exact["y"])
    np.testing.assert_array_equal(z, reference.exact["z"])


def test_this_machine_with_the_precise_option_is_exact() -> None:
    """ONNX Runtime's own switch against saturation must satisfy the canary on any x86, with or without VNNI."""
    reference = canary()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(reference.model, options, providers=["CPUExecutionProvider"])
    y, z = session.run(["y", "z"], reference.inputs)
    assert judge({"y": y, "z": z}, reference) is CanaryVerdict.EXACT


def test_16_bit_pair_sums_are_recognized() -> None:
    reference = canary()
    y = pairwise_saturated(reference.inputs["a"], initializers(reference)["b"])
    assert (y != reference.exact["y"]).any()
    seen = {"y": y.astype(np.int32), "z": reference.exact["z"].astype(np.int32)}
    assert judge(seen, reference) is CanaryVerdict.SATURATES


ON_ANOTHER_CPU = """
import onnxruntime
from harness.targets.canary import canary, judge
reference = canary()
for precise in ("0", "1"):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", precise)
    session = onnxruntime.InferenceSession(reference.model, options, providers=["CPUExecutionProvider"])
    print(judge(dict(zip("yz", session.run(["y", "z"], reference.inputs))), reference).value)
"""


@pytest.mark.skipif(QEMU is None or platform.machine() != "x86_64", reason="needs qemu-user for x86_64 on x86_64")
def test_a_real_processor_without_vnni_is_found_out() -> None:
    """ONNX Runtime itself on an emulated Haswell (AVX2, no VNNI), as it is and with its precise option."""
    assert QEMU is not None
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell", sys.executable, "-c", ON_ANOTHER_CPU], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["saturates", "exact"]


@given(st.sampled_from(["y", "z"]), st.integers(0, 31), st.integers(-(2**20), 2**20).filter(bool))
def test_any_other_difference_is_told_apart(name: str, where: int, by: int) -> None:
    reference = canary()
    seen: dict[str, Any] = {key: value.astype(np.int32) for key, value in reference.exact.items()}
    seen[name].reshape(-1)[where] += by
    assert judge(seen, reference) is CanaryVerdict.DIFFERS


def test_canary_is_the_same_file_every_time() -> None:
    assert canary().model == canary().model
    assert len(canary().model) < 4096


def test_several_targets_at_once(make_target: MakeTarget, tmp_path: Path) -> None:
    targets = [
        make_target("local", name="here"),
        make_target("emulated", name="nano", board="jetson-orin-nano"),
        make_target("address", name="gone", address="127.0.0.1:1"),
        make_target("qemu", name="later"),
    ]
    heard: list[str] = []
    begun = time.monotonic()
    here, nano, gone, later = check_targets(targets, work_dir=tmp_path, on_result=lambda h: heard.append(h.name))
    assert time.monotonic() - begun < 20
    assert sorted(heard) == ["gone", "here", "later", "nano"]
    assert here.fit
    assert here.reachable
    assert here.emulated is False
    assert here.canary in ("exact", "saturates")
    assert here.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert here.round_trip_ms is not None
    assert 0 < here.round_trip_ms < 1000
    assert here.storage_free_bytes is not None
    assert nano.emulated is True
    assert nano.fit
    assert (gone.reachable, gone.fit) == (False, False)
    assert gone.problem is not None
    assert gone.problem.startswith("nothing answers at 127.0.0.1:1")
    assert later.problem is not None
    assert "`via: qemu`" in later.problem
    json.dumps([h.as_json() for h in (here, nano, gone, later)], allow_nan=False)


def test_wrong_board_in_the_lab_file_is_a_warning(make_target: MakeTarget, tmp_path: Path) -> None:
    with spawned_agent("real", "generic", emulated=False, work_dir=tmp_path, stop=threading.Event()) as (_, address):
        (health,) = check_targets([make_target("address", address=address, board="zcu102")], work_dir=tmp_path)
    assert health.fit
    assert any("'generic'" in warning for warning in health.warnings)


def test_no_targets() -> None:
    assert check_targets([]) == []


@pytest.mark.parametrize("field", ["fit", "problem", "canary", "name"])
def test_json_has_the_fields_scripts_read(make_target: MakeTarget, tmp_path: Path, field: str) -> None:
    (health,) = check_targets([make_target("qemu")], work_dir=tmp_path)
    assert field in health.as_json()
