"""`quantrig lower`, as a user calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from harness.cli.main import main
from tests.harness.emulation.lowering_cases import Network, convolution


def _run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0
) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["quantrig", "lower", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert left.value.code == code, err
    return out, err


@pytest.fixture(name="quantized")
def _quantized(tmp_path: Path) -> Path:
    path = tmp_path / "net.int8.onnx"
    weights = np.array([[[[64]], [[3]]]], np.int8)
    onnx.save(convolution(weights, None, (-3, -7, 0, -3), (1, 2, 1, 2), relu=False), path)
    return path


@pytest.mark.parametrize("option", [[], ["--float-carrier"]])
def test_the_file_computes_in_the_numbers_of_the_board(
    quantized: Path, option: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = quantized.with_name("lowered.onnx")
    shown, _ = _run(capsys, monkeypatch, str(quantized), "--arithmetic", "fpga", "-o", str(out), "--json", *option)
    found = json.loads(shown)
    assert found["arithmetic"] == "dpu"
    assert [(layer["name"], layer["where"], layer["reason"]) for layer in found["layers"]] == [("layer", "HW", None)]
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("QLinearConv" in kinds) == (not option)
    # (64·3 + 3·0)/2^7 = 1.5 and (64·-3 + 0)/2^7 = -1.5: half up gives 2 and -1 eighths
    x = np.array([[[[3, -3]], [[0, 0]]]], np.float32) / 8
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0] * 8, [[[[2, -1]]]])


def test_a_person_reads_what_runs_in_software(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network()
    made = network.node("Softmax", [network.pair("x", -3)], "soft")
    path = tmp_path / "soft.onnx"
    onnx.save(network.model({"x": [1, 4]}, [made]), path)
    shown, _ = _run(capsys, monkeypatch, str(path), "--arithmetic", "host", "-o", str(tmp_path / "out.onnx"))
    assert "soft (Softmax): software: exponentials" in shown
    assert "0 of 1 layers" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arithmetic", "message"), [("cpu", "is what ONNX Runtime computes as it is"), ("tpu", "choose one of dpu")]
)
def test_an_unknown_arithmetic_is_bad_input(
    quantized: Path, arithmetic: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(quantized), "--arithmetic", arithmetic, "-o", str(quantized.with_name("out.onnx"))]
    _, err = _run(capsys, monkeypatch, *arguments, code=2)
    assert message in err
    assert err.count("\n") == 1


def test_a_float_network_and_its_own_file_are_refused(
    quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = _run(capsys, monkeypatch, str(quantized), "--arithmetic", "dpu", "-o", str(quantized), code=2)
    assert "would overwrite" in err
    network = Network()
    network.node("Relu", ["x"], "y")
    path = tmp_path / "float.onnx"
    onnx.save(network.model({"x": [1, 4]}, ["y"]), path)
    _, err = _run(capsys, monkeypatch, str(path), "--arithmetic", "dpu", "-o", str(tmp_path / "out.onnx"), code=2)
    assert "quantize it first" in err
