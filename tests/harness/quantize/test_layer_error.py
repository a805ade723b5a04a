"""Per-layer error against tensors read by hand, without graph optimization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import QuantizedModel, calibrate, prepare, quantize
from harness.quantize.graph import Graph, read_model
from harness.quantize.layer_error import COLUMNS, layer_errors

Images = NDArray[np.float32]


def made(path: Path, environment: str, x: Images, out: Path, **options: Any) -> QuantizedModel:  # noqa: ANN401 (as quantize)
    calibration = calibrate(path, [{"image": x}], environment=environment, layers="all")
    return quantize(
        path, calibration, environment=environment, method="minmax", out=out, **{"recover": ["rounding"]} | options
    )


def tensor(path: Path, name: str, x: Images, run: Callable[..., Any]) -> Images:
    network = read_model(path)
    network.graph.output.append(onnx.ValueInfoProto(name=name))
    value: Images = run(network, {"image": x}, [name])[0]
    return value


def rounded(path: Path, name: str) -> str:
    """What the int8 network's readers see of a tensor, found from its Q/DQ pair."""
    graph = Graph(read_model(path))
    pairs = {
        node.input[0]: use.node.output[0]
        for node in graph.nodes
        if node.op_type == "QuantizeLinear"
        for use in graph.uses[node.output[0]]
    }
    return pairs.get(name, name)


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_figures_are_those_of_the_tensors(
    branched: Path, tmp_path: Path, images: Callable[..., Images], run: Callable[..., Any], environment: str
) -> None:
    out = made(branched, environment, images(16), tmp_path / "q.onnx")
    x = images(10, seed=4)
    table = layer_errors(branched, out, [{"image": x[:3]}, {"image": x[3:]}])
    assert list(table.columns) == list(COLUMNS)
    rows = table.set_index("Layer")
    # Convolution, normalization and ReLU are one layer, named after the convolution.
    assert {"stem", "depthwise", "pointwise", "sum", "left", "right", "logits"} <= set(rows.index)
    assert not {"bn", "relu1", "clip", "dropout"} & set(rows.index)
    assert rows.loc["stem", "Tensor"] == "relu1"
    prepared = prepare(branched, tmp_path / "prepared.onnx")
    for layer, name in {
        "stem": "relu1",
        "depthwise": "clip",
        "sum": "relu2",
        "left": "left",
        "logits": "logits",
    }.items():
        exact = tensor(prepared, name, x, run).astype(float)
        other = tensor(out.path, rounded(out.path, name), x, run).astype(float)
        error = other - exact
        row = rows.loc[layer]
        # Optimized and plain execution of an int8 network differ in single steps here and there.
        assert row["sqnr_db"] == pytest.approx(10 * np.log10(np.sum(exact**2) / np.sum(error**2)), abs=0.5), layer
        assert row["max_abs_error"] == pytest.approx(np.abs(error).max(), rel=0.25), layer
        assert row["mean_error"] == pytest.approx(error.mean(), abs=0.2 * error.std()), layer
        assert (row["float_min"], row["float_max"]) == pytest.approx((exact.min(), exact.max()), abs=1e-4)


def test_alone_a_layer_does_not_answer_for_those_before(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images], run: Callable[..., Any]
) -> None:
    """The first of two convolutions rounds badly; the second is innocent, and its own figure says so."""
    net = builder(2)
    w = (net.rng.normal(size=(4, 3, 3, 3)) * 0.2).astype(np.float32)
    w[:, 2] = 20  # meets nothing: channel 2 of the images is empty
    net.constant("bad.w", w)
    net.add("Conv", ["image", "bad.w"], "bad", pads=[1] * 4)
    net.constant("good.w", (net.rng.normal(size=(4, 4, 1, 1)) * 0.3).astype(np.float32))
    net.add("Conv", ["bad", "good.w"], "good")
    net.add("Relu", ["good"], "relu")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"relu": ["N", 4, 8, 8]}), path)
    data, x = images(16), images(8, seed=3)
    data[:, 2] = x[:, 2] = 0
    out = made(path, "fpga", data, tmp_path / "q.onnx")
    rows = layer_errors(path, out, [{"image": x}]).set_index("Layer")
    assert float(rows["local_sqnr_db"]["good"]) > float(rows["sqnr_db"]["good"]) + 3

    # By hand: the float network's tensor through the int8 network's second half.
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(read_model(out.path)))
    part = extractor.extract_model(["bad"], ["relu"])
    mid = tensor(path, "bad", x, run)
    exact, other = (np.asarray(v, float) for v in (tensor(path, "relu", x, run), run(part, {"bad": mid})[0]))
    expected = 10 * np.log10(np.sum(exact**2) / np.sum((other - exact) ** 2))
    assert rows.loc["good", "local_sqnr_db"] == pytest.approx(expected, abs=0.3)
    assert layer_errors(path, out, [{"image": x}], local=False)["local_sqnr_db"].isna().all()


def test_a_float_layer_has_no_error_of_its_own(branched: Path, tmp_path: Path, images: Callable[..., Images]) -> None:
    out = made(branched, "gpu", images(16), tmp_path / "q.onnx", exclude=["stem"])
    rows = layer_errors(branched, out, [{"image": images(6, 2)}]).set_index("Layer")
    assert rows.loc["stem", "max_abs_error"] == pytest.approx(0, abs=1e-5)
    assert np.isnan(rows["local_sqnr_db"]["stem"])
    assert np.isfinite(rows["local_sqnr_db"]["depthwise"])


def test_memory_is_of_one_pass_and_padding_does_not_count(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    net = builder(0)
    net.conv("image", "one", (4, 3, 3, 3), pads=[1] * 4)
    net.add("Relu", ["one"], "relu")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"image": [4, 3, 8, 8]}, {"relu": [4, 4, 8, 8]}), path)
    x = images(12)
    out = made(path, "fpga", x, tmp_path / "q.onnx")
    x[5] *= 1.5
    whole = layer_errors(path, out, [{"image": x[:6]}])  # 4 and 2, the last repeated twice
    parts = layer_errors(path, out, [{"image": x[:4]}, {"image": x[4:6]}])
    assert whole.equals(parts)
    doubled = layer_errors(path, out, [{"image": np.concatenate([x[:6], x[5:6], x[5:6]])}])
    assert not whole.equals(doubled)


def test_a_network_that_recovery_rescaled_is_refused(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    """Channels of very different ranges under one scale: equalization helps, and tensors are not the float ones."""
    net = builder(2)
    w = (net.rng.normal(size=(6, 3, 3, 3)) * 0.2).astype(np.float32)
    w[1:] /= 40
    reader = (net.rng.normal(size=(4, 6, 1, 1)) * 0.3).astype(np.float32)
    reader[:, 1:] *= 40
    net.constant("w", w)
    net.constant("reader.w", reader)
    net.add("Conv", ["image", "w"], "uneven", pads=[1] * 4)
    net.add("Relu", ["uneven"], "relu")
    net.add("Conv", ["relu", "reader.w"], "reader")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"reader": ["N", 4, 8, 8]}), path)
    out = made(path, "gpu", images(16), tmp_path / "q.onnx", recover=["equalization"])
    assert [step.name for step in out.steps if step.kept] == ["equalization"]
    with pytest.raises(UserError, match="equalization rescaled its tensors"):
        layer_errors(path, out, [{"image": images(4)}])
    plain = made(path, "gpu", images(16), tmp_path / "q.onnx", recover=[])
    assert len(layer_errors(path, plain.path, [{"image": images(4)}])) >= 2


def test_another_network_is_refused(
    branched: Path, tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    out = made(branched, "cpu", images(8), tmp_path / "q.onnx")
    net = builder(0)
    net.conv("picture", "other", (4, 3, 3, 3))
    other = tmp_path / "other.onnx"
    onnx.save(net.model({"picture": ["N", 3, 8, 8]}, {"other": ["N", 4, 6, 6]}), other)
    with pytest.raises(UserError, match="shares no layer with"):
        layer_errors(other, out, [{"picture": images(2)}])
