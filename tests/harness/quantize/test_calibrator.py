"""Ranges against ONNX Runtime's own calibrator; streaming; what bad data and networks lead to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from harness.errors import UserError
from harness.quantize import calibrate, prepare
from harness.quantize.graph import Graph, read_model


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    def __init__(self, feeds: list[dict[str, NDArray[Any]]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def onnxruntime_ranges(path: Path, feeds: list[dict[str, NDArray[Any]]], work: Path) -> dict[str, tuple[float, float]]:
    """MinMax ranges of every float tensor by ONNX Runtime's calibrator."""
    calibrator = create_calibrator(
        str(path), None, augmented_model_path=str(work / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(_Reader(feeds))
    found = calibrator.compute_data().data
    return {name: (_number(data.range_value[0]), _number(data.range_value[1])) for name, data in found.items()}


def _number(bound: NDArray[Any]) -> float:
    return float(np.ravel(bound)[0])


def check_against_onnxruntime(path: Path, feeds: list[dict[str, NDArray[Any]]], work: Path) -> int:
    prepared = prepare(path, work / "prepared.onnx")
    theirs = onnxruntime_ranges(prepared, feeds, work)
    mine = calibrate(prepared, feeds, layers="all", environment="cpu", histograms=False).tensors
    compared = 0
    for name, stats in mine.items():
        if name not in theirs:
            continue
        low, high = theirs[name]
        slack = 1e-4 * max(high - low, 1e-6)
        assert stats.low == pytest.approx(low, abs=slack), name
        assert stats.high == pytest.approx(high, abs=slack), name
        compared += 1
    return compared


def test_ranges_equal_onnxruntimes_calibrator(branched: Path, images: Callable[..., Any], tmp_path: Path) -> None:
    feeds = [{"image": images(3, seed)} for seed in range(4)]
    assert check_against_onnxruntime(branched, feeds, tmp_path) >= 15


def test_ranges_of_a_real_network_equal_onnxruntimes(models_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"input_1": rng.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)} for _ in range(8)]
    assert check_against_onnxruntime(models_dir / "mlperf_tiny_resnet8_cifar10.onnx", feeds, tmp_path) >= 20


def test_batches_of_any_size_give_the_same_ranges_and_histograms(branched: Path, images: Callable[..., Any]) -> None:
    data = images(24)
    one = calibrate(branched, [{"image": data}])
    many = calibrate(branched, [{"image": data[:1]}, {"image": data[1:18]}, {"image": data[18:]}])
    assert one.samples == many.samples == 24
    for name, stats in one.tensors.items():
        other = many.tensors[name]
        # Convolutions may sum in another order at another batch size: the input alone is equal bit for bit.
        assert other.low == pytest.approx(stats.low, rel=1e-5, abs=1e-6)
        assert other.high == pytest.approx(stats.high, rel=1e-5, abs=1e-6)
        assert stats.count == other.count
    assert one.tensors["image"].low == many.tensors["image"].low
    first, second = one.tensors["image"].histogram, many.tensors["image"].histogram
    assert first is not None
    assert second is not None
    assert np.array_equal(first.counts, second.counts)


def test_the_stream_is_not_held(branched: Path, images: Callable[..., Any]) -> None:
    """Memory stays flat: when the next batch is asked for, the one before the last is gone."""
    references: list[weakref.ref[NDArray[Any]]] = []

    def stream() -> Iterator[dict[str, NDArray[Any]]]:
        for seed in range(40):
            batch = images(2, seed)
            references.append(weakref.ref(batch))
            yield {"image": batch}
            del batch
            alive = sum(reference() is not None for reference in references)
            assert alive <= 2

    assert calibrate(branched, stream()).samples == 80


def test_progress_counts_samples(branched: Path, images: Callable[..., Any]) -> None:
    seen: list[int] = []
    calibrate(branched, [{"image": images(5)}, {"image": images(20)}], progress=seen.append)
    assert seen[-1] == 25
    assert seen == sorted(seen)


def test_table_has_the_published_columns(branched: Path, images: Callable[..., Any]) -> None:
    table = calibrate(branched, [{"image": images(4)}], layers="all", environment="gpu").table()
    assert list(table.columns) == [
        "Optimized Layer Name",
        "Network Layer Name",
        "Learnables / Activations",
        "MinValue",
        "MaxValue",
    ]
    kinds = table["Learnables / Activations"].value_counts().to_dict()
    # Five convolutions and one fully connected layer, each with weights and (after folding) a bias.
    assert kinds["Weights"] == kinds["Bias"] == 6
    # The input, and every layer of the network but the folded batch normalization's convolution under its old name.
    names = set(table[table["Learnables / Activations"] == "Activations"]["Network Layer Name"])
    assert {"image", "relu1", "pool", "clip", "sum", "concat", "dropout", "logits", "scores"} <= names
    weights = Graph(read_model(branched)).array("pointwise.w")
    row = table[table["Optimized Layer Name"] == "pointwise_Weights"].iloc[0]
    assert (row["MinValue"], row["MaxValue"]) == (weights.min(), weights.max())


def test_squeezenet_table_has_a_row_per_learnable_and_layer(models_dir: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"data_0": rng.normal(size=(1, 3, 224, 224)).astype(np.float32) * 50}]
    path = models_dir / "squeezenet1.1.onnx"
    table = calibrate(path, feeds, layers="all", environment="host", histograms=False).table()
    kinds = table["Learnables / Activations"].value_counts().to_dict()
    assert kinds["Weights"] + kinds["Bias"] == 52  # as published
    # 68 are published; an ONNX classifier has no classification output layer.
    assert kinds["Activations"] == 67


def test_means_per_channel_are_those_of_the_layer_inputs(
    branched: Path, images: Callable[..., Any], run: Callable[..., Any]
) -> None:
    data = images(10)
    calibration = calibrate(branched, [{"image": data}])
    assert calibration.means["image"] == pytest.approx(data.mean(axis=(0, 2, 3)), rel=1e-5)
    model = onnx.load(branched)
    model.graph.output.append(onnx.ValueInfoProto(name="pool"))
    pooled = run(model, {"image": data}, ["pool"])[0]
    assert calibration.means["pool"] == pytest.approx(pooled.mean(axis=(0, 2, 3)), rel=1e-4)


def test_nan_is_reported_by_layer(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder()
    net.add("Log", ["x"], "log", name="logarithm")
    net.conv("log", "conv", (2, 1, 1, 1))
    path = tmp_path / "nan.onnx"
    onnx.save(net.model({"x": ["N", 1, 2, 2]}, {"conv": ["N", 2, 2, 2]}), path)
    with pytest.raises(UserError, match=r"layer 'logarithm' holds (NaN|infinity)"):
        calibrate(path, [{"x": np.full((1, 1, 2, 2), -1, np.float32)}])
    with pytest.raises(UserError, match="input 'x' holds NaN"):
        calibrate(path, [{"x": np.full((1, 1, 2, 2), np.nan, np.float32)}], layers="all")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"imag": np.zeros((1, 3, 8, 8), np.float32)}, r"no input 'imag'; did you mean 'image'"),
        ({}, "lack the input 'image'"),
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, r"1x8x8x3, the network takes Nx3x8x8; check layout"),
        ({"image": np.zeros((3, 8, 8), np.float32)}, "the network takes Nx3x8x8"),
        ({"image": np.array([["a"]])}, "convert the data"),
    ],
)
def test_data_that_do_not_fit_are_one_line_errors(batch: dict[str, Any], message: str, branched: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        calibrate(branched, [batch])
    assert "\n" not in str(caught.value)


def test_no_data_is_an_error(branched: Path, images: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no sample"):
        calibrate(branched, [])
    with pytest.raises(UserError, match="no sample"):
        calibrate(branched, [{"image": images(0)}])


def test_a_fixed_batch_is_filled_up(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder()
    net.conv("x", "conv", (2, 1, 1, 1))
    path = tmp_path / "fixed.onnx"
    onnx.save(net.model({"x": [4, 1, 2, 2]}, {"conv": [4, 2, 2, 2]}), path)
    data = np.random.default_rng(0).normal(size=(10, 1, 2, 2)).astype(np.float32)
    calibration = calibrate(path, [{"x": data}])
    assert calibration.samples == 10
    assert (calibration.tensors["x"].low, calibration.tensors["x"].high) == (data.min(), data.max())
