"""A quantized network as its integers say it: tensors with a step, layers with integer operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

Integers64 = NDArray[np.int64]


def exponent_of(step: float) -> int | None:
    """The e of a step that is exactly 2^e, else None."""
    fraction, exponent = np.frexp(np.float64(step))
    return int(exponent) - 1 if fraction == 0.5 else None


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Activations as integers.

    Args:
        name: of the tensor that holds the integers.
        step: real value of one of them.
        low: smallest integer of their type.
        high: largest integer of their type.
    """

    name: str
    step: float
    low: int
    high: int

    @property
    def exponent(self) -> int | None:
        """The e of the step 2^e; None where it is none."""
        return exponent_of(self.step)


@dataclass(frozen=True, eq=False)
class Constant:
    """Integers of the file: weights, a bias, a constant operand.

    Args:
        values: the integers.
        scale: steps, broadcastable to the values.
        name: of the dequantized tensor.
    """

    values: Integers64
    scale: NDArray[np.float32]
    name: str

    def exponents(self) -> Integers64 | None:
        """The e of each step 2^e, broadcastable to the values; None where a step is no power of two."""
        fraction, exponent = np.frexp(self.scale.astype(np.float64))
        if not np.all(fraction == 0.5):
            return None
        return exponent.astype(np.int64) - 1

    def in_steps_of(self, exponent: int) -> NDArray[np.float64]:
        """The real values in units of 2^exponent; exact, as the integers have 32 bits at most."""
        found = self.exponents()
        assert found is not None, "asked for after reading made sure"
        result: NDArray[np.float64] = np.ldexp(self.values.astype(np.float64), (found - exponent).astype(np.int32))
        return result


Operand = QuantizedTensor | Constant


@dataclass(frozen=True, eq=False)
class Layer:
    """What stands between the DequantizeLinear nodes in front and one QuantizeLinear behind.

    Args:
        node: the operator.
        operands: slot → integers, of the slots that hold values (not axes or shapes).
        result: what is made.
        output: which of the operator's outputs.
        bias: added by a node behind it.
        functions: activation functions on the way out, in order.
        members: names of all nodes it consists of.
    """

    node: NodeProto
    operands: Mapping[int, Operand]
    result: QuantizedTensor
    output: int
    bias: Constant | None
    functions: tuple[NodeProto, ...]
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entering:
    """A float tensor that becomes integers.

    Args:
        tensor: the float tensor.
        result: its integers.
        reason: why no int8 layer makes it, "" for an input of the network.
        layer: name of the operator that makes it, "" for an input.
    """

    tensor: str
    result: QuantizedTensor
    reason: str
    layer: str


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """What `reading` found.

    Args:
        made: layers and entering tensors, in the order of the file.
        dequantized: name of a float tensor → the integers it stands for.
        constants: name of a float tensor → the integers of the file it stands for.
        untouched: name of a QuantizeLinear or DequantizeLinear that stays → why.
    """

    made: tuple[Layer | Entering, ...]
    dequantized: Mapping[str, QuantizedTensor]
    constants: Mapping[str, Constant]
    untouched: Mapping[str, str]
