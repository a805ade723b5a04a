"""A small network in whatever form, what it is fed, and when two results are close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from harness.quantize.quantizer import QuantizedModel
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ["gpu", "cpu", "fpga", "host"]
Feed = dict[str, NDArray[Any]]
Quantized = Callable[..., QuantizedModel]


def conv_network(builder: Callable[..., Any], **options: Any) -> ModelProto:  # noqa: ANN401  # opset, ir_version
    net = builder()
    net.conv("x", "conv", (4, 3, 3, 3), pads=[1] * 4)
    net.add("Relu", ["conv"], "relu")
    net.conv("relu", "y", (2, 4, 1, 1))
    model: ModelProto = net.model({"x": ["N", 3, 6, 6]}, {"y": ["N", 2, 6, 6]}, **options)
    return model


def image(dtype: str = "float32", seed: int = 3) -> Feed:
    return {"x": np.random.default_rng(seed).normal(size=(64, 3, 6, 6)).astype(dtype)}


def close(reference: NDArray[Any], other: NDArray[Any], db: float = 20) -> bool:
    return reference.dtype == other.dtype and sqnr_db(reference.astype(np.float64), other.astype(np.float64)) > db


def converted(model: ModelProto, kind: int) -> ModelProto:
    """The same network in another float type, inputs and outputs included."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for index, tensor in enumerate(model.graph.initializer):
        model.graph.initializer[index].CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model
