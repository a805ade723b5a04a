"""The Quantizer class: the whole line, what a failure leaves behind, save and load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from harness.errors import UserError
from harness.quantize import Quantizer
from harness.quantize.graph import Graph, read_model, sha256_of


@pytest.fixture(name="quantizer")
def _quantizer(branched: Path, images: Callable[..., Any]) -> Quantizer:
    quantizer = Quantizer(branched, environment="cpu")
    quantizer.calibrate([{"image": images(16)}], layers="all")
    return quantizer


def test_the_whole_line(
    quantizer: Quantizer, branched: Path, tmp_path: Path, images: Callable[..., Any], run: Callable[..., Any]
) -> None:
    before = sha256_of(branched)
    out = quantizer.quantize(tmp_path / "q.onnx", exclude=["depthwise"])
    assert dict(out.kept_float)["depthwise"] == "excluded by name"
    data = images(50, seed=3)
    labels = run(branched, {"image": data})[0].argmax(axis=1)
    result = quantizer.validate([(data[:20], labels[:20]), (data[20:], labels[20:])])
    assert result.NumSamples == 50
    table = result.MetricResults.set_index("NetworkImplementation")
    assert list(table.index) == ["Floating-Point", "Quantized"]
    assert table.loc["Floating-Point"].MetricOutput == 1.0  # the labels are its own answers
    assert table.loc["Quantized"].MetricOutput == result.top1_agreement
    assert result.sqnr_db > 15
    memory = result.Statistics["LearnableParameterMemory(bytes)"].tolist()
    assert memory[1] < memory[0]
    assert result.Statistics.FramesPerSecond.isna().all()  # nothing is timed here: empty, not 0
    assert sha256_of(branched) == before


def test_data_may_be_named(branched: Path, tmp_path: Path, images: Callable[..., Any]) -> None:
    np.savez(tmp_path / "data.npz", image=images(20), labels=np.zeros(20, np.int64))
    quantizer, other = Quantizer(branched), Quantizer(branched)
    named = quantizer.calibrate(str(tmp_path / "data.npz"))
    streamed = other.calibrate({"image": images(20)[i : i + 1]} for i in range(20))
    pd.testing.assert_frame_equal(named, streamed, rtol=1e-5)
    assert quantizer.calibration is not None
    assert quantizer.calibration.samples == 20
    quantizer.quantize(tmp_path / "q.onnx")
    assert quantizer.validate(tmp_path / "data.npz").NumSamples == 20


def test_own_metrics_and_unknown_ones(quantizer: Quantizer, tmp_path: Path, images: Callable[..., Any]) -> None:
    quantizer.quantize(tmp_path / "q.onnx", method="minmax")

    def mean_score(outputs: np.ndarray, labels: np.ndarray) -> float:
        return float(outputs[np.arange(len(labels)), labels].mean())

    pairs = [(images(12), np.zeros(12, np.int64))]
    table = quantizer.validate(pairs, metrics=["accuracy_top5", mean_score]).MetricResults
    assert table.Metric.tolist() == ["accuracy_top5"] * 2 + ["mean_score"] * 2
    assert table.MetricOutput[:2].tolist() == [1.0, 1.0]  # five classes
    with pytest.raises(UserError, match="metric 'top1' is unknown"):
        quantizer.validate(pairs, metrics=["top1"])
    with pytest.raises(UserError, match="metrics need one label per sample"):
        quantizer.validate([{"image": images(3)}], metrics=["accuracy_top1"])


def test_a_failed_calibration_leaves_the_session_as_it_was(quantizer: Quantizer, images: Callable[..., Any]) -> None:
    before = quantizer.calibration

    def breaks() -> Iterator[dict[str, np.ndarray]]:
        yield {"image": images(4)}
        raise UserError("image 5 is corrupt")

    with pytest.raises(UserError, match="corrupt"):
        quantizer.calibrate(breaks())
    with pytest.raises(UserError, match="holds NaN"):
        quantizer.calibrate([{"image": np.full((2, 3, 8, 8), np.nan, np.float32)}])
    assert quantizer.calibration is before
    assert len(quantizer.ranges()) > 0


def test_steps_out_of_order_say_what_is_missing(branched: Path, tmp_path: Path) -> None:
    quantizer = Quantizer(branched)
    with pytest.raises(UserError, match="not calibrated yet"):
        quantizer.quantize(tmp_path / "q.onnx")
    with pytest.raises(UserError, match="nothing to validate yet"):
        quantizer.validate([])
    with pytest.raises(UserError, match=r"use harness\.Quantizer"):
        quantizer.validate([], target="rpi")
    with pytest.raises(UserError, match=r"choose one of|did you mean"):
        Quantizer(branched, environment="asic")


def test_an_unknown_method_is_refused_before_the_data_are_read(quantizer: Quantizer) -> None:
    before = quantizer.calibration
    with pytest.raises(UserError, match="method 'entropie' is unknown; choose one of minmax"):
        quantizer.calibrate([], method="entropie")
    assert quantizer.calibration is before


def test_one_name_need_not_be_in_a_list(quantizer: Quantizer, tmp_path: Path) -> None:
    made = quantizer.quantize(tmp_path / "q.onnx", exclude="depthwise", recover="bias-correction")
    assert dict(made.kept_float)["depthwise"] == "excluded by name"
    assert {step.name for step in made.steps} == {"bias-correction"}


def test_a_network_that_changes_underneath_is_noticed(quantizer: Quantizer, branched: Path, tmp_path: Path) -> None:
    model = read_model(branched)
    model.producer_name = "edited"
    onnx.save(model, branched)
    with pytest.raises(UserError, match="changed on disk"):
        quantizer.quantize(tmp_path / "q.onnx")


def test_saved_sessions_are_lossless(quantizer: Quantizer, tmp_path: Path) -> None:
    path = quantizer.save(tmp_path / "session.quantrig")
    loaded = Quantizer.load(path)
    pd.testing.assert_frame_equal(loaded.ranges(), quantizer.ranges())
    first = quantizer.quantize(tmp_path / "a.onnx")
    second = loaded.quantize(tmp_path / "b.onnx")
    assert first.digest == second.digest
    again = loaded.save(tmp_path / "again.quantrig")
    assert Quantizer.load(again).quantize(tmp_path / "c.onnx").digest == first.digest
    assert loaded.histogram("relu1") == quantizer.histogram("relu1")


def test_histogram_of_weights_is_exact(quantizer: Quantizer, branched: Path) -> None:
    view = quantizer.histogram("pointwise", "Weights")
    weights = Graph(read_model(branched)).array("pointwise.w")
    bits = np.floor(np.log2(np.abs(weights[weights != 0]))).astype(int)
    assert view.counts == {int(b): int((bits == b).sum()) for b in np.unique(bits)}
    scaled = np.abs(weights) / view.scale
    assert view.underflow == int(((scaled < 0.5) & (weights != 0)).sum())
    assert view.overflow == 0  # MinMax never saturates


def test_histogram_of_activations_counts_every_value(quantizer: Quantizer) -> None:
    view = quantizer.histogram("relu1", scheme="Histogram")
    assert sum(view.counts.values()) + view.zeros == 16 * 8 * 64
    assert quantizer.histogram("image").minimum < 0
    with pytest.raises(UserError, match="no layer 'nonsense'; see"):
        quantizer.histogram("nonsense")
    with pytest.raises(UserError, match="has no 'Weights'"):
        quantizer.histogram("relu1", "Weights")


def test_every_row_of_the_table_has_a_histogram_and_wrong_names_a_hint(
    quantizer: Quantizer, branched: Path, tmp_path: Path, builder: Callable[..., Any]
) -> None:
    found = quantizer.histograms()
    for row in quantizer.ranges().itertuples(index=False):
        # dropout is gone from the network, and still a row
        layer, what, low, high = row[1:]
        view = quantizer.histogram(layer, what)
        assert found[layer, what] == view
        assert (view.minimum, view.maximum) == (low, high)
    with pytest.raises(UserError, match="no layer 'pointwize'; did you mean 'pointwise'"):
        quantizer.histogram("pointwize")
    assert {what for _, what in Quantizer(branched).histograms()} == {"Weights", "Bias"}  # nothing was observed yet

    net = builder(0)
    net.add("MatMul", ["x", net.weights("w", 4, 3)], "product")
    net.add("Add", ["product", net.weights("b", 3)], "sum")
    onnx.save(net.model({"x": ["N", 4]}, {"sum": ["N", 3]}), tmp_path / "product.onnx")
    other = Quantizer(tmp_path / "product.onnx")
    other.calibrate([{"x": np.eye(4, dtype=np.float32)}], layers="all")
    views = other.histograms()
    assert ("product", "Bias") in views  # as in the table
    assert ("sum", "Bias") not in views


def test_weights_that_are_not_finite_have_no_histogram(tmp_path: Path, builder: Callable[..., Any]) -> None:
    net = builder(0)
    net.constant("w", np.array([[np.nan, 1.0]], np.float32).T)
    net.add("Gemm", ["x", "w"], "y")
    onnx.save(net.model({"x": ["N", 2]}, {"y": ["N", 1]}), tmp_path / "nan.onnx")
    quantizer = Quantizer(tmp_path / "nan.onnx")
    assert quantizer.histograms() == {}
    with pytest.raises(UserError, match="hold NaN or infinity"):
        quantizer.histogram("y", "Weights")
