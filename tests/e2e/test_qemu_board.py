"""A whole run on an emulated ARM board: published as emulated, without a time, equal to what this host computes."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil

import numpy as np
import onnxruntime
import pytest

from tests.e2e.whole_run import Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="needs qemu-user-static"),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get"),
]
TIMES = {"fps", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "load_ms", "speedup", "power_w", "energy_mj"}


def test_a_run_on_qemu_has_outputs_and_no_times(bench: Bench) -> None:
    bench.write_lab("targets:\n  rpi: {board: raspberry-pi-4, environment: cpu, via: qemu}\n")
    said = bench.run(code=2).stderr
    assert "error: rpi: its ARM system for `via: qemu` is not on this machine yet" in said
    made = json.loads(bench.quantrig("targets", "provision", "rpi", "--json").stdout)
    assert made["made"]
    bench.run()
    target = bench.target("rpi")
    assert (target["status"], target["source"]) == ("done", "emulated")
    assert target["description"]["architecture"] == "aarch64"
    assert any("Cortex-A72 (QEMU" in note for note in target["notes"])
    with (bench.out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"emulated"}
    timed = [row for row in rows if row["metric"] in TIMES]
    assert timed
    assert {row["value"] for row in timed} == {""}

    x = np.load(bench.folder / "data.npz")["x"]
    (int8,) = (bench.out / "artifacts").glob("*cpu*.onnx")
    expected = np.asarray(onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])
    chunks = sorted((bench.out / "outputs" / "rpi" / "quantized").glob("*.npz"))
    kept = np.concatenate([np.load(chunk)["arr_1"] for chunk in chunks])
    (digest,) = (one for one in target["outputs"] if one["network"] == "Quantized")
    listed = [["y", "<f4", list(kept.shape[1:]), hashlib.sha256(kept.tobytes()).hexdigest()]]
    assert digest == {
        "network": "Quantized",
        "digest": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "samples": len(kept),
        "source": "emulated",
    }
    for row in kept:  # its samples are some of these, in another order
        assert (expected == row).all(axis=1).any()
