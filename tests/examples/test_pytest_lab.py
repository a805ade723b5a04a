"""The example suite, run by pytest as a user runs it: twelve comparisons, then a network that got worse."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).parents[2]
BOARDS = {"rpi", "jetson", "zcu102"}
NETWORKS = {"digits", "gru", "linear", "perceptron"}

pytestmark = pytest.mark.slow


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy whose networks may be changed."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    for name in ("examples/pytest-lab", "examples/gru/gru.onnx", "harness/demo/digits.onnx"):
        source, copy = REPOSITORY / name, pytester.path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "reports"))
        else:
            shutil.copyfile(source, copy)
    folder = pytester.path / "examples/pytest-lab"
    monkeypatch.chdir(folder)
    return folder


def spoil(model: Path) -> None:
    """Shake the weights of the last layer."""
    network = onnx.load(model)
    weights = network.graph.initializer[-2]
    values = numpy_helper.to_array(weights)
    shaken = values + np.random.default_rng(0).normal(0, values.std(), values.shape).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(shaken, weights.name))
    onnx.save(network, model)


def test_three_boards_four_networks_two_workers_and_one_regression(suite: Path, pytester: pytest.Pytester) -> None:
    first = pytester.runpytest_subprocess(
        "--lab", "lab.yaml", "-n", "2", "-v", "--rootdir", ".", "--junitxml", "lab.xml"
    )
    first.assert_outcomes(passed=12, skipped=13)
    first.stdout.fnmatch_lines(["12 comparisons on 3 boards*", "gates: 24 passed"])
    cases = {case.attrib["name"]: case for case in ElementTree.parse(suite / "lab.xml").getroot().iter("testcase")}
    assert {f"test_gates[{board}-{network}]" for board in BOARDS for network in NETWORKS} <= set(cases)
    told = {one.attrib["name"]: one.attrib["value"] for one in cases["test_gates[rpi-gru]"].iter("property")}
    assert told["gate.accuracy"] == told["verdict"] == "pass"
    assert float(told["Floating-Point.accuracy_top1"]) > 0.98
    assert told["Quantized.accuracy_top1.source"] == "emulated"
    assert "Quantized.latency_p50_ms" not in told

    spoil(suite / "perceptron.onnx")
    second = pytester.runpytest_subprocess(
        "--lab", "lab.yaml", "--targets", "jetson", "--rootdir", ".", "--quantrig-baseline", "last",
        "-k", "test_no_regression and (linear or perceptron)",
    )  # fmt: skip
    second.assert_outcomes(passed=1, failed=1, deselected=7)
    second.stdout.fnmatch_lines(
        [
            "E*perceptron on jetson: * than in run *",
            "E*Quantized accuracy_top1: *on the same 500 samples*",
            "E*since then the model changed: float network*",
            "baseline 'last': *worse*same*",
        ]
    )
