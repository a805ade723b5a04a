"""Rules of the `fpga` environment: AMD/Xilinx DPUCZDX8G, semantics as published (Vitis-AI at b2b227921).

Everything is int8 per tensor with power-of-two scales ('fix positions'), biases included. The position is
floor(log2(1 / max(min/-128.5, max/127.5))), or up to four finer when that lowers the squared error.
The Q/DQ file rounds activations half to even where the DPU rounds half up: hence its note.
"""

from __future__ import annotations

from harness.quantize.rulebooks.rules import (
    COMMON_FLOAT_REASONS,
    NOT_BIT_EXACT,
    ActivationType,
    Bias,
    Placement,
    Rounding,
    RuleBook,
    Sign,
    WeightType,
    kinds_of,
)

RULES = RuleBook(
    environment="fpga",
    target_library="none",
    activation=ActivationType(Sign.SIGNED, symmetric=True, power_of_two=True, rounding=Rounding.HALF_UP),
    weight=WeightType(per_channel=False, power_of_two=True, rounding=Rounding.HALF_AWAY),
    bias=Bias.INT8_POWER_OF_TWO,
    placement=Placement.OUTPUTS,
    kinds=kinds_of(
        weighted="Conv ConvTranspose Gemm MatMul",
        elementwise="Add Mul",
        pointwise="AveragePool GlobalAveragePool LeakyRelu Relu Clip Sigmoid HardSwish",
    ),
    float_reasons={**COMMON_FLOAT_REASONS, "Tanh": "runs on the board's ARM cores"},
    fused=frozenset({"Relu", "Clip"}),
    # The DPU's memory holds int8 only: scores leave it as int8 too.
    float_at_the_end=frozenset(),
    methods=("minmax", "mse", "percentile"),
    position_search=True,
    notes=(NOT_BIT_EXACT,),
)
