"""One small network per operator: a convolution, the operator, a convolution, through all four rule books.

Of each: the int8 network comes near the float one, the operator is int8 exactly where its rule book says so, and
ONNX Runtime's optimized graph holds the integer kernel that the cpu rule book promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from harness.quantize import QuantizedModel, calibrate, quantize
from harness.quantize.graph import read_model
from harness.quantize.runtime import sqnr_db

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
Net = Any
Build = Callable[[Net, str], str]


@dataclass(frozen=True)
class Case:
    """An operator between two convolutions.

    Args:
        build: adds it behind a tensor [N, 8, 8, 8]; the layer under test is called "op".
        float_in: environments in which it stays float.
        kernel: what the cpu network runs for it; None when it stays float there.
        least_db: of the output, int8 against float; fpga and host, with one power of two per tensor, lose 6 more.
        channels: of the operator's result.
        opset: of the network.
    """

    build: Build
    kernel: str | None
    float_in: frozenset[str] = frozenset()
    least_db: float = 28.0
    channels: int = 8
    opset: int = 17


def one(op: str, **attributes: object) -> Build:
    return lambda net, x: net.add(op, [x], "op", **attributes)


def with_constants(op: str, *values: object, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        names = [
            "" if value is None else net.constant(f"op.c{index}", np.asarray(value))
            for index, value in enumerate(values)
        ]
        return str(net.add(op, [x, *names], "op", **attributes))

    return build


def conv(shape: tuple[int, ...], **attributes: object) -> Build:
    return lambda net, x: net.conv(x, "op", shape, **attributes)


def transposed(net: Net, x: str) -> str:
    return str(net.add("ConvTranspose", [x, net.weights("op.w", 8, 8, 2, 2)], "op", strides=[2, 2]))


def sibling(op: str, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        other = net.conv(x, "other", (8, 8, 1, 1))
        return str(net.add(op, [x, other], "op", **attributes))

    return build


def split(net: Net, x: str) -> str:
    net.nodes.append(onnx.helper.make_node("Split", [x], ["half1", "half2"], name="op", axis=1))
    first = net.conv("half1", "first", (8, 4, 1, 1))
    second = net.conv("half2", "second", (8, 4, 1, 1))
    return str(net.add("Add", [first, second], "joined"))


def silu(net: Net, x: str) -> str:
    net.add("Sigmoid", [x], "gate")
    return str(net.add("Mul", [x, "gate"], "op"))


def gelu_erf(net: Net, x: str) -> str:
    net.add("Div", [x, net.constant("root2", np.float32(2**0.5))], "scaled")
    net.add("Erf", ["scaled"], "op")
    net.add("Add", ["op", net.constant("one", np.float32(1))], "plus")
    net.add("Mul", [x, "plus"], "product")
    return str(net.add("Mul", ["product", net.constant("half", np.float32(0.5))], "gelu"))


def as_rows(build: Callable[[Net, str], str]) -> Build:
    """The operator on [N, 64, 8], and back to [N, 8, 8, 8]."""

    def around(net: Net, x: str) -> str:
        net.add("Reshape", [x, net.constant("rows", np.array([0, 8, 64]))], "flat")
        net.add("Transpose", ["flat"], "tokens", perm=[0, 2, 1])
        y = build(net, "tokens")
        net.add("Transpose", [y], "channels", perm=[0, 2, 1])
        return str(net.add("Reshape", ["channels", net.constant("image.shape", np.array([0, 8, 8, 8]))], "again"))

    return around


def matmul(net: Net, x: str) -> str:
    net.add("MatMul", [x, net.weights("op.w", 8, 8)], "op")
    return str(net.add("Add", ["op", net.weights("op.b", 8)], "op.sum"))


def matmul_of_two(net: Net, x: str) -> str:
    net.add("MatMul", [x, net.weights("k.w", 8, 8)], "k")
    net.add("Transpose", ["k"], "kt", perm=[0, 2, 1])
    net.add("MatMul", [x, "kt"], "op")
    return str(net.add("MatMul", ["op", net.weights("o.w", 64, 8)], "o"))


def layer_norm(net: Net, x: str) -> str:
    scale, shift = net.weights("op.s", 8), net.weights("op.b", 8)
    return str(net.add("LayerNormalization", [x, scale, shift], "op"))


def written_norm(net: Net, x: str) -> str:
    net.add("ReduceMean", [x], "mean", axes=[-1])
    net.add("Sub", [x, "mean"], "centred")
    net.add("Pow", ["centred", net.constant("two", np.float32(2))], "square")
    net.add("ReduceMean", ["square"], "variance", axes=[-1])
    net.add("Add", ["variance", net.constant("eps", np.float32(1e-5))], "plus")
    net.add("Sqrt", ["plus"], "root")
    net.add("Div", ["centred", "root"], "op")
    net.add("Mul", ["op", net.weights("op.s", 8)], "scaled")
    return str(net.add("Add", ["scaled", net.weights("op.b", 8)], "shifted"))


def gemm(net: Net, x: str) -> str:
    net.add("GlobalAveragePool", [x], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.add("Gemm", ["flat", net.weights("op.w", 8, 8), net.weights("op.b", 8)], "op", transB=1, alpha=0.5)
    net.add("Relu", ["op"], "positive")
    return str(net.add("Unsqueeze", ["positive", net.constant("axes", np.array([2, 3]))], "map"))


def as_lines(build: Callable[[Net, str], str], shape: list[int]) -> Build:
    """The operator on another number of axes."""

    def around(net: Net, x: str) -> str:
        net.add("Reshape", [x, net.constant("line.shape", np.array([0, *shape]))], "line")
        y = build(net, "line")
        return str(net.add("Reshape", [y, net.constant("image.shape", np.array([0, 8, 8, -1]))], "again"))

    return around


def matmul_by_constants(net: Net, x: str) -> str:
    """A weight matrix of its own for each of eight groups: [8, 8, 8]."""
    return str(net.add("MatMul", [x, net.weights("op.w", 8, 8, 8)], "op"))


def matmul_from_the_left(net: Net, x: str) -> str:
    return str(net.add("MatMul", [net.weights("op.w", 8, 8), x], "op"))


GPU = frozenset({"gpu"})
NOWHERE = frozenset(ENVIRONMENTS)
NOT_CPU = frozenset({"gpu", "cpu"})
NOT_HOST = frozenset({"gpu", "cpu", "fpga"})
pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
double = np.array([1, 1, 2, 2], np.float32)

CASES = {
    "conv": Case(conv((8, 8, 3, 3), pads=[1] * 4), "QLinearConv"),
    "grouped conv": Case(conv((8, 2, 3, 3), group=4), "QLinearConv"),
    "depthwise conv": Case(conv((8, 1, 3, 3), group=8), "QLinearConv"),
    "dilated conv": Case(conv((8, 8, 3, 3), dilations=[2, 2]), "QLinearConv"),
    "conv 1-D": Case(as_lines(conv((8, 8, 3), pads=[1, 1]), [8, 64]), "QLinearConv"),
    "conv 3-D": Case(as_lines(conv((8, 8, 3, 3, 3), pads=[1] * 6), [8, 4, 4, 4]), "QLinearConv"),
    "transposed conv": Case(transposed, "ConvTranspose"),
    "gemm": Case(gemm, "QGemm"),
    "matmul": Case(as_rows(matmul), "MatMulIntegerToFloat"),
    "matmul by a matrix per group": Case(matmul_by_constants, "QLinearMatMul"),
    "matmul from the left": Case(matmul_from_the_left, None, frozenset({"cpu"})),
    "matmul of two activations": Case(as_rows(matmul_of_two), "QLinearMatMul", least_db=24),
    "add": Case(sibling("Add"), "QLinearAdd"),
    "sub": Case(sibling("Sub"), None, NOT_CPU),
    "mul": Case(sibling("Mul"), "QLinearMul", GPU, least_db=24),
    "concat": Case(sibling("Concat", axis=1), "QLinearConcat", GPU, channels=16),
    "split": Case(split, "Split", GPU),
    "max pool": Case(one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), "NhwcMaxPool"),
    "average pool": Case(one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), "QLinearAveragePool", GPU),
    "global average pool": Case(one("GlobalAveragePool"), "QLinearGlobalAveragePool", GPU),
    "reduce mean": Case(one("ReduceMean", axes=[2, 3]), "QLinearGlobalAveragePool", GPU),
    "global max pool": Case(one("GlobalMaxPool"), "GlobalMaxPool", GPU),
    "lp pool": Case(one("LpPool", kernel_shape=[2, 2]), None, NOWHERE),
    "resize nearest": Case(with_constants("Resize", None, double, mode="nearest"), "Resize", GPU),
    "resize linear": Case(with_constants("Resize", None, double, mode="linear"), None, NOT_CPU),
    "resize cubic": Case(with_constants("Resize", None, double, mode="cubic"), None, NOWHERE),
    "pad with zero": Case(with_constants("Pad", pads), "QLinearConv"),
    "pad by reflection": Case(with_constants("Pad", pads, mode="reflect"), "Pad", GPU),
    "pad with a value": Case(with_constants("Pad", pads, np.float32(0.5)), "Pad", GPU),
    "leaky relu": Case(one("LeakyRelu", alpha=0.1), "QLinearLeakyRelu", GPU),
    "leaky relu 0.01": Case(one("LeakyRelu", alpha=0.01), "QLinearLeakyRelu", frozenset({"gpu", "fpga"})),
    "prelu": Case(with_constants("PRelu", np.full((8, 1, 1), 0.2, np.float32)), None, NOT_HOST),
    "prelu 0.1": Case(with_constants("PRelu", np.full((8, 1, 1), 0.1, np.float32)), None, NOT_CPU),
    "elu": Case(one("Elu"), None, NOWHERE),
    "sigmoid": Case(one("Sigmoid"), "QLinearSigmoid", GPU),
    "tanh": Case(one("Tanh"), None, frozenset({"gpu", "cpu", "fpga"})),
    "softmax": Case(one("Softmax", axis=1), None, NOWHERE),
    "hard sigmoid": Case(one("HardSigmoid", alpha=1 / 6), None, NOT_CPU),
    "hard sigmoid 0.2": Case(one("HardSigmoid"), None, NOT_HOST),
    "hard swish": Case(one("HardSwish"), None, NOT_CPU),
    "silu": Case(silu, "QLinearMul", GPU, least_db=24),
    "gelu": Case(one("Gelu"), None, NOWHERE, opset=20),
    "gelu written out": Case(gelu_erf, None, NOWHERE),
    "layer normalization": Case(as_rows(layer_norm), None, NOWHERE),
    "normalization written out": Case(as_rows(written_norm), None, NOWHERE),
    "relu": Case(one("Relu"), "QLinearConv"),
    "relu6": Case(with_constants("Clip", np.float32(0), np.float32(6)), "QLinearConv"),
}


def network(case: Case, builder: type[Any], path: Path) -> Path:
    net = builder(3)
    net.conv("image", "first.conv", (8, 3, 3, 3), pads=[1] * 4)
    y = case.build(net, "first.conv")
    net.conv(y, "last", (4, case.channels, 1, 1))
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"last": None}, opset=case.opset, ir_version=9), path)
    return path


def session(path: Path, disabled: tuple[str, ...] = (), optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def made(path: Path, environment: str, data: np.ndarray, out: Path) -> QuantizedModel:
    calibration = calibrate(path, [{"image": data}], environment=environment)
    return quantize(path, calibration, environment=environment, method="minmax", out=out, recover=())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, environment: str, builder: type[Any], images: Callable[..., Any], tmp_path: Path) -> None:
    case = CASES[name]
    path = network(case, builder, tmp_path / "float.onnx")
    data = images(16)
    out = made(path, environment, data, tmp_path / "q.onnx")
    onnx.checker.check_model(read_model(out.path), full_check=True)

    kept = dict(out.kept_float)
    assert "first.conv" not in kept
    assert "last" not in kept
    gone = "op" not in {node.name for node in read_model(out.path).graph.node}  # folded into a neighbour
    if not gone:
        assert ("op" in kept) == (environment in case.float_in), kept
    assert all(reason and "\n" not in reason for reason in kept.values())

    before = session(path).run(None, {"image": data})[0]
    optimized = tmp_path / "optimized.onnx"
    after = session(out.path, out.disabled_optimizers, optimized).run(None, {"image": data})[0]
    least = case.least_db - (8 if environment in {"fpga", "host"} else 4 if environment == "gpu" else 0)
    assert sqnr_db(before, after) > least

    if environment == "cpu":
        found = Counter(node.op_type for node in onnx.load(optimized).graph.node)
        assert found["QLinearConv"] >= 2
        assert not {"Conv", "FusedConv", "Gemm"} & found.keys()
        assert "op" in kept or "MatMul" not in found
        if case.kernel is not None:
            assert found[case.kernel] >= 1, found


@pytest.mark.parametrize(("op", "attributes"), [("HardSigmoid", {"alpha": 1 / 6}), ("HardSwish", {})])
@pytest.mark.parametrize(("environment", "stands_alone"), [("fpga", True), ("host", False)])
def test_the_dpu_reads_8_bits_into_hard_sigmoid_and_hard_swish(
    op: str,
    attributes: dict[str, float],
    environment: str,
    stands_alone: bool,
    builder: type[Any],
    images: Callable[..., Any],
    tmp_path: Path,
) -> None:
    path = network(Case(one(op, **attributes), None), builder, tmp_path / "float.onnx")
    model = read_model(made(path, environment, images(4), tmp_path / "q.onnx").path)
    makers = {name: node for node in model.graph.node for name in node.output}
    op_node = next(node for node in model.graph.node if node.name == "op")
    assert makers[op_node.input[0]].op_type == ("DequantizeLinear" if stands_alone else "Conv")
    if op == "HardSigmoid" and environment == "fpga":
        after = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "op")
        step = next(tensor for tensor in model.graph.initializer if tensor.name == after.input[1])
        assert onnx.numpy_helper.to_array(step) == 2**-7
