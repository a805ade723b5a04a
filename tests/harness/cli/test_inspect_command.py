"""`quantrig inspect` with samples and sessions, as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import harness
from harness.cli.main import main
from tests.e2e.whole_run import labels_of, tiny_network


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


@pytest.fixture(name="quantrig")
def _quantrig(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command as its entry point runs it, in this process: twenty interpreters would take a minute to start."""

    def run(*arguments: str, code: int = 0) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["quantrig", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        if code:
            assert err.count("\n") == 1, err
        return Done(out, err)

    return run


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    tiny_network(folder / "tiny.onnx")
    x = np.random.default_rng(1).standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=labels_of(folder / "tiny.onnx", x))
    quantizer = harness.Quantizer(folder / "tiny.onnx", environment="fpga")
    quantizer.calibrate(str(folder / "data.npz"), layers="all")
    quantizer.quantize(folder / "int8.onnx", method="minmax", recover=["bias-correction"])
    quantizer.save(folder / "session.quantrig")
    return folder


DATA = ("tiny.onnx", "--data", "data.npz", "--environment", "fpga")


def test_json_has_everything(folder: Path, quantrig: Callable[..., Done]) -> None:
    found = json.loads(
        quantrig("inspect", *DATA, "--quantized", "int8.onnx", "--sensitivity", "--journal", "j", "--json").stdout
    )
    quantizer = harness.Quantizer(folder / "tiny.onnx", environment="fpga")
    quantizer.calibrate([{"x": np.load(folder / "data.npz")["x"]}], layers="all")
    assert [row["Network Layer Name"] for row in found["ranges"]] == list(quantizer.ranges()["Network Layer Name"])
    weights = next(h for h in found["histograms"] if (h["layer"], h["parameter"]) == ("conv1", "Weights"))
    own = quantizer.histogram("conv1", "Weights")
    assert weights["counts"] == {str(bit): count for bit, count in own.counts.items()}
    assert weights["precision_loss"] == own.precision_loss
    assert weights["window"] == list(own.window)
    assert weights["grey_bits"] == [bit for bit in sorted(own.counts, reverse=True) if own.is_grey(bit)]
    assert next(h for h in found["histograms"] if h["parameter"] == "Activations")["precision_loss"] is None
    # All samples for errors; the ranking holds some back, and ranges come from the rest.
    assert found["layer_errors"]["samples"] == 40
    assert found["samples"] == 40 - found["sensitivity"]["samples"]
    assert {layer["Layer"] for layer in found["sensitivity"]["layers"]} == {"conv1", "pool1", "fc1"}
    assert len((folder / "j").read_text().splitlines()) == 3
    assert found["layers"][0]["LayerName"] == "conv1"  # the metrics, as without samples


def test_tables_for_people(folder: Path, quantrig: Callable[..., Done]) -> None:
    shown = quantrig("inspect", *DATA, "--quantized", "int8.onnx").stdout
    lines = shown.splitlines()
    assert "ranges from 40 samples" in lines[0]
    row = next(line for line in lines if line.startswith("conv1") and "Activations" in line)
    assert "not counted" in row
    assert "[" in row
    one = quantrig("inspect", *DATA, "--layer", "conv1").stdout
    assert "conv1 (Conv, 448 learnables, 1,792 bytes" in one
    assert {"Weights", "Bias", "Activations"} <= {line.partition(":")[0] for line in one.splitlines()}
    assert "█" in one


def test_the_page_and_the_pictures(folder: Path, quantrig: Callable[..., Done], tmp_path: Path) -> None:
    out = quantrig("inspect", *DATA, "--out", str(tmp_path / "page"), "--svg", str(tmp_path / "svg")).stdout
    assert f"wrote {tmp_path / 'page' / 'layers.html'}" in out
    pictures = sorted((tmp_path / "svg").iterdir())
    assert [path.name for path in pictures][:2] == ["1-x.svg", "2-conv1.svg"]
    for path in pictures:
        assert ElementTree.fromstring(path.read_bytes()).get("role") == "img"
    quantrig("inspect", "tiny.onnx", "--out", str(tmp_path / "own.html"))  # learnables need no samples
    assert "Not calibrated" in (tmp_path / "own.html").read_text(encoding="utf-8")


def test_a_session_in_place_of_samples(folder: Path, quantrig: Callable[..., Done]) -> None:
    found = json.loads(quantrig("inspect", "--session", "session.quantrig", "--json").stdout)
    assert found["environment"] == "fpga"
    assert found["samples"] == 40
    assert {layer["Layer"] for layer in found["layer_errors"]["layers"]} >= {"conv1", "fc1"}
    wrong = quantrig("inspect", "--session", "session.quantrig", "--environment", "cpu", code=2).stderr
    assert "a session for fpga, not cpu" in wrong


def unusual(folder: Path) -> None:
    """An If with a body each, and layers without names."""

    def body(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["h"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    weights = onnx.numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    zero = onnx.numpy_helper.from_array(np.array(0, np.float32), "zero")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=body("a", "Relu"), else_branch=body("b", "Neg")),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "unusual.onnx")
    np.savez(folder / "x.npz", x=np.arange(30, dtype=np.float32).reshape(10, 3))


def test_bodies_and_layers_without_names(folder: Path, quantrig: Callable[..., Done], tmp_path: Path) -> None:
    unusual(folder)
    out = str(tmp_path / "page.html")
    found = json.loads(quantrig("inspect", "unusual.onnx", "--data", "x.npz", "--out", out, "--json").stdout)
    assert {"h", "sum"} <= {entry["layer"] for entry in found["histograms"]}


BAD: list[tuple[Callable[[Path], Any] | None, tuple[str, ...], str]] = [
    (None, ("int8.onnx", "--data", "data.npz"), "int8 already; give the float network it was made from"),
    (None, (*DATA, "--layer", "conv2"), "has no layer 'conv2'; did you mean 'conv1'?"),
    (None, ("tiny.onnx", "--layer", "pool1"), "nothing is known of it yet; give samples with --data"),
    (None, ("tiny.onnx", "--quantized", "int8.onnx"), "need samples; give --data DATA"),
    (None, (*DATA, "--journal", "j"), "serve --sensitivity; add it"),
    (None, (*DATA, "--scheme", "widest"), "--scheme widest: choose one of minmax, histogram"),
    (None, (*DATA, "--quantized", "nowhere.onnx"), "nowhere.onnx: no such network file"),
    (None, (*DATA, "--svg", "tiny.onnx"), "cannot be written"),
    (None, (), "give MODEL.onnx, or --session FILE"),
    (None, ("--session", "tiny.onnx"), "not a quantizer session"),
    (
        lambda folder: np.savez(folder / "empty.npz", x=np.zeros((0, 3, 8, 8), np.float32)),
        ("tiny.onnx", "--data", "empty.npz"),
        "empty.npz",
    ),
]


@pytest.mark.parametrize(("prepare", "arguments", "expected"), BAD)
def test_bad_input_is_one_line(
    folder: Path,
    quantrig: Callable[..., Done],
    prepare: Callable[[Path], Any] | None,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    if prepare is not None:
        prepare(folder)
    assert expected in quantrig("inspect", *arguments, code=2).stderr
