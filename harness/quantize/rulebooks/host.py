"""Rules of the `host` environment: target-independent int8 with power-of-two scales.

Ties round away from zero, values below half a step underflow to 0, larger ones saturate. The scale comes
from a tensor's largest magnitude (`minmax`) or from the 7- or 8-bit window of most-significant bits that
holds most values (`histogram`). No library is assumed, so nothing fuses beyond the activation function.
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
    environment="host",
    target_library="none",
    # Non-negative tensors take uint8: 0..9.457 gets a step of 2^-4, where int8 would take 2^-3.
    activation=ActivationType(Sign.BY_RANGE, symmetric=True, power_of_two=True, rounding=Rounding.HALF_AWAY),
    weight=WeightType(per_channel=False, power_of_two=True, rounding=Rounding.HALF_AWAY),
    bias=Bias.INT32,
    placement=Placement.OUTPUTS,
    kinds=kinds_of(
        weighted="Conv ConvTranspose Gemm MatMul",
        elementwise="Add Mul",
        pointwise="AveragePool GlobalAveragePool LeakyRelu Relu Clip Sigmoid HardSwish",
    ),
    float_reasons=COMMON_FLOAT_REASONS,
    fused=frozenset({"Relu", "Clip"}),
    float_at_the_end=frozenset(),
    methods=("minmax", "histogram", "mse"),
    notes=(NOT_BIT_EXACT,),
)
