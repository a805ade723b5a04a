"""Quantizing whatever a test brings."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from harness.quantize import calibrate, quantize
from harness.quantize.quantizer import QuantizedModel
from tests.harness.quantize.odd.networks import Feed, Quantized


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """Calibrates and quantizes a network; leaves net.onnx and <environment>.onnx."""

    def make(model: ModelProto, feed: Feed, environment: str = "cpu") -> QuantizedModel:
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return quantize(
            path, calibrate(path, [feed], environment=environment), environment=environment, out=tmp_path / "int8.onnx"
        )

    return make
