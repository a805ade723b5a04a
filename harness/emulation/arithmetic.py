"""The arithmetics that a quantized network can be lowered to; their formulas stand in docs/emulation.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import UserError
from harness.quantize.rulebooks.rules import Rounding

ArithmeticName = Literal["dpu", "mathworks", "host", "gpu"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How one kind of board computes with integers.

    Args:
        name: dpu, mathworks, host or gpu.
        title: for a reader.
        layers: rounding of what an int8 layer makes.
        entering: rounding of a float tensor that becomes integers.
        power_of_two: every step is 2^-p; else any float32 number.
        dpu_units: LeakyReLU, average pooling, hard sigmoid and shifts as the DPU has them.
        claim: the sentence that accompanies every figure computed this way.
    """

    name: ArithmeticName
    title: str
    layers: Rounding
    entering: Rounding
    power_of_two: bool
    dpu_units: bool
    claim: str


ARITHMETICS: Mapping[str, Arithmetic] = {
    arithmetic.name: arithmetic
    for arithmetic in (
        Arithmetic(
            "dpu",
            "AMD DPUCZDX8G",
            Rounding.HALF_UP,
            Rounding.HALF_AWAY,
            power_of_two=True,
            dpu_units=True,
            claim="bit-exact to the published semantics of the DPUCZDX8G, not to silicon",
        ),
        Arithmetic(
            "mathworks",
            "MathWorks deep learning processor",
            Rounding.HALF_AWAY,
            Rounding.HALF_AWAY,
            power_of_two=True,
            dpu_units=False,
            claim="bit-exact to the published semantics of MathWorks' processor, not to silicon",
        ),
        Arithmetic(
            "host",
            "target-independent",
            Rounding.HALF_AWAY,
            Rounding.HALF_AWAY,
            power_of_two=True,
            dpu_units=False,
            claim="bit-exact to the target-independent arithmetic",
        ),
        Arithmetic(
            "gpu",
            "TensorRT explicit quantization",
            Rounding.HALF_EVEN,
            Rounding.HALF_EVEN,
            power_of_two=False,
            dpu_units=False,
            claim="bit-exact to the published semantics of TensorRT's int8 layers, not to silicon",
        ),
    )
}

#: Arithmetic of an environment whose target names none. The environment `cpu` is what ONNX Runtime computes itself.
BY_ENVIRONMENT: Mapping[str, ArithmeticName] = {"fpga": "dpu", "host": "host", "gpu": "gpu"}


def find_arithmetic(name: str) -> Arithmetic:
    """The arithmetic of that name, or of that environment.

    Raises:
        UserError: there is none.
    """
    found = ARITHMETICS.get(BY_ENVIRONMENT.get(name, name))
    if found is None:
        extra = "; a cpu network is what ONNX Runtime computes as it is" if name == "cpu" else ""
        message = f"arithmetic {name!r} is unknown; choose one of {', '.join(ARITHMETICS)}{extra}"
        raise UserError(message)
    return found
