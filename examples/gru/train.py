"""Train the small GRU of this example: NumPy alone, scikit-learn's digits row by row, one fixed seed.

    python examples/gru/train.py --out examples/gru/gru.onnx

Backpropagation through eight steps fits on a page, and the file then holds a plain ONNX GRU. The held-out samples are
looked at in the last line only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.gru.rows import held_out, training

Array = NDArray[np.float64]
Parameters = dict[str, Array]

SEED = 11
EPOCHS = 40
BATCH = 32
PEAK_LEARNING_RATE = 6e-3
HIDDEN, INPUTS, STEPS, CLASSES = 64, 8, 8, 10
#: Brightness of a training image is scaled by up to this share: 1,197 samples are few.
JITTER = 0.1


def initial(rng: np.random.Generator) -> Parameters:
    """Weights in ONNX's order of gates: update z, reset r, candidate h."""
    rows = 3 * HIDDEN
    return {
        "W": rng.normal(size=(rows, INPUTS)) / np.sqrt(INPUTS),
        "R": rng.normal(size=(rows, HIDDEN)) / np.sqrt(HIDDEN),
        "Wb": np.zeros(rows),
        "Rb": np.zeros(rows),
        "F": rng.normal(size=(CLASSES, HIDDEN)) / np.sqrt(HIDDEN),
        "Fb": np.zeros(CLASSES),
    }


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def forward(p: Parameters, x: Array) -> tuple[Array, list[tuple[Array, ...]]]:
    """(logits [N, classes], what each step remembers) of sequences [N, steps, inputs]."""
    h = np.zeros((len(x), HIDDEN))
    steps = []
    for t in range(STEPS):
        entering = x[:, t] @ p["W"].T + p["Wb"]
        recurrent = h @ p["R"].T + p["Rb"]
        z = sigmoid(entering[:, :HIDDEN] + recurrent[:, :HIDDEN])
        r = sigmoid(entering[:, HIDDEN : 2 * HIDDEN] + recurrent[:, HIDDEN : 2 * HIDDEN])
        q = recurrent[:, 2 * HIDDEN :]
        n = np.tanh(entering[:, 2 * HIDDEN :] + r * q)
        steps.append((h, z, r, q, n))
        h = (1 - z) * n + z * h
    return h @ p["F"].T + p["Fb"], [*steps, (h,)]


def gradients(p: Parameters, x: Array, labels: NDArray[np.int64]) -> tuple[float, Parameters]:
    """Mean cross entropy and its derivative by every parameter."""
    logits, steps = forward(p, x)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen = np.arange(len(x)), labels
    loss = float(-np.log(shares[chosen]).mean())
    shares[chosen] -= 1
    d_logits = shares / len(x)
    g = {name: np.zeros_like(value) for name, value in p.items()}
    g["F"], g["Fb"] = d_logits.T @ steps[-1][0], d_logits.sum(axis=0)
    dh = d_logits @ p["F"]
    for t in reversed(range(STEPS)):
        h, z, r, q, n = steps[t]
        d_n = dh * (1 - z) * (1 - n**2)
        d_z = dh * (h - n) * z * (1 - z)
        d_r = d_n * q * r * (1 - r)
        entering = np.concatenate([d_z, d_r, d_n], axis=1)
        recurrent = np.concatenate([d_z, d_r, d_n * r], axis=1)
        g["W"] += entering.T @ x[:, t]
        g["Wb"] += entering.sum(axis=0)
        g["R"] += recurrent.T @ h
        g["Rb"] += recurrent.sum(axis=0)
        dh = dh * z + recurrent @ p["R"]
    return loss, g


def train(epochs: int = EPOCHS, seed: int = SEED) -> Parameters:
    """Adam with a learning rate that rises and falls once."""
    rng = np.random.default_rng(seed)
    inputs, labels = training()
    x = inputs["rows"].astype(np.float64)
    p = initial(rng)
    first = {name: np.zeros_like(value) for name, value in p.items()}
    second = {name: np.zeros_like(value) for name, value in p.items()}
    total = epochs * -(-len(x) // BATCH)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(x))
        losses = []
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            gain = rng.uniform(1 - JITTER, 1 + JITTER, size=(len(chosen), 1, 1))
            loss, g = gradients(p, x[chosen] * gain, labels[chosen])
            step += 1
            rate = PEAK_LEARNING_RATE * np.sin(np.pi * step / (total + 1))
            for name in p:
                first[name] = 0.9 * first[name] + 0.1 * g[name]
                second[name] = 0.999 * second[name] + 0.001 * g[name] ** 2
                p[name] -= rate * (first[name] / (1 - 0.9**step)) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            losses.append(loss)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{epochs}  training loss {np.mean(losses):.4f}", flush=True)
    return p


def export(p: Parameters, path: Path) -> None:
    """Write an ONNX network: rows [N, 8, 8] → logits [N, 10], any batch."""
    constants = {
        "gru.W": p["W"][None],
        "gru.R": p["R"][None],
        "gru.B": np.concatenate([p["Wb"], p["Rb"]])[None],
        "classifier.weight": p["F"],
        "classifier.bias": p["Fb"],
    }
    nodes = [
        helper.make_node("Transpose", ["rows"], ["sequence"], name="by_step", perm=[1, 0, 2]),
        helper.make_node(
            "GRU",
            ["sequence", "gru.W", "gru.R", "gru.B"],
            ["", "last"],
            name="gru",
            hidden_size=HIDDEN,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["last", "first_axis"], ["state"], name="last_state"),
        helper.make_node(
            "Gemm", ["state", "classifier.weight", "classifier.bias"], ["logits"], name="classifier", transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "digit_rows",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", STEPS, INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([0], np.int64), "first_axis"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="quantrig"
    )
    model.doc_string = "10 handwritten digits, read row by row; examples/gru/train.py"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the GRU of this example.")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    p = train(arguments.epochs)
    export(p, arguments.out)
    inputs, labels = held_out()
    right = int((forward(p, inputs["rows"].astype(np.float64))[0].argmax(axis=1) == labels).sum())
    print(f"held out: {right} of {len(labels)} right, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
