"""Random networks of many operators through harness.quantize, lowered, against the integer reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import harness
from tests.harness.emulation.reference.agreement import compare
from tests.harness.quantize.conftest import NetworkBuilder, branched_network, images

ARITHMETICS = [("fpga", "dpu"), ("fpga", "mathworks"), ("host", "host"), ("gpu", "gpu")]
_property = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class _Growing:
    """A network that grows block by block; its running tensor has `channels` and `size` by `size` pixels."""

    def __init__(self, seed: int) -> None:
        self.net = NetworkBuilder(seed)
        self.channels, self.size, self.count = 4, 8, 0
        self.now = self.net.conv("image", "stem", (4, 3, 3, 3), pads=[1] * 4)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def grow(self, block: str) -> None:
        getattr(self, f"_{block}")()

    def _conv(self) -> None:
        made = self.channels + 2
        self.now = self.net.conv(self.now, self.name("conv"), (made, self.channels, 3, 3), pads=[1, 0, 1, 2])
        self.channels = made
        self.now = self.net.add("Relu", [self.now], self.name("relu"))

    def _dilated(self) -> None:
        if self.channels % 2:
            return
        shape = (self.channels, self.channels // 2, 3, 3)
        self.now = self.net.conv(
            self.now, self.name("dilated"), shape, pads=[2] * 4, dilations=[2, 2], group=2, bias=False
        )

    def _depthwise(self) -> None:
        shape = (self.channels, 1, 3, 3)
        self.now = self.net.conv(self.now, self.name("depthwise"), shape, pads=[1] * 4, group=self.channels)
        low = self.net.constant(self.name("low"), np.array(0, np.float32))
        high = self.net.constant(self.name("high"), np.array(6, np.float32))
        self.now = self.net.add("Clip", [self.now, low, high], self.name("relu6"))

    def _transposed(self) -> None:
        weights = self.net.weights(self.name("w"), self.channels, self.channels, 3, 3)
        self.now = self.net.add("ConvTranspose", [self.now, weights], self.name("up"), pads=[1] * 4)

    def _leaky(self) -> None:
        self.now = self.net.add("LeakyRelu", [self.now], self.name("leaky"), alpha=0.1)

    def _prelu(self) -> None:
        slopes = self.net.weights(self.name("slopes"), self.channels, 1, 1)
        self.now = self.net.add("PRelu", [self.now, slopes], self.name("prelu"))

    def _hard_swish(self) -> None:
        self.now = self.net.add("HardSwish", [self.now], self.name("swish"))

    def _tanh(self) -> None:
        self.now = self.net.add("Tanh", [self.now], self.name("tanh"))

    def _max_pool(self) -> None:
        self.now = self.net.add("MaxPool", [self.now], self.name("max"), kernel_shape=[3, 3], pads=[1] * 4)

    def _average_pool(self) -> None:
        self.now = self.net.add("AveragePool", [self.now], self.name("mean"), kernel_shape=[3, 3])
        self.size -= 2
        pads = self.net.constant(self.name("pads"), np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        self.now = self.net.add("Pad", [self.now, pads], self.name("padded"))
        self.size += 2

    def _residual(self) -> None:
        shape = (self.channels, self.channels, 1, 1)
        branch = self.net.conv(self.now, self.name("branch"), shape)
        self.now = self.net.add("Add", [branch, self.now], self.name("sum"))
        self.now = self.net.add("Relu", [self.now], self.name("relu"))

    def _squeeze_excite(self) -> None:
        gate = self.net.add("Sigmoid", [self.__squeezed()], self.name("sigmoid"))
        self.now = self.net.add("Mul", [self.now, gate], self.name("gated"))

    def _hard_squeeze_excite(self) -> None:
        sixth = float(np.float32(1 / 6))
        gate = self.net.add("HardSigmoid", [self.__squeezed()], self.name("hard"), alpha=sixth, beta=0.5)
        self.now = self.net.add("Mul", [self.now, gate], self.name("gated"))

    def __squeezed(self) -> str:
        mean = self.net.add("GlobalAveragePool", [self.now], self.name("gap"))
        return self.net.conv(mean, self.name("gate"), (self.channels, self.channels, 1, 1))

    def _concat(self) -> None:
        shape = (3, self.channels, 1, 1)
        branch = self.net.conv(self.now, self.name("side"), shape)
        self.now = self.net.add("Concat", [self.now, branch], self.name("joined"), axis=1)
        self.channels += 3

    def _shift(self) -> None:
        constant = self.net.weights(self.name("c"), self.channels, 1, 1)
        self.now = self.net.add("Sub", [self.now, constant], self.name("shifted"))

    def _nearest(self) -> None:
        self.__resize("nearest")

    def _linear(self) -> None:
        self.__resize("linear")

    def __resize(self, mode: str) -> None:
        if self.size > 16:
            return
        scales = self.net.constant(self.name("scales"), np.array([1, 1, 2, 2], np.float32))
        self.now = self.net.add("Resize", [self.now, "", scales], self.name("large"), mode=mode)
        self.size *= 2

    def model(self) -> ModelProto:
        self.now = self.net.add("GlobalAveragePool", [self.now], "features")
        self.now = self.net.add("Flatten", [self.now], "flat")
        weights = self.net.weights("fc.w", 5, self.channels)
        self.net.add("Gemm", [self.now, weights, self.net.weights("fc.b", 5)], "logits", transB=1)
        self.net.add("Softmax", ["logits"], "scores", axis=1)
        return self.net.model({"image": ["N", 3, 8, 8]}, {"scores": ["N", 5]}, opset=16)


BLOCKS = sorted(name[1:] for name in vars(_Growing) if name.startswith("_") and "__" not in name)


def _quantized(model: ModelProto, environment: str, folder: Path, gain: float) -> Path:
    onnx.save(model, folder / "float.onnx")
    session = harness.Quantizer(folder / "float.onnx", environment=environment)
    session.calibrate([{"image": images(8) * np.float32(gain)}], method="minmax")
    return session.quantize(folder / "int8.onnx", method="minmax", recover=()).path


@pytest.mark.parametrize(("environment", "arithmetic"), ARITHMETICS)
@_property
@given(blocks=st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=6), seed=st.integers(0, 2**31), loud=st.booleans())
def test_random_networks(
    environment: str, arithmetic: str, blocks: list[str], seed: int, loud: bool, tmp_path: Path
) -> None:
    growing = _Growing(seed)
    for block in blocks:
        growing.grow(block)
    path = _quantized(growing.model(), environment, tmp_path, 1.0)

    # Louder images than those of the calibration saturate.
    feed = {"image": images(3, seed=seed) * np.float32(4.0 if loud else 1.0)}
    found = compare(path, arithmetic, feed)

    assert found.differing == {}, found.lowered.notices
    assert not found.missing


@pytest.mark.parametrize(("environment", "arithmetic"), ARITHMETICS)
def test_a_branched_network(environment: str, arithmetic: str, tmp_path: Path) -> None:
    path = _quantized(branched_network(), environment, tmp_path, 2.0)
    found = compare(path, arithmetic, {"image": images(16, seed=7)})

    assert found.differing == {}
    assert not found.missing
    assert found.hardware >= {"stem", "depthwise", "pointwise", "left", "right", "logits"}
    if environment != "gpu":
        software = {layer.op_type for layer in found.lowered.layers if layer.where == "SW"}
        assert software == {"Softmax"}


@pytest.mark.parametrize(
    ("environment", "arithmetic", "expected"),
    [
        # A DPU has no curves, and one slope.
        ("fpga", "dpu", {"prelu": {"PRelu"}, "tanh": {"Tanh"}, "squeeze_excite": {"Sigmoid"}}),
        ("host", "host", {}),
    ],
)
def test_every_block_alone_is_computed_in_integers(
    environment: str, arithmetic: str, expected: dict[str, set[str]], tmp_path: Path
) -> None:
    """Only what an environment has no integers for is in software."""
    in_software = {}
    for block in BLOCKS:
        growing = _Growing(3)
        growing.grow(block)
        path = _quantized(growing.model(), environment, tmp_path, 1.0)
        found = compare(path, arithmetic, {"image": images(4, seed=11)})
        assert found.differing == {}, block
        others = {layer.op_type for layer in found.lowered.layers if layer.where == "SW"} - {"Softmax"}
        if others:
            in_software[block] = others
    assert in_software == expected
