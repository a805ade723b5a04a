"""A network of 10 MB whose weights lie beside it, and what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from harness.quantize import calibrate, quantize

WIDTH = 512

LOWERED = 3 << 20


def network(builder: Callable[..., Any], opset: int = 17, width: int = WIDTH) -> ModelProto:
    """Ten matrices of `width`², free batch and sequence axes, and everything that preparing changes in weights."""
    net = builder(5)

    def matrix(name: str) -> str:
        return str(net.weights(name, width, width))

    current = "tokens"
    for index in range(4):
        net.add("MatMul", [current, matrix(f"up{index}.w")], f"up{index}")
        net.add("Add", [f"up{index}", net.weights(f"up{index}.b", width, gain=0.1)], f"biased{index}")
        net.add("Relu", [f"biased{index}"], f"relu{index}")
        net.add("MatMul", [f"relu{index}", matrix(f"down{index}.w")], f"down{index}")
        net.add("Add", [current, f"down{index}"], f"sum{index}")
        current = f"sum{index}"
    # a weight that is transposed at run time, and a factor per channel that goes into the weights before it
    net.add("Transpose", [matrix("turned.w")], "turned.t", perm=[1, 0])
    net.add("MatMul", [current, "turned.t"], "turned")
    net.add("Mul", ["turned", net.constant("gain", np.linspace(0.5, 1.5, width, dtype=np.float32))], "scaled")
    net.add("MatMul", ["scaled", matrix("head.w")], "logits")
    net.add("Softmax", ["logits"], "scores", axis=-1)
    return net.model({"tokens": ["batch", "length", width]}, {"scores": ["batch", "length", width]}, opset)  # type: ignore[no-any-return]


def save_external(model: ModelProto, path: Path) -> Path:
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=1024)
    return path


def tokens(batch: int, length: int, seed: int = 0, width: int = WIDTH) -> dict[str, NDArray[np.float32]]:
    return {"tokens": np.random.default_rng(seed).normal(size=(batch, length, width)).astype(np.float32)}


def dimensions(model: ModelProto) -> list[list[str | int]]:
    values = (*model.graph.input, *model.graph.output)
    return [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]


def made(path: Path, out: Path, environment: str) -> Any:  # noqa: ANN401 (a QuantizedModel)
    batches = [tokens(2, 3), tokens(2, 5, seed=1)]
    ranges = calibrate(path, batches, environment=environment)
    # the cheap step of recovery: the others have a test of their own
    return quantize(path, ranges, environment=environment, out=out, held_back=batches[:1], recover=("bias-correction",))
