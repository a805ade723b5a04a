"""Every network that lies beside the repository goes through every rule book and runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from harness.quantize import calibrate, quantize
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.runtime import open_session

SMALL = ["mlperf_tiny_ad_autoencoder", "mlperf_tiny_kws_dscnn", "mlperf_tiny_resnet8_cifar10", "mnist-8"]
LARGE = [
    "mlperf_tiny_vww_mobilenet",
    "mobilenet_v1_0.25_224",
    "squeezenet1.1",
    "silero_vad_16k_op15",
    "fastestdet_coco_352",
    "deeplabv3_mnv2_voc_257",
]


def samples(path: Path, count: int) -> Iterator[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    graph = Graph(read_model(path))
    for _ in range(count):
        if "silero" in path.name:
            yield {
                "input": rng.normal(size=(1, 576)).astype(np.float32) * 0.1,
                "state": rng.normal(size=(2, 1, 128)).astype(np.float32) * 0.1,
                "sr": np.array(16000),
            }
        else:
            shapes = {name: [size or 1 for size in graph.shape(name) or ()] for name in graph.inputs}
            yield {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def goes_through(path: Path, environment: str, out: Path) -> None:
    before = sha256_of(path)
    calibration = calibrate(path, samples(path, 2), environment=environment)
    result = quantize(path, calibration, environment=environment, out=out)
    onnx.checker.check_model(str(out))
    session = open_session(read_model(out), "int8", disabled_optimizers=result.disabled_optimizers)
    for sample in samples(path, 1):
        for value in session.run(None, sample):
            assert np.isfinite(value).all()
    assert result.quantized_layers > 0
    assert sha256_of(path) == before


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name: str, environment: str, models_dir: Path, tmp_path: Path) -> None:
    goes_through(models_dir / f"{name}.onnx", environment, tmp_path / "q.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
@pytest.mark.parametrize("name", LARGE)
def test_large_networks(name: str, environment: str, models_dir: Path, tmp_path: Path) -> None:
    goes_through(models_dir / f"{name}.onnx", environment, tmp_path / "q.onnx")
