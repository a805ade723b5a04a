"""LogoNet's layers as ONNX with random weights: the shapes of the table that MathWorks published, nothing else.

    python examples/logonet/build.py logonet.onnx

The network itself belongs to MathWorks and is not here. Its published table (name, kind, shapes of each layer) is
enough to estimate cycles and memory, which depend on no weight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Convolutions, each with ReLU and a 3x3 max-pool of stride 2 behind it: name, inputs, outputs, kernel, stride.
CONVOLUTIONS = (("1", 3, 96, 5, 1), ("2", 96, 128, 3, 1), ("3", 128, 384, 3, 1), ("4", 384, 128, 3, 2))
#: Fully connected layers: name, inputs, outputs.
FULLY_CONNECTED = (("1", 3200, 2048), ("2", 2048, 2048), ("3", 2048, 32))
SIDE = 227


def build(path: Path) -> Path:
    """Write LogoNet: input data [N, 3, 227, 227], output probabilities [N, 32]."""
    rng = np.random.default_rng(0)
    constants = [numpy_helper.from_array(np.full((3, SIDE, SIDE), 128, np.float32), "mean")]
    nodes = [helper.make_node("Sub", ["data", "mean"], ["normalized"], name="imageinput_norm")]

    def weights(name: str, *shape: int) -> list[str]:
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        constants.append(numpy_helper.from_array(rng.standard_normal(shape, np.float32) * scale, f"{name}.weight"))
        constants.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
        return [f"{name}.weight", f"{name}.bias"]

    last = "normalized"
    for number, inputs, outputs, kernel, stride in CONVOLUTIONS:
        names = weights(f"conv_{number}", outputs, inputs, kernel, kernel)
        nodes += [
            helper.make_node("Conv", [last, *names], [f"c{number}"], name=f"conv_{number}", strides=[stride, stride]),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu_{number}"),
            helper.make_node(
                "MaxPool", [f"r{number}"], [f"p{number}"], name=f"maxpool_{number}", kernel_shape=[3, 3], strides=[2, 2]
            ),
        ]
        last = f"p{number}"
    nodes.append(helper.make_node("Flatten", [last], ["flat"], name="flatten"))
    last = "flat"
    for number, inputs, outputs in FULLY_CONNECTED:
        names = weights(f"fc_{number}", outputs, inputs)
        nodes.append(helper.make_node("Gemm", [last, *names], [f"f{number}"], name=f"fc_{number}", transB=1))
        last = f"f{number}"
        if number != FULLY_CONNECTED[-1][0]:
            nodes.append(helper.make_node("Relu", [last], [f"fr{number}"], name=f"fc_relu_{number}"))
            last = f"fr{number}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "logonet",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 32])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="the ONNX file to write, 47 MB")
    print(build(parser.parse_args().out))
