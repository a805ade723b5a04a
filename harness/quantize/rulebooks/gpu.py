"""Rules of the `gpu` environment: TensorRT's explicit quantization (library name cudnn).

Q/DQ stand only in front of the layers that have int8 kernels; TensorRT moves them across pooling and
concatenation itself, and fuses convolution, bias, residual sum and ReLU into one kernel when nothing
stands between them (NVIDIA TensorRT developer guide, 'Working with quantized types', Q/DQ placement).
"""

from __future__ import annotations

from harness.quantize.rulebooks.rules import (
    COMMON_FLOAT_REASONS,
    MOVERS,
    NOT_BIT_EXACT,
    ActivationType,
    Bias,
    Kind,
    Placement,
    Rounding,
    RuleBook,
    Sign,
    WeightType,
)

_POOL = "averages in float: TensorRT fuses no Q/DQ into it without losing precision"
_MOVES = "moves values only: TensorRT carries the type of its neighbours through it"

RULES = RuleBook(
    environment="gpu",
    target_library="cudnn",
    # TensorRT takes zero point 0 only, and int8 only: after a ReLU half of the levels are unused.
    activation=ActivationType(Sign.SIGNED, symmetric=True, power_of_two=False, rounding=Rounding.HALF_EVEN),
    weight=WeightType(per_channel=True, power_of_two=False, rounding=Rounding.HALF_EVEN),
    # The kernels add the bias in single precision after the integer sum.
    bias=Bias.FLOAT,
    placement=Placement.INPUTS,
    # Add: only a residual sum, whose shortcut is quantized so that it fuses into the convolution before it.
    kinds={
        "Conv": Kind.WEIGHTED,
        "ConvTranspose": Kind.WEIGHTED,
        "Gemm": Kind.WEIGHTED,
        "MatMul": Kind.WEIGHTED,
        "Add": Kind.ELEMENTWISE,
        "MaxPool": Kind.MOVES,
    },
    float_reasons={
        **COMMON_FLOAT_REASONS,
        "AveragePool": _POOL,
        "GlobalAveragePool": _POOL,
        **dict.fromkeys(MOVERS - {"MaxPool"} | {"Concat"}, _MOVES),
        "Relu": "follows no int8 layer that it could fuse into",
        "Clip": "follows no int8 layer that it could fuse into",
        **dict.fromkeys(
            ("Mul", "Sub", "Div", "Min", "Max", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish"),
            "pointwise: fused into its neighbours in float",
        ),
        "ReduceMean": _POOL,
    },
    fused=frozenset({"Relu", "Clip"}),
    float_at_the_end=frozenset(),
    methods=("minmax", "percentile", "mse", "entropy"),
    notes=(NOT_BIT_EXACT,),
)
