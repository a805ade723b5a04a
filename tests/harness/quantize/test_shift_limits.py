"""What the DPU's shifts can do holds in every written file: positions read back from its Q/DQ pairs alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from harness.emulation import lower
from harness.quantize import QuantizedModel, calibrate, quantize
from harness.quantize.graph import read_model

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
BEHIND = {"Relu", "Clip", "LeakyRelu", "PRelu"}


class Positions:
    """The fix positions of a written Q/DQ network, by walking its nodes."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def of_scale(self, name: str) -> int:
        scale = float(numpy_helper.to_array(self.constants[name]))
        mantissa, exponent = np.frexp(scale)
        assert mantissa == 0.5
        return 1 - int(exponent)

    def of_input(self, node: NodeProto, slot: int) -> int | None:
        """Position of what a node reads; None where that is float."""
        if len(node.input) <= slot or not node.input[slot]:
            return None
        maker = self.maker.get(node.input[slot])
        return self.of_scale(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def of_result(self, node: NodeProto) -> tuple[int | None, int | None]:
        """(position of a bias that the next node adds, position of the result), behind what is fused."""
        bias = None
        for _ in range(3):
            readers = self.readers(node.output[0])
            if not readers:
                return bias, None
            (reader,) = readers
            if reader.op_type == "QuantizeLinear":
                return bias, self.of_scale(reader.input[1])
            if node.op_type == "MatMul" and reader.op_type == "Add":
                bias = next(p for slot in (0, 1) if (p := self.of_input(reader, slot)) is not None)
            else:
                assert reader.op_type in BEHIND
            node = reader
        raise AssertionError(node.name)


def violations(model: ModelProto) -> Iterator[str]:
    """Layers beyond the limits of docs/emulation.md, written as they stand there."""
    found = Positions(model)
    for node in found.nodes:
        first, second = found.of_input(node, 0), found.of_input(node, 1)
        if node.op_type in WEIGHTED and first is not None and second is not None:
            after, op = found.of_result(node)
            bp = found.of_input(node, 2) if after is None else after
            assert op is not None
            shift_cut = first + second - op
            if not 0 <= shift_cut <= 16:
                yield f"{node.name}: shift_cut {shift_cut}"
            if bp is not None and not min(0, -(24 - (8 + shift_cut))) <= first + second - bp <= 16:
                yield f"{node.name}: shift_bias {first + second - bp} at shift_cut {shift_cut}"
        elif node.op_type in {"Add", "Sub"} and first is not None and second is not None:
            if found.maker[node.input[0]].op_type == "MatMul":
                continue
            _, op = found.of_result(node)
            highest = max(first, second)
            if not highest - min(first, second) <= 15:
                yield f"{node.name}: shift_read {highest - min(first, second)}"
            if op is not None and not -15 <= highest - op <= 15:
                yield f"{node.name}: shift_write {highest - op}"
        elif node.op_type in {"Mul", "HardSwish"} and first is not None:
            _, op = found.of_result(node)
            second = 7 if node.op_type == "HardSwish" else second
            if op is not None and second is not None and not 0 <= first + second - op <= 16:
                yield f"{node.name}: shift {first + second - op}"


def run(path: Path, data: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    disabled = ["WeightBiasQuantization", "QDQS8ToU8Transformer"]
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
    result: NDArray[np.float32] = session.run(None, {"x": data})[0]
    return result


def made(
    path: Path, data: NDArray[np.float32], method: str = "minmax", recover: tuple[()] | None = ()
) -> QuantizedModel:
    calibration = calibrate(path, [{"x": data[i : i + 4]} for i in range(0, len(data), 4)], environment="fpga")
    out = path.with_suffix(".int8.onnx")
    return quantize(path, calibration, environment="fpga", method=method, out=out, recover=recover)


#: Exponents of ten of weights, biases and inputs.
MAGNITUDES = st.sampled_from([-6, -4, -2, 0, 0, 0, 2, 4])
LAYERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["conv", "relu6", "leaky", "depthwise", "transposed", "residual", "residual pool", "add constant",
             "mul constant", "gate", "hard swish", "concat", "reduction", "minus", "matmul", "matmul of two"]
        ),
        MAGNITUDES,
        MAGNITUDES,
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


def network(builder: type[Any], layers: list[tuple[str, int, int]], seed: int) -> ModelProto:
    """A chain of layers with weights of 10^first and biases or constants of 10^second."""
    net = builder(seed)
    x = "x"
    for number, (kind, first, second) in enumerate(layers):
        name = f"{number}.{kind.replace(' ', '-')}"

        def conv(data: str, what: str, shape: tuple[int, ...] = (4, 4, 3, 3), **more: list[int] | int) -> str:
            weights = net.weights(f"{name}.{what}.w", *shape, gain=10.0**first)  # noqa: B023
            bias = net.weights(f"{name}.{what}.b", 4, gain=10.0**second)  # noqa: B023
            op = "ConvTranspose" if kind == "transposed" else "Conv"  # noqa: B023
            return str(net.add(op, [data, weights, bias], f"{name}.{what}", pads=[1] * 4, **more))  # noqa: B023

        def constant(what: str) -> str:
            return str(net.weights(f"{name}.{what}", 1, 4, 1, 1, gain=10.0**second))  # noqa: B023

        if kind in {"conv", "transposed"}:
            x = conv(x, "y")
        elif kind == "depthwise":
            x = conv(x, "y", (4, 1, 3, 3), group=4)
        elif kind == "relu6":
            bounds = [net.constant(f"{name}.{n}", np.array(v, np.float32)) for n, v in (("lo", 0), ("hi", 6))]
            x = net.add("Clip", [conv(x, "c"), *bounds], f"{name}.y")
        elif kind == "leaky":
            x = net.add("LeakyRelu", [conv(x, "c")], f"{name}.y", alpha=0.1)
        elif kind == "residual":
            x = net.add("Add", [x, conv(x, "c")], f"{name}.y")
        elif kind == "residual pool":
            pooled = net.add("MaxPool", [x], f"{name}.p", kernel_shape=[3, 3], pads=[1] * 4)
            x = net.add("Add", [conv(x, "c"), pooled], f"{name}.y")
        elif kind in {"add constant", "minus", "mul constant"}:
            op = {"add constant": "Add", "minus": "Sub", "mul constant": "Mul"}[kind]
            before = net.add("Relu", [conv(x, "c")], f"{name}.r")
            x = net.add(op, [before, constant("k")], f"{name}.y")
        elif kind == "gate":
            gate = net.add("Sigmoid", [conv(x, "c")], f"{name}.g")
            x = net.add("Mul", [x, gate], f"{name}.y")
        elif kind == "hard swish":
            x = net.add("HardSwish", [conv(x, "c")], f"{name}.y")
        elif kind == "concat":
            both = net.add("Concat", [conv(x, "a"), conv(x, "b")], f"{name}.both", axis=1)
            x = net.conv(both, f"{name}.y", (4, 8, 1, 1))
        elif kind == "reduction":
            pooled = net.add("MaxPool", [x], f"{name}.p", kernel_shape=[3, 3], pads=[1] * 4)
            both = net.add("Concat", [pooled, conv(x, "b")], f"{name}.both", axis=1)
            x = net.conv(both, f"{name}.y", (4, 8, 1, 1))
        elif kind == "matmul of two":
            x = net.add("MatMul", [x, conv(x, "c")], f"{name}.y")
        else:
            product = net.add("MatMul", [x, net.weights(f"{name}.w", 6, 6, gain=10.0**first)], f"{name}.m")
            x = net.add("Add", [product, net.weights(f"{name}.b", 6, gain=10.0**second)], f"{name}.y")
    net.conv(x, "last", (4, 4, 1, 1))
    model: ModelProto = net.model({"x": ["N", 4, 6, 6]}, {"last": None}, opset=14)
    return model


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(layers=LAYERS, size=MAGNITUDES, seed=st.integers(0, 2**16), recover=st.booleans())
def test_random_networks_of_extreme_ranges(
    layers: list[tuple[str, int, int]], size: int, seed: int, recover: bool, builder: type[Any], tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(builder, layers, seed), path)
    data = (np.random.default_rng(seed).normal(size=(8, 4, 6, 6)) * 10.0**size).astype(np.float32)
    assume(bool(np.abs(run(path, data)).max() < 1e30))
    out = made(path, data, recover=None if recover else ())
    assert list(violations(read_model(out.path))) == []
    # The lowering has the limits from the same page, and leaves to software what is beyond them.
    assert [notice for notice in lower(out.path, "dpu").notices if "shift" in notice] == []
    # Not by giving up: every layer is int8, but for a last one whose channels fit no common scale.
    assert {layer for layer, _ in out.kept_float} <= {"last"}
    assert np.isfinite(run(out.path, data)).all()
