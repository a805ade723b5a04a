"""Train the two small networks of this lab with scikit-learn, one fixed seed.

    python examples/pytest-lab/train.py --out examples/pytest-lab

`linear.onnx` is one layer, `perceptron.onnx` three. The committed files came out of this; another version of
scikit-learn may round differently.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

sys.path.insert(0, str(Path(__file__).parent))
from samples import flat, flat_training

SEED = 7
PIXELS, CLASSES = 64, 10
#: Units of the perceptron's hidden layers.
HIDDEN = (96, 48)

#: (weights [in, out], biases [out]) of each layer.
Layers = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]


def network(name: str, layers: Layers) -> onnx.ModelProto:
    """Fully connected layers with ReLU between them; outputs are scores, one a class."""
    nodes, weights, last = [], [], "pixels"
    for number, (weight, bias) in enumerate(layers, 1):
        scores = "scores" if number == len(layers) else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [scores], name=f"fc{number}"))
        weights += [
            numpy_helper.from_array(weight.astype(np.float32), f"w{number}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{number}"),
        ]
        last = f"positive{number}"
        if scores != "scores":
            nodes.append(helper.make_node("Relu", [scores], [last], name=f"relu{number}"))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of linear.onnx and perceptron.onnx")
    out: Path = parser.parse_args().out
    inputs, labels = flat_training()
    held, truth = flat()
    linear = LogisticRegression(C=0.3, max_iter=2000, random_state=SEED).fit(inputs["pixels"], labels)
    deep = MLPClassifier(HIDDEN, alpha=0.3, max_iter=1000, random_state=SEED).fit(inputs["pixels"], labels)
    onnx.save(network("linear", [(linear.coef_.T, linear.intercept_)]), out / "linear.onnx")
    layers = list(zip(deep.coefs_, deep.intercepts_, strict=True))
    onnx.save(network("perceptron", layers), out / "perceptron.onnx")
    for name, trained in (("linear", linear), ("perceptron", deep)):
        print(f"{name}: {100 * trained.score(held['pixels'], truth):.2f} % of {len(truth)} held-out samples")


if __name__ == "__main__":
    main()
