"""Rules of the `host` environment: target-independent int8 with power-of-two scales.

Ties round away from zero, values below half a step underflow to 0, larger ones saturate. The scale comes
from a tensor's largest magnitude (`minmax`) or from the 7- or 8-bit window of most-significant bits that
holds most values (`histogram`). No library is assumed, so nothing fuses beyond the activation function.
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
    Sign,
    WeightType,
    kinds_of,
)

RULES = RuleBook(
    environment="host",
    target_library="none",
    # Non-negative tensors take uint8: 0..9.457 gets a step of 2^-4, where int8 would take 2^-3.
    activation=ActivationType(Sign.BY_RANGE, symmetric=True, power_of_two=True, rounding=Rounding.HALF_AWAY),
    weight=WeightType(per_channel=False, power_of_two=True, rounding=Rounding.HALF_AWAY),
    bias=Bias.INT32,
    placement=Placement.OUTPUTS,
    kinds=kinds_of(
        weighted="Conv ConvTranspose Gemm MatMul",
        elementwise="Add Sub Mul",
        pointwise="AveragePool GlobalAveragePool ReduceMean "
        "Relu Clip LeakyRelu PRelu Sigmoid HardSigmoid HardSwish Tanh",
    ),
    refinements={"Pad": refinements.pad, "Resize": refinements.resize_linear},
    float_reasons=COMMON_FLOAT_REASONS,
    concat_rescales=True,
    fused=frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish"}),
    # Bounded by the operator: no data can saturate them.
    fixed_scales={
        **dict.fromkeys(("Sigmoid", "HardSigmoid"), FixedScale(2**-8, 0, unsigned=True)),
        "Tanh": FixedScale(2**-7, 0, unsigned=False),
    },
    # What only decodes results (joining branches, sigmoids, upsampling of scores) needs no integers any more.
    float_at_the_end=frozenset({"Concat", "Resize", "Sigmoid", "HardSigmoid", "Tanh"}),
    methods=("minmax", "histogram", "mse"),
    notes=(NOT_BIT_EXACT,),
)
