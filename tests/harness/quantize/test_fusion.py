"""The cpu rule book's Q/DQ really ends in integer kernels: read from the graph that ONNX Runtime optimized."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from harness.quantize import calibrate, quantize
from harness.quantize.graph import Graph, read_model


def kernels(path: Path, work: Path, sample_range: tuple[float, float], layout: tuple[int, ...]) -> Counter[str]:
    """Operators that ONNX Runtime executes for the cpu form of a network."""
    name = Graph(read_model(path)).inputs[0]
    data = np.random.default_rng(0).uniform(*sample_range, layout).astype(np.float32)
    calibration = calibrate(path, [{name: data}], environment="cpu", histograms=False)
    out = quantize(path, calibration, environment="cpu", method="minmax", out=work / "q.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(work / "optimized.onnx")
    ort.InferenceSession(
        str(out.path),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(out.disabled_optimizers),
    )
    return Counter(node.op_type for node in onnx.load(work / "optimized.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "sample_range", "layout", "convolutions"),
    [
        ("squeezenet1.1", (-120, 150), (1, 3, 224, 224), 26),
        ("mobilenet_v1_0.25_224", (-1, 1), (1, 224, 224, 3), 28),
        ("mlperf_tiny_resnet8_cifar10", (0, 255), (1, 32, 32, 3), 9),
        ("mlperf_tiny_vww_mobilenet", (0, 1), (1, 96, 96, 3), 27),
        ("mlperf_tiny_kws_dscnn", (-50, 50), (1, 49, 10, 1), 9),
        ("fastestdet_coco_352", (0, 1), (1, 3, 352, 352), 70),
        ("deeplabv3_mnv2_voc_257", (-1, 1), (1, 257, 257, 3), 55),
    ],
)
def test_every_convolution_is_an_integer_kernel(
    name: str,
    sample_range: tuple[float, float],
    layout: tuple[int, ...],
    convolutions: int,
    models_dir: Path,
    tmp_path: Path,
) -> None:
    found = kernels(models_dir / f"{name}.onnx", tmp_path, sample_range, layout)
    assert found["QLinearConv"] == convolutions
    assert not {"Conv", "FusedConv", "Relu", "Clip", "MatMul", "Gemm"} & found.keys()


def test_sums_pools_and_concatenations_are_integer_too(models_dir: Path, tmp_path: Path) -> None:
    squeezenet = kernels(models_dir / "squeezenet1.1.onnx", tmp_path, (-120, 150), (1, 3, 224, 224))
    assert (squeezenet["QLinearConcat"], squeezenet["NhwcMaxPool"]) == (8, 3)
    # One Q at the input, one DQ before the pooling that makes the scores.
    assert (squeezenet["QuantizeLinear"], squeezenet["DequantizeLinear"]) == (1, 1)
    resnet = kernels(models_dir / "mlperf_tiny_resnet8_cifar10.onnx", tmp_path, (0, 255), (1, 32, 32, 3))
    assert (resnet["QLinearAdd"], resnet["QLinearAveragePool"], resnet["QGemm"]) == (3, 1, 1)


def test_matrix_products_with_bias_and_relu_are_single_kernels(models_dir: Path, tmp_path: Path) -> None:
    found = kernels(models_dir / "mlperf_tiny_ad_autoencoder.onnx", tmp_path, (-5, 5), (1, 640))
    assert found == {"QuantizeLinear": 1, "QGemm": 10}


def test_a_row_bias_is_fused_as_well(models_dir: Path, tmp_path: Path) -> None:
    found = kernels(models_dir / "mnist-8.onnx", tmp_path, (0, 255), (1, 1, 28, 28))
    assert (found["QLinearConv"], found["QGemm"]) == (2, 1)


def test_the_small_network_keeps_no_float_layer_but_its_end(branched: Path, tmp_path: Path) -> None:
    found = kernels(branched, tmp_path, (-2, 2), (4, 3, 8, 8))
    assert found["QLinearConv"] == 5
    assert found["QLinearAdd"] == 1
    assert not {"Conv", "FusedConv", "Relu", "Clip", "Concat"} & found.keys()
