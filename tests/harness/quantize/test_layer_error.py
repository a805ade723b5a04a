"""Per-layer error against tensors read by hand, without graph optimization."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import QuantizedModel, calibrate, prepare, quantize
from harness.quantize.graph import Graph, metadata, read_model
from harness.quantize.layer_error import COLUMNS, layer_errors
from harness.quantize.quantizer import METADATA_KEY
from harness.quantize.rescaling import Rescaling, from_json, to_json

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


def uneven(builder: Callable[..., Any], path: Path, *, floor: float = 0.0) -> None:
    """A network with channels of very different ranges under one scale: equalization helps.

    Args:
        floor: bias of the first layer: above 0 no channel of its result reaches zero.
    """
    net = builder(2)
    w = (net.rng.normal(size=(6, 3, 3, 3)) * 0.2).astype(np.float32)
    w[1:] /= 40
    reader = (net.rng.normal(size=(4, 6, 1, 1)) * 0.3).astype(np.float32)
    reader[:, 1:] *= 40
    net.constant("w", w)
    net.constant("b", (floor * np.r_[1, np.full(5, 1 / 40)]).astype(np.float32))
    net.constant("reader.w", reader)
    net.add("Conv", ["image", "w", "b"], "uneven", pads=[1] * 4)
    net.add("Relu", ["uneven"], "relu")
    net.add("MaxPool", ["relu"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Conv", ["pool" if not floor else "relu", "reader.w"], "reader")
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"reader": ["N", 4, None, None]}), path)


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_tensors_that_equalization_rescaled_are_brought_back(
    tmp_path: Path,
    builder: Callable[..., Any],
    images: Callable[..., Images],
    run: Callable[..., Any],
    environment: str,
) -> None:
    path = tmp_path / "net.onnx"
    uneven(builder, path)
    out = made(path, environment, images(16), tmp_path / "q.onnx", recover=["equalization"])
    assert [step.name for step in out.steps if step.kept] == ["equalization"]
    x = images(6, seed=5)
    rows = layer_errors(path, out, [{"image": x}]).set_index("Layer")
    # What was done to each channel, found without the record: of the tensor before rounding the two networks differ
    # by the factor and the rounding of weights and input alone.
    exact = tensor(path, "relu", x, run).astype(float)
    other = tensor(out.path, "relu", x, run).astype(float)
    factors = np.sum(exact * other, axis=(0, 2, 3)) / np.sum(exact * exact, axis=(0, 2, 3))
    assert factors.max() / factors.min() > 8  # so that without them the comparison would say nothing
    name = "relu" if "pool" not in set(rows["Tensor"]) or environment != "gpu" else "pool"
    exact = tensor(path, name, x, run).astype(float)
    other = tensor(out.path, rounded(out.path, name), x, run).astype(float) / factors[:, None, None]
    expected = 10 * np.log10(np.sum(exact**2) / np.sum((other - exact) ** 2))
    row = rows[rows["Tensor"] == name].iloc[0]
    assert row["sqnr_db"] == pytest.approx(expected, abs=1.0)
    assert row["sqnr_db"] > 25
    assert (rows["local_sqnr_db"].dropna() > 20).all(), rows


def test_tensors_that_absorption_lowered_are_brought_back(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    path = tmp_path / "net.onnx"
    uneven(builder, path, floor=8.0)
    out = made(path, "fpga", images(16), tmp_path / "q.onnx", recover=["equalization", "absorption"])
    assert "absorption" in [step.name for step in out.steps if step.kept]
    rows = layer_errors(path, out, [{"image": images(6, seed=5)}]).set_index("Layer")
    # Left as they are, the tensors would differ by about their own size: some 0 dB.
    assert rows["sqnr_db"].to_dict()["uneven"] > 25
    assert (rows["local_sqnr_db"].dropna() > 25).all(), rows


def test_the_record_of_rescaling_is_exact_and_only_where_needed(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    path = tmp_path / "net.onnx"
    uneven(builder, path)
    plain = made(path, "gpu", images(16), tmp_path / "plain.onnx", recover=[])
    assert "rescaled" not in json.loads(metadata(read_model(plain.path))[METADATA_KEY])
    rng = np.random.default_rng(0)
    given = Rescaling(rng.lognormal(size=7), rng.normal(size=7))
    entries = json.loads(json.dumps(to_json({"a": given, "b": given, "c": Rescaling.none(3)})))
    assert [entry["tensors"] for entry in entries] == [["a", "b"], ["c"]]
    found = from_json(entries)
    assert found["b"].factor.tobytes() == given.factor.tobytes()
    assert found["a"].offset.tobytes() == given.offset.tobytes()
    value = rng.normal(size=(2, 7, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(given.undone(given.applied(value)), value, atol=1e-5)


def test_a_rescaled_network_without_a_record_is_refused(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    path = tmp_path / "net.onnx"
    uneven(builder, path)
    out = made(path, "gpu", images(16), tmp_path / "q.onnx", recover=["equalization"])
    model = read_model(out.path)
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    content = json.loads(entry.value)
    del content["rescaled"]
    entry.value = json.dumps(content)
    onnx.save(model, out.path)
    with pytest.raises(UserError, match="equalization rescaled its tensors without a record"):
        layer_errors(path, out.path, [{"image": images(4)}])


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
