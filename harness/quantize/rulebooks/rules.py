"""The vocabulary of a rule book: what an environment quantizes, into which types, with which arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, get_args

from onnx import NodeProto

from harness.quantize.graph import Graph

#: Printed beside every figure of an environment whose boards do not compute like ONNX Runtime's Q/DQ.
NOT_BIT_EXACT = "QDQ arithmetic, not bit-exact"


#: Ways to win accuracy back, in the order in which they are tried (docs/quantization.md).
StepName = Literal[
    "bias-correction", "rounding", "sequential-bias-correction", "equalization", "absorption", "border-scaling"
]
STEPS: tuple[StepName, ...] = get_args(StepName)


class Rounding(StrEnum):
    """What happens to a value halfway between two integers."""

    HALF_EVEN = "half-even"  # ONNX Runtime, TensorRT
    HALF_AWAY = "half-away"  # MathWorks, std::round in the DPU's tools
    HALF_UP = "half-up"  # the DPU's activations: floor(x + 0.5)


class Sign(StrEnum):
    """Integer type of an activation."""

    SIGNED = "int8"
    UNSIGNED = "uint8"
    BY_RANGE = "by-range"  # uint8 where no value is negative, else int8


class Bias(StrEnum):
    """How the bias of a convolution or fully connected layer is stored."""

    FLOAT = "float32"
    INT32 = "int32"  # scale = input scale x weight scale: the accumulator's own
    INT8_POWER_OF_TWO = "int8"  # a fix position of its own


class Placement(StrEnum):
    """Where Q/DQ pairs go."""

    OUTPUTS = "outputs"  # each tensor is quantized once, where it is made; every reader sees the quantized one
    INPUTS = "inputs"  # only in front of the layers that compute in int8 (TensorRT's explicit quantization)


class Kind(StrEnum):
    """How an operator is treated."""

    WEIGHTED = "weighted"  # has weights: convolution, fully connected, matrix product
    ELEMENTWISE = "elementwise"  # several operands on scales of their own
    CONCAT = "concat"  # several operands that may share the output's scale
    POINTWISE = "pointwise"  # one operand, values change: pooling by average, activation functions
    MOVES = "moves"  # values are moved or picked, never changed: output keeps the input's scale


#: Decides where the operator alone does not: a kind, or the reason why this node stays float.
Refinement = Callable[[Graph, NodeProto], Kind | str]


@dataclass(frozen=True, slots=True)
class ActivationType:
    """Type of activations: always per tensor.

    Args:
        sign: integer type.
        symmetric: zero point is 0 (int8, or uint8 of a non-negative tensor).
        power_of_two: the scale is 2^k.
        rounding: of the environment itself; Q/DQ files always round half to even.
    """

    sign: Sign
    symmetric: bool
    power_of_two: bool
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class WeightType:
    """Type of weights: int8, symmetric, rounded by us.

    Args:
        per_channel: one scale per output channel, else one per tensor.
        power_of_two: scales are 2^k.
        rounding: used when the weights are written.
    """

    per_channel: bool
    power_of_two: bool
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class FixedScale:
    """Scale of an output whose range is known from the operator itself, so that no data can saturate it.

    Args:
        scale: real value of one step.
        zero_point: integer that stands for 0.
        unsigned: uint8, else int8.
    """

    scale: float
    zero_point: int
    unsigned: bool


@dataclass(frozen=True, slots=True)
class ShiftLimits:
    """How far a board with power-of-two scales shifts its sums, in bits (docs/emulation.md, 'The DPU's shifts').

    Args:
        cut: at most so many are cut off a sum or product; none is added.
        bias: at most so many does a bias move up, to meet the products.
        accumulator: width that bounds how far it moves down: shift_bias ≥ -(accumulator - 8 - shift_cut).
        read: at most so many does an operand of a sum move up, to meet the finer one.
        write: at most so many does that sum move, up or down.
    """

    cut: int
    bias: int
    accumulator: int
    read: int
    write: int


@dataclass(frozen=True)
class RuleBook:
    """Everything that distinguishes one environment from another.

    Args:
        environment: gpu, cpu, fpga or host.
        target_library: what executes the int8 layers, as `details` reports it.
        activation: type of activations.
        weight: type of weights.
        bias: type of biases.
        placement: where Q/DQ pairs go.
        kinds: operator → how it is treated; what is not listed stays float.
        float_reasons: operator → why it stays float, in a reader's words.
        fused: activation functions that the layer before computes on its way out.
        float_at_the_end: operators left in float when nothing quantized reads their result.
        refinements: operator → what decides by the node's attributes whether and how it is quantized.
        fixed_scales: operator → scale of its output, where the operator bounds it.
        concat_rescales: a concatenation can take operands of other scales than its own: values that only pass through
            from an earlier layer keep the scale they have.
        unpacked: operator → remark on int8 layers that the runtime computes in float after unpacking their integers.
        methods: what `auto` tries, cheapest first.
        position_search: power-of-two scales follow the DPU's published position search.
        fitted_samples: at most so many samples do layers get fitted to while accuracy is recovered. Arithmetic that
            loses more is fitted on more: on MobileNet v1, 64 instead of 16 gain 0.5 dB of 7 or 8 bits with a fixed
            zero point, and next to nothing of 8 bits with a free one.
        shifts: how far apart the positions of a layer's operands may be; None: any.
        recovery: steps that recovery tries where the caller names none.
        notes: lines that accompany every network of this environment.
    """

    environment: str
    target_library: str
    activation: ActivationType
    weight: WeightType
    bias: Bias
    placement: Placement
    kinds: Mapping[str, Kind]
    float_reasons: Mapping[str, str]
    fused: frozenset[str]
    float_at_the_end: frozenset[str]
    methods: tuple[str, ...]
    position_search: bool = False
    shifts: ShiftLimits | None = None
    fitted_samples: int = 64
    recovery: tuple[StepName, ...] = STEPS
    notes: tuple[str, ...] = field(default=())
    refinements: Mapping[str, Refinement] = field(default_factory=dict)
    fixed_scales: Mapping[str, FixedScale] = field(default_factory=dict)
    unpacked: Mapping[str, str] = field(default_factory=dict)
    concat_rescales: bool = False

    def float_reason(self, op_type: str) -> str:
        """Why an operator that has no kind stays float."""
        return self.float_reasons.get(op_type, f"{self.environment} has no int8 rule for {op_type}: computed in float")


#: Operators that only move values: the int8 output is the int8 input, rearranged.
MOVERS = frozenset(
    {
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)

_EXPONENTIALS = "exponentials need a range that 8 bits do not have; boards compute it in float"
_STATISTICS = "mean and variance are computed in float"
_STATE = "recurrent layers stay float: their state would accumulate the rounding error"
_CURVE = "a curve without an int8 kernel on any board: computed in float between int8 layers"

#: Reasons that hold in every environment.
COMMON_FLOAT_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Exp", "Log", "Softplus", "ReduceLogSumExp"), _EXPONENTIALS),
    **dict.fromkeys(("Elu", "Selu", "Celu", "Gelu", "Erf", "Mish", "Softsign", "Swish"), _CURVE),
    **dict.fromkeys(
        (
            "LayerNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "MeanVarianceNormalization",
            "LpNormalization",
            "LRN",
        ),
        _STATISTICS,
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _STATE),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), "sums powers of its values, which 8 bits do not hold"),
    **dict.fromkeys(
        ("NonMaxSuppression", "TopK", "ArgMax", "ArgMin"),
        "picks by comparing scores: decoding that follows the int8 layers, in float",
    ),
    "BatchNormalization": "follows no convolution that it could be folded into",
    "If": "the bodies of a branch stay float",
    "Loop": "the body of a loop stays float",
    "Scan": "the body of a scan stays float",
}


def kinds_of(weighted: str, elementwise: str, pointwise: str) -> dict[str, Kind]:
    """Operator → kind from space-separated operator names; movers and Concat are the same everywhere."""
    table = dict.fromkeys(MOVERS, Kind.MOVES) | {"Concat": Kind.CONCAT}
    table |= dict.fromkeys(weighted.split(), Kind.WEIGHTED)
    table |= dict.fromkeys(elementwise.split(), Kind.ELEMENTWISE)
    table |= dict.fromkeys(pointwise.split(), Kind.POINTWISE)
    return table
