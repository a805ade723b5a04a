"""Ours in a process of its own, measured as the peers are (`benchmarks/peers/measuring.py`).

Variants: an environment (calibrate with all methods, quantize with `auto` and recovery); "calibrate minmax" and
"calibrate histogram" for the calibration alone; "plain" for the optimized float network run over the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers import measuring
from benchmarks.quantizer_slices import batches, cut
from harness.quantize import Quantizer


def prepare(task: measuring.Task, samples: NDArray[np.float32]) -> Callable[[], Any]:
    """The call: from the float file to the int8 file, or the calibration."""
    given = {task.input: samples}

    def call() -> dict[str, Any]:
        ranged, held_back = cut(given)
        quantizer = Quantizer(task.model, task.variant)
        quantizer.calibrate(batches(ranged))
        model = quantizer.quantize(task.out, held_back=list(batches(held_back)))
        return {"disabled_optimizers": list(model.disabled_optimizers), "notes": list(model.notes)}

    def calibrate() -> None:
        method = {"minmax": "minmax", "histogram": "auto"}[task.variant.split()[-1]]
        Quantizer(task.model, "cpu").calibrate(batches(given), method=method)

    if task.variant == "plain":
        return _plain_pass(task, samples)
    return calibrate if task.variant.startswith("calibrate ") else call


def _plain_pass(task: measuring.Task, samples: NDArray[np.float32]) -> Callable[[], None]:
    """One sample at a time, all graph optimizations on, one thread; building the session is not part of the call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(task.model, options, providers=["CPUExecutionProvider"])

    def call() -> None:
        for index in range(len(samples)):
            session.run(None, {task.input: samples[index : index + 1]})

    return call


if __name__ == "__main__":
    measuring.main(prepare)
