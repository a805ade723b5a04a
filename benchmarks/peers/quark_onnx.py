"""AMD Quark's ONNX quantizer. Variant XINT8: power-of-two scales per tensor, the DPU's and NPU's arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import QConfig

from benchmarks.peers import measuring
from benchmarks.peers.onnxruntime_static import Reader, lift


def prepare(task: measuring.Task, samples: NDArray[np.float32]) -> Callable[[], Any]:
    """The call: `ModelQuantizer.quantize_model` with the named default configuration."""
    logging.disable(logging.WARNING)
    lifted = task.out.with_suffix(".lifted.onnx")

    def call() -> None:
        onnx.save(lift(onnx.load(task.model)), lifted)
        quantizer = ModelQuantizer(QConfig.get_default_config(task.variant))
        quantizer.quantize_model(str(lifted), str(task.out), Reader(task.input, samples))

    return call


if __name__ == "__main__":
    measuring.main(prepare)
