"""NNCF's post-training quantization of ONNX networks. Variants: fast, full (bias correction)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import nncf
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.peers import measuring
from benchmarks.peers.onnxruntime_static import lift


def prepare(task: measuring.Task, samples: NDArray[np.float32]) -> Callable[[], Any]:
    """The call: `nncf.quantize` with its defaults for CPUs (per channel, asymmetric activations)."""
    nncf.set_log_level(logging.ERROR)

    def feed(index: int) -> dict[str, NDArray[np.float32]]:
        return {task.input: samples[index : index + 1]}

    def call() -> None:
        quantized = nncf.quantize(
            lift(onnx.load(task.model)),
            nncf.Dataset(range(len(samples)), feed),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            fast_bias_correction=task.variant == "fast",
        )
        onnx.save(quantized, task.out)

    return call


if __name__ == "__main__":
    measuring.main(prepare)
