"""Rules of the `cpu` environment: ONNX Runtime's integer kernels on ARM and x86 (MLAS; library name arm-compute).

What decides speed is that the runtime recognizes the Q/DQ pattern and that operands are U8·S8: measured on
SqueezeNet, S8·S8 takes three times as long, and Q/DQ in other places falls back to float.
"""

from __future__ import annotations

from harness.quantize.rulebooks import refinements
from harness.quantize.rulebooks.rules import (
    COMMON_FLOAT_REASONS,
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

_NO_KERNEL = "no int8 kernel in the runtime: computed in float between int8 layers"

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
        pointwise="AveragePool GlobalAveragePool LeakyRelu Sigmoid Relu Clip",
    ),
    refinements={"Pad": refinements.pad, "Resize": refinements.resize_nearest},
    float_reasons={
        **COMMON_FLOAT_REASONS,
        **dict.fromkeys(("Tanh", "HardSigmoid", "HardSwish", "PRelu", "Abs", "Neg", "ThresholdedRelu"), _NO_KERNEL),
        **dict.fromkeys(("Sub", "Div", "Min", "Max", "Sum", "Mean", "Pow", "Sqrt", "Reciprocal"), _NO_KERNEL),
        **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2"), _NO_KERNEL),
        **dict.fromkeys(("Where", "CumSum", "Einsum"), _NO_KERNEL),
    },
    # What the runtime's own kernels take for a known range (QLinearSigmoid, TFLite's LOGISTIC): all 256 levels.
    # A softmax is not here: rows of many small values keep more of their resolution on the range that was seen.
    fixed_scales={
        **dict.fromkeys(("Sigmoid", "HardSigmoid"), FixedScale(1 / 256, 0, unsigned=True)),
        "Tanh": FixedScale(1 / 128, 128, unsigned=True),
    },
    # QLinearConcat looks up other scales in a table. One scale for all that a channel shuffle passes through, from
    # block to block, costs FastestDet 0.8 dB in its boxes and 1.4 dB in its classes.
    concat_rescales=True,
    unpacked={
        "ConvTranspose": "the runtime has no integer kernel for it: weights stay int8 in memory, products are float",
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
            "Concat",
            "Relu",
            "Clip",
        }
    ),
    fitted_samples=32,
    # Equalization fills the range of each channel. With a scale per output channel and 8 bits whose zero point is free
    # it gained 0.4 dB on MobileNet v1 and nothing on SqueezeNet, and doubled the time.
    recovery=("bias-correction", "rounding", "sequential-bias-correction"),
    methods=("minmax", "percentile", "mse", "entropy"),
)
