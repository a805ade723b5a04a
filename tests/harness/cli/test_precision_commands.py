"""`quantrig sensitivity` and the targets of `quantrig quantize`, as a user calls them."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.e2e.whole_run import labels_of, tiny_network
from tests.warm import process as warm


def quantrig(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = warm.quantrig(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_network(tmp_path / "tiny.onnx")
    x = np.random.default_rng(1).standard_normal((80, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=labels_of(tmp_path / "tiny.onnx", x))
    return tmp_path


DATA = ("tiny.onnx", "--data", "data.npz", "--environment", "fpga", "--method", "minmax")


def test_the_ranking_as_table_csv_and_json(folder: Path) -> None:
    found = json.loads(quantrig(folder, "sensitivity", *DATA, "--journal", "j", "-o", "table.csv", "--json").stdout)
    assert found["samples"] == 16
    assert found["environment"] == "fpga"
    assert {layer["Layer"] for layer in found["layers"]} == {"conv1", "pool1", "fc1"}
    gains = [layer["gain_db"] for layer in found["layers"]]
    assert gains == sorted(gains, reverse=True)
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["Layer"] for row in rows] == [layer["Layer"] for layer in found["layers"]]
    written = (folder / "j").read_text()
    assert len(written.splitlines()) == 3

    shown = quantrig(folder, "sensitivity", *DATA, "--journal", "j", "--processes", "2").stdout
    assert shown.startswith(f"all int8 (fpga, minmax): {found['int8_db']:.2f} dB")
    assert (folder / "j").read_text() == written  # the same samples, the same calibration: nothing measured again
    assert all(line.count("\n") == 0 and len(line) < 120 for line in shown.splitlines())


def test_quantize_meets_a_target_and_says_so(folder: Path) -> None:
    ranked = json.loads(quantrig(folder, "sensitivity", *DATA, "--json").stdout)
    asked = ranked["int8_db"] + 0.5 * ranked["layers"][0]["gain_db"]
    assert asked > ranked["int8_db"]
    out = ("-o", "q.onnx", "--sqnr-target", str(asked), "--json")
    found: dict[str, Any] = json.loads(quantrig(folder, "quantize", *DATA, *out).stdout)
    mixed = found["mixed_precision"]
    assert mixed["met"]
    assert mixed["achieved"] >= asked
    assert set(mixed["float_layers"]) <= {entry["layer"] for entry in found["kept_float"]}
    assert found["notes"][-1].startswith("target met with 1 of 3 layers float (")
    x = np.load(folder / "data.npz")["x"]
    reference, other = (
        onnxruntime.InferenceSession(folder / name, disabled_optimizers=["WeightBiasQuantization"]).run(None, {"x": x})[
            0
        ]
        for name in ("tiny.onnx", "q.onnx")
    )
    # On all samples, of which the held-back ones are a fifth.
    noise = np.asarray(other, float) - reference
    assert 10 * np.log10(np.sum(np.square(reference, dtype=float)) / np.sum(noise**2)) > asked - 3


def test_a_share_is_told_on_half_of_the_samples(folder: Path) -> None:
    for option, value in (("--agreement-target", "1"), ("--accuracy-target", "0")):
        found = json.loads(quantrig(folder, "quantize", *DATA, "-o", "q.onnx", option, value, "--json").stdout)
        assert found["mixed_precision"]["samples"] == 40
        assert found["mixed_precision"]["met"]


def test_bad_requests_are_one_line(folder: Path) -> None:
    cases = [
        (("quantize", *DATA, "-o", "q.onnx", "--held-back", "4"), "serve a target figure"),
        (("quantize", *DATA, "-o", "q.onnx", "--agreement-target", "97"), "it is a share"),
        (("quantize", *DATA, "-o", "q.onnx", "--agreement-target", "1", "--sqnr-target", "30"), "one target at a time"),
        (("sensitivity", *DATA, "--exclude", "conv"), "did you mean 'conv1'"),
        (("sensitivity", *DATA, "-o", "no/table.csv"), "cannot be written"),
    ]
    for arguments, message in cases:
        done = quantrig(folder, *arguments, code=2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
