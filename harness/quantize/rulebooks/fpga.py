"""Rules of the `fpga` environment: AMD/Xilinx DPUCZDX8G, semantics as published (Vitis-AI at b2b227921).

Everything is int8 per tensor with power-of-two scales ('fix positions'), biases included. The position is
floor(log2(1 / max(min/-128.5, max/127.5))), or up to four finer when that lowers the squared error.
The Q/DQ file rounds activations half to even where the DPU rounds half up: hence its note.
"""

from __future__ import annotations

from harness.quantize.rulebooks import refinements
from harness.quantize.rulebooks.rules import (
    COMMON_FLOAT_REASONS,
    NOT_BIT_EXACT,
    ActivationType,
    Bias,
    FixedScale,
    Placement,
    Rounding,
    RuleBook,
    ShiftLimits,
    Sign,
    WeightType,
    kinds_of,
)

_ARM = "runs on the board's ARM cores, in float"

RULES = RuleBook(
    environment="fpga",
    target_library="none",
    activation=ActivationType(Sign.SIGNED, symmetric=True, power_of_two=True, rounding=Rounding.HALF_UP),
    weight=WeightType(per_channel=False, power_of_two=True, rounding=Rounding.HALF_AWAY),
    bias=Bias.INT8_POWER_OF_TWO,
    placement=Placement.OUTPUTS,
    kinds=kinds_of(
        weighted="Conv ConvTranspose Gemm MatMul",
        elementwise="Add Sub Mul",
        pointwise="AveragePool GlobalAveragePool Relu Clip LeakyRelu PRelu Sigmoid HardSigmoid HardSwish",
    ),
    refinements={
        "Pad": refinements.pad,
        "Resize": refinements.resize_linear,
        "LeakyRelu": refinements.dpu_leaky_relu,
        "PRelu": refinements.dpu_prelu,
        "HardSigmoid": refinements.dpu_hard_sigmoid,
    },
    float_reasons={
        **COMMON_FLOAT_REASONS,
        **dict.fromkeys(("Tanh", "Div", "Pow", "Sqrt", "Min", "Max", "Abs", "Where"), _ARM),
        **dict.fromkeys(("ReduceMean", "ReduceSum"), f"the DPU averages over height and width only: {_ARM}"),
    },
    # The DPU's non-linear unit sits behind the accumulator: one rounding for both (PG338, 'Nonlinear'). AMD's tools
    # quantize what enters HardSigmoid and HardSwish, so that these two stand on 8-bit inputs of their own.
    fused=frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"}),
    # Bounded by the operator: 2^-7 holds -1 … 1.
    fixed_scales=dict.fromkeys(("Sigmoid", "HardSigmoid", "Tanh"), FixedScale(2**-7, 0, unsigned=False)),
    # Operands of a concatenation share one position, as AMD's quantizer aligns them: concat_rescales stays False.
    # The DPU's memory holds int8 only: what the last layer makes leaves it as int8. Decoding runs on the ARM cores.
    float_at_the_end=frozenset({"Concat", "Resize", "Sigmoid", "HardSigmoid", "LeakyRelu"}),
    methods=("minmax", "mse", "percentile"),
    position_search=True,
    # What AMD's compiler accepts; anything beyond would run on the ARM cores.
    shifts=ShiftLimits(cut=16, bias=16, accumulator=24, read=15, write=15),
    notes=(NOT_BIT_EXACT,),
)
