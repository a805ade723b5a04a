"""The int8 networks as files: structure, choices, what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.errors import UserError
from harness.quantize import Calibration, QuantizedModel, calibrate, prepare, quantize
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.rulebooks import rule_book
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]
MARKERS = {"QuantizeLinear", "DequantizeLinear"}


def make(
    path: Path, out: Path, environment: str, data: np.ndarray, method: str = "minmax", exclude: tuple[str, ...] = ()
) -> QuantizedModel:
    name = read_model(path).graph.input[0].name
    calibration = calibrate(path, [{name: data}], environment=environment)
    return quantize(path, calibration, environment=environment, method=method, exclude=exclude, out=out)


def stripped(model: ModelProto) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """(operator, name, activation inputs, outputs) of each layer with Q/DQ pairs taken out."""
    graph = Graph(model)

    def origin(name: str) -> str:
        while (maker := graph.producer.get(name)) is not None and maker.op_type in MARKERS:
            name = maker.input[0]
        return name

    # An output's Q/DQ pair carries the output's name; its maker writes another one.
    renamed = {origin(name): name for name in graph.outputs}
    layers = []
    for node in graph.nodes:
        if node.op_type in MARKERS:
            continue
        sources = [renamed.get(origin(name), origin(name)) for name in node.input]
        data = tuple(name for name in sources if name in graph.producer or name in graph.inputs)
        layers.append((node.op_type, node.name, data, tuple(renamed.get(name, name) for name in node.output)))
    return layers


def activation_parameters(model: ModelProto) -> list[tuple[Any, Any]]:
    graph = Graph(model)
    return [(graph.array(n.input[1]), graph.array(n.input[2])) for n in graph.nodes if n.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("network", ["branched", "mlperf_tiny_resnet8_cifar10", "mlperf_tiny_kws_dscnn", "mnist-8"])
def test_without_its_pairs_the_network_is_the_prepared_one(
    environment: str, network: str, branched: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = branched if network == "branched" else request.getfixturevalue("models_dir") / f"{network}.onnx"
    before = sha256_of(path)
    prepared = read_model(prepare(path, tmp_path / "prepared.onnx"))
    shape = [d.dim_value or 3 for d in prepared.graph.input[0].type.tensor_type.shape.dim]
    data = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    out = make(path, tmp_path / "q.onnx", environment, data)
    assert stripped(read_model(out.path)) == stripped(prepared)
    assert [v.name for v in read_model(out.path).graph.output] == [v.name for v in prepared.graph.output]
    assert sha256_of(path) == before
    assert out.digest == sha256_of(out.path)


def test_the_file_is_smaller_and_whole(models_dir: Path, tmp_path: Path) -> None:
    path = models_dir / "mlperf_tiny_resnet8_cifar10.onnx"
    data = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    out = make(path, tmp_path / "q.onnx", "cpu", data)
    assert out.path.stat().st_size < 0.5 * path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["q.onnx"]


def test_the_same_input_gives_the_same_file(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    first = make(branched, tmp_path / "a.onnx", "cpu", images(16), method="auto")
    second = make(branched, tmp_path / "b.onnx", "cpu", images(16), method="auto")
    assert first.digest == second.digest


def test_the_file_says_how_it_was_made(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    out = make(branched, tmp_path / "q.onnx", "fpga", images(8))
    entry = {prop.key: prop.value for prop in read_model(out.path).metadata_props}["quantrig.quantization"]
    content = json.loads(entry)
    assert content["environment"] == "fpga"
    assert content["source"] == sha256_of(branched)


def test_excluded_layers_stay_float(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    out = make(branched, tmp_path / "q.onnx", "cpu", images(16), exclude=("depthwise",))
    kept = dict(out.kept_float)
    assert kept["depthwise"] == "excluded by name"
    model = read_model(out.path)
    node = next(node for node in model.graph.node if node.name == "depthwise")
    assert Graph(model).array(node.input[1]).dtype == np.float32
    assert "WeightBiasQuantization" in out.disabled_optimizers


def test_names_of_folded_and_removed_layers_can_be_excluded(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    out = make(branched, tmp_path / "q.onnx", "cpu", images(16), exclude=("bn", "dropout"))
    kept = dict(out.kept_float)
    assert kept["stem"] == "excluded by name"
    assert kept["relu1"] == "part of 'stem', which is excluded by name"


def test_excluding_a_layer_gains_its_error_back(
    branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    data = images(32)
    whole = make(branched, tmp_path / "a.onnx", "fpga", data)
    names = [node.name for node in read_model(prepare(branched, tmp_path / "p.onnx")).graph.node]
    bare = make(branched, tmp_path / "b.onnx", "fpga", data, exclude=tuple(names))
    assert bare.quantized_layers == 0
    assert "nothing to quantize: the network stays float" in bare.notes
    reference = run(branched, {"image": data})[0]
    assert np.allclose(run(bare.path, {"image": data})[0], reference, atol=1e-6)
    assert not np.allclose(run(whole.path, {"image": data})[0], reference, atol=1e-6)


def test_branches_of_control_flow_stay_float_and_see_the_quantized_value(
    builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    bodies = [
        helper.make_graph(
            [helper.make_node("Mul", ["relu", f"{op}.two"], [f"{op}.out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}.out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.array(2, np.float32), f"{op}.two")],
        )
        for op in ("yes", "no")
    ]
    net = builder(5)
    net.conv("x", "conv", (3, 2, 1, 1))
    net.add("Relu", ["conv"], "relu")
    net.add("ReduceMax", ["x"], "top", keepdims=0)
    net.constant("floor", np.array(-1e9, np.float32))
    net.add("Greater", ["top", "floor"], "flag")  # open: a condition that shapes decide would leave no If
    net.add("If", ["flag"], "doubled", name="choice", then_branch=bodies[0], else_branch=bodies[1])
    net.conv("relu", "other", (3, 3, 1, 1))
    net.add("Add", ["doubled", "other"], "y")
    path = tmp_path / "if.onnx"
    onnx.save(net.model({"x": ["N", 2, 4, 4]}, {"y": ["N", 3, 4, 4]}), path)
    data = net.rng.normal(size=(4, 2, 4, 4)).astype(np.float32)
    for environment in ENVIRONMENTS:
        out = make(path, tmp_path / f"{environment}.onnx", environment, data)
        assert "bodies" in dict(out.kept_float)["choice"]
        assert any("'choice': its bodies stay float" in note for note in out.notes)
        assert sqnr_db(run(path, {"x": data})[0], run(out.path, {"x": data})[0]) > 20


def test_a_network_without_layers_to_quantize_is_kept(
    builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    net = builder()
    net.add("Softmax", ["x"], "s", axis=-1)
    net.add("Exp", ["s"], "y")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4]}, {"y": ["N", 4]}), path)
    data = np.eye(4, dtype=np.float32)
    for environment in ENVIRONMENTS:
        out = make(path, tmp_path / "q.onnx", environment, data, method="auto")
        assert (out.quantized_layers, out.method) == (0, "none")
        assert np.allclose(run(out.path, {"x": data})[0], run(path, {"x": data})[0])


def test_auto_takes_the_method_that_measures_best(
    branched: Path, tmp_path: Path, run: Callable[..., Any], images: Callable[..., Any]
) -> None:
    held_back = [{"image": images(16, seed=5)}]
    data = images(32)
    data[0, 0, 0, 0] = 60  # an outlier: minmax is a bad choice
    calibration = dataclasses.replace(calibrate(branched, [{"image": data}], environment="gpu"), means={})
    floating = read_model(branched)
    floating.graph.output.append(onnx.ValueInfoProto(name="logits"))
    reference = run(floating, held_back[0], ["logits"])[0]

    def score(method: str) -> tuple[float, str]:
        out = quantize(
            branched, calibration, environment="gpu", method=method, out=tmp_path / "q.onnx", held_back=held_back
        )
        model = read_model(out.path)
        model.graph.output.append(onnx.ValueInfoProto(name="logits"))
        return sqnr_db(reference, run(model, held_back[0], ["logits"])[0]), out.method

    scores = {method: score(method)[0] for method in rule_book("gpu").methods}
    best, chosen = score("auto")
    assert chosen == max(scores, key=lambda name: scores[name]) != "minmax"
    assert best == pytest.approx(max(scores.values()), abs=0.01)


def test_auto_does_not_take_a_method_that_cuts_the_weights(
    builder: Callable[..., Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    net = builder(3)
    weight = net.rng.normal(size=(4, 4, 3, 3)).astype(np.float32)
    # Most weights are small, and their window of bits does not hold those that matter.
    weight *= np.array([100, 1, 0.5, 0.1], np.float32).reshape(1, 4, 1, 1)
    net.constant("w", weight)
    net.add("Conv", ["x", "w"], "first")
    net.add("Relu", ["first"], "relu")
    net.conv("relu", "y", (4, 4, 1, 1))
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"x": ["N", 4, 8, 8]}, {"y": ["N", 4, 6, 6]}), path)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(24, 4, 8, 8)).astype(np.float32)
    data[0, 3, 0, 0] = 10  # for activations, though, the window is the best choice
    calibration = calibrate(path, [{"x": data}], environment="host")
    feed = {"x": data[8:]}

    def made(method: str) -> tuple[str, float]:
        out = quantize(path, calibration, environment="host", method=method, out=tmp_path / "q.onnx")
        return out.method, sqnr_db(run(path, feed)[0], run(out.path, feed)[0])

    scores = {method: made(method)[1] for method in rule_book("host").methods}
    assert scores["histogram"] < 10
    chosen, score = made("auto")
    assert chosen != "histogram"
    assert score == pytest.approx(max(scores.values()), abs=0.5)


def test_unknown_layers_are_refused_with_the_nearest_name(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match="no layer 'depthwize'; did you mean 'depthwise'"):
        make(branched, tmp_path / "q.onnx", "cpu", images(4), exclude=("depthwize",))
    assert not (tmp_path / "q.onnx").exists()


def calibrated(path: Path, data: np.ndarray, environment: str = "cpu") -> Calibration:
    return calibrate(path, [{"image": data}], environment=environment)


def test_misuse_is_refused_in_one_line(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    calibration = calibrated(branched, images(4))
    other = tmp_path / "other.onnx"
    model = read_model(branched)
    model.producer_name = "someone else"
    onnx.save(model, other)
    cases: list[tuple[Callable[[], QuantizedModel], str]] = [
        (lambda: quantize(other, calibration, environment="cpu", out=tmp_path / "q.onnx"), "another network"),
        (lambda: quantize(branched, calibration, environment="gpu", out=tmp_path / "q.onnx"), "calibrated for cpu"),
        (lambda: quantize(branched, calibration, environment="cpu", method="best", out=tmp_path / "q.onnx"), "unknown"),
        (lambda: quantize(branched, calibration, environment="cpu", out=branched), "overwrite the float network"),
        (lambda: quantize(branched, calibration, environment="tpu", out=tmp_path / "q.onnx"), "environment 'tpu'"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()


def test_quantizing_an_int8_network_is_refused(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    out = make(branched, tmp_path / "q.onnx", "cpu", images(4))
    with pytest.raises(UserError, match="quantized already"):
        calibrated(out.path, images(4))


def test_one_calibration_of_all_layers_serves_every_environment(
    branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    calibration = calibrate(branched, [{"image": images(8)}], layers="all", environment="gpu")
    for environment in ENVIRONMENTS:
        out = quantize(branched, calibration, environment=environment, out=tmp_path / f"{environment}.onnx")
        direct = make(branched, tmp_path / "direct.onnx", environment, images(8), method=out.method)
        assert activation_scales(out.path) == activation_scales(direct.path)


def activation_scales(path: Path) -> list[float]:
    return [float(scale) for scale, _ in activation_parameters(read_model(path))]
