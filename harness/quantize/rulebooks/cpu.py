"""Rules of the `cpu` environment: ONNX Runtime's integer kernels on ARM and x86 (MLAS; library name arm-compute).

What decides speed is that the runtime recognizes the Q/DQ pattern and that operands are U8·S8: measured on
SqueezeNet, S8·S8 takes three times as long, and Q/DQ in other places falls back to float.
"""

from __future__ import annotations

from harness.quantize.rulebooks.rules import (
    COMMON_FLOAT_REASONS,
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
    environment="cpu",
    target_library="arm-compute",
    # Asymmetric: a ReLU's output uses all 256 levels, and zero point 0 lets the runtime drop the ReLU itself.
    activation=ActivationType(Sign.UNSIGNED, symmetric=False, power_of_two=False, rounding=Rounding.HALF_EVEN),
    # Per tensor, MobileNet v1 keeps 2 % agreement; per output channel 71 %.
    weight=WeightType(per_channel=True, power_of_two=False, rounding=Rounding.HALF_EVEN),
    bias=Bias.INT32,
    placement=Placement.OUTPUTS,
    kinds=kinds_of(
        weighted="Conv ConvTranspose Gemm MatMul",
        elementwise="Add Mul",
        pointwise="AveragePool GlobalAveragePool LeakyRelu Sigmoid HardSwish Relu Clip",
    ),
    float_reasons={
        **COMMON_FLOAT_REASONS,
        "Tanh": "no int8 kernel in the runtime",
        "HardSigmoid": "no int8 kernel in the runtime",
    },
    fused=frozenset({"Relu", "Clip"}),
    # Scores quantized to 256 levels tie; integer matrix products can return float at no cost, the rest is small.
    float_at_the_end=frozenset(
        {
            "Gemm",
            "MatMul",
            "Add",
            "Mul",
            "AveragePool",
            "GlobalAveragePool",
            "Sigmoid",
            "LeakyRelu",
            "HardSwish",
            "Concat",
            "Relu",
            "Clip",
        }
    ),
    methods=("minmax", "percentile", "mse", "entropy"),
)
