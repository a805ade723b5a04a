"""What lowering makes of a quantized network: a plain ONNX graph, and how each layer got there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import ModelProto

from harness.emulation.arithmetic import Arithmetic
from harness.quantize.writing import write_model

#: Where a board computes a layer: in its int8 units, or in software, in float.
Where = Literal["HW", "SW"]

#: Graph optimizers that must not run on a lowered graph: two move constants across a rounding, and Pad_Fusion turns
#: zeros in front of a MaxPool into its padding, which is minus infinity (ONNX Runtime 1.31.1).
DISABLED_OPTIMIZERS = ("ConvMulFusion", "ConvAddFusion", "Pad_Fusion")


@dataclass(frozen=True, slots=True)
class LoweredLayer:
    """One layer of a lowered network, in the network's order.

    Args:
        name: the layer's name, that of its operator in the quantized network.
        op_type: its operator.
        members: all nodes of the quantized network that it consists of (fused bias and activation function included).
        where: HW: integers in, integers out, exact; SW: float.
        integers: name of the tensor with its integers, the same in the quantized network (int8 or uint8) and in the
            lowered one (float32 holding whole numbers); None for SW layers and for int8 layers that return float.
        step: real value of one integer step of the result; None where `integers` is.
        carrier: "float32" or "float64": what holds the exact sums; None for layers that sum nothing and for SW.
        reason: why it is SW, in a reader's words; None for HW.
    """

    name: str
    op_type: str
    members: tuple[str, ...]
    where: Where
    integers: str | None = None
    step: float | None = None
    carrier: Literal["float32", "float64"] | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Lowered:
    """A quantized network in an arithmetic's own numbers.

    Args:
        model: plain ONNX, operators of the default domain only; the inputs and outputs of the quantized network.
        arithmetic: whose numbers.
        layers: every layer.
        disabled_optimizers: graph optimizers of ONNX Runtime that must not run on it.
    """

    model: ModelProto
    arithmetic: Arithmetic
    layers: tuple[LoweredLayer, ...]
    disabled_optimizers: tuple[str, ...] = DISABLED_OPTIMIZERS

    @property
    def notices(self) -> tuple[str, ...]:
        """One line for each layer that a board would compute in software."""
        return tuple(
            f"{layer.name} ({layer.op_type}): software: {layer.reason}" for layer in self.layers if layer.where == "SW"
        )

    def save(self, path: Path) -> None:
        """Write the network as one file.

        Raises:
            UserError: it cannot be written.
        """
        write_model(self.model, path)
