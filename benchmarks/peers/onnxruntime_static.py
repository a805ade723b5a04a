"""ONNX Runtime's `quantize_static`: QDQ, per channel, U8S8. Variants: MinMax, Entropy, Percentile.

A variant "calibrate MinMax" (and so on) runs the calibrator alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers import measuring

#: The first opset whose QuantizeLinear has an axis, which per-channel weights need.
OPSET = 13


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Samples one by one, as ONNX Runtime's own examples feed them."""

    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self._feeds = iter({name: samples[index : index + 1]} for index in range(len(samples)))

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, None at the end."""
        return next(self._feeds, None)


def lift(model: onnx.ModelProto) -> onnx.ModelProto:
    """With an opset that the tool can quantize; an older network is converted."""
    if next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}) >= OPSET:
        return model
    converted: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
    return converted


def prepare(task: measuring.Task, samples: NDArray[np.float32]) -> Callable[[], Any]:
    """The call: the tool's own preprocessing (shapes, graph optimization), then `quantize_static`."""
    logging.disable(logging.WARNING)
    method = quantization.CalibrationMethod[task.variant.split()[-1]]
    lifted = task.out.with_suffix(".lifted.onnx")
    prepared = task.out.with_suffix(".prepared.onnx")

    def call() -> None:
        onnx.save(lift(onnx.load(task.model)), lifted)
        quant_pre_process(str(lifted), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(task.out),
            Reader(task.input, samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=method,
        )

    def calibrate() -> None:
        onnx.save(lift(onnx.load(task.model)), lifted)
        calibrator = create_calibrator(
            lifted,
            None,
            augmented_model_path=str(task.out),
            calibrate_method=method,
            extra_options={"symmetric": False},
        )
        calibrator.collect_data(Reader(task.input, samples))
        calibrator.compute_data()

    return calibrate if task.variant.startswith("calibrate ") else call


if __name__ == "__main__":
    measuring.main(prepare)
