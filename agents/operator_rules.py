"""Which operators a network may call, and how large a tensor their constant inputs ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from agents.tensor_check import bounded_size, clean, count_elements
from agents.wire import NetworkRefused

if TYPE_CHECKING:
    from collections.abc import Callable

#: Domains whose operators ONNX itself defines: data in, data out, no file, no code, no network.
STANDARD_DOMAINS = frozenset({"", "ai.onnx.ml"})
#: A body that the data may repeat without end: only by the agent's policy.
LOOP_OPERATORS = frozenset({"Loop", "Scan", "SequenceMap"})
#: What a function of the model may not call itself: a runtime could take the built-in operator for it, or the reverse.
#: The last four are domains in which TensorRT's and Vitis AI's providers register plug-ins and kernels of their own.
RESERVED_PREFIXES = (
    *("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten"),
    *("trt.plugins", "com.xilinx", "com.vitis", "com.amd"),
)
#: Operators of `com.microsoft` that quantized and fused networks use (ContribOperators.md of ONNX Runtime). Absent on
#: purpose: those that load code or files (EPContext, PyOp, ATen, Snpe, Tokenizer), those that loop (BeamSearch,
#: GreedySearch, Sampling, WhisperBeamSearch), training helpers, and operators of one vendor's kernels.
CONTRIB_OPERATORS = frozenset(
    {
        # quantized
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MulInteger",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
        "ReduceSumInteger",
        # fused
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "FusedMatMulActivation",
        "Gelu",
        "GemmFastGelu",
        "GroupNorm",
        "GroupQueryAttention",
        "MultiHeadAttention",
        "NhwcConv",
        "NhwcFusedConv",
        "NhwcMaxPool",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "TransposeMatMul",
        # older names of standard operators
        "ConvTransposeWithDynamicPads",
        "CropAndResize",
        "ExpandDims",
        "GatherND",
        "GridSample",
        "Inverse",
        "MaxpoolWithMask",
        "Pad",
        "Trilu",
        "Unique",
    }
)

#: domain, name and overload of a function
FunctionId = tuple[str, str, str]


@dataclass
class Body:
    """The main graph or a function: how many nodes it has and which functions it calls, how often."""

    nodes: int = 0
    calls: dict[FunctionId, int] = field(default_factory=dict)


def check_operator(function: FunctionId, where: str, *, allow_loops: bool) -> bool:
    """Judge one node by its operator; a node of another domain must turn out to be a function of the model.

    Args:
        function: domain ("ai.onnx" written as ""), operator and overload.
        where: what to call the node in a refusal.
        allow_loops: the agent's policy.

    Returns:
        Whether the operator is a loop.

    Raises:
        NetworkRefused: the operator is not allowed.
    """
    domain, operator, _ = function
    if domain == "com.microsoft" and operator not in CONTRIB_OPERATORS:
        raise NetworkRefused(
            f"{where} is not among the com.microsoft operators this agent runs; export the network without it"
        )
    looping = domain == "" and operator in LOOP_OPERATORS
    if looping and not allow_loops:
        raise NetworkRefused(
            f"{where} repeats a body, which this agent's policy refuses; "
            "unroll it, or start the agent with its loops option"
        )
    return looping


def is_function_call(domain: str) -> bool:
    """Whether an operator of this domain can only be a function that the model defines."""
    return domain not in STANDARD_DOMAINS and domain != "com.microsoft"


def check_function_name(function: FunctionId) -> None:
    """Refuse a function named like a runtime's own operator.

    Raises:
        NetworkRefused: its domain is reserved.
    """
    domain, name, _ = function
    if domain == "" or domain.startswith(RESERVED_PREFIXES):
        raise NetworkRefused(
            f"function {clean(name)} is defined in the reserved domain {clean(domain)}; give it a domain of its own"
        )


def check_calls(main: Body, functions: dict[FunctionId, Body], max_nodes: int) -> None:
    """Follow the calls: each names a function of the model, none recurses, and inlining them all stays bounded.

    Raises:
        NetworkRefused: otherwise.
    """
    for body in (main, *functions.values()):
        for domain, name, overload in body.calls:
            if (domain, name, overload) not in functions:
                raise NetworkRefused(
                    f"operator {clean(name)} is of the domain {clean(domain)}, which this agent does not run; "
                    "use operators of ONNX or define it as a function of the model"
                )
    inlined: dict[FunctionId, int] = {}
    open_calls: set[FunctionId] = set()
    stack = list(functions)
    while stack:  # depth first without recursion: a chain of calls may be as long as the file
        current = stack[-1]
        waiting = [called for called in functions[current].calls if called not in inlined]
        if current in inlined or not waiting:
            stack.pop()
            open_calls.discard(current)
            inlined[current] = _inlined_nodes(functions[current], inlined)
            continue
        open_calls.add(current)
        for called in waiting:
            if called in open_calls:
                raise NetworkRefused(f"function {clean(called[1])} calls itself; unroll it")
        stack.extend(waiting)
    if (total := _inlined_nodes(main, inlined)) > max_nodes:
        raise NetworkRefused(
            f"the network has {total} nodes once its functions are inlined (the agent's limit is {max_nodes}); "
            "simplify it"
        )


def _inlined_nodes(body: Body, inlined: dict[FunctionId, int]) -> int:
    return body.nodes + sum(times * inlined[called] for called, times in body.calls.items())


@dataclass(frozen=True)
class Sizing:
    """A node whose constant inputs say how large its output will be."""

    operator: str
    inputs: tuple[str, ...]
    data_type: int
    where: str


@dataclass
class Scope:
    """The names one graph sees: short integer constants, and nodes that are sized by them."""

    parent: Scope | None = None
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sizings: list[Sizing] = field(default_factory=list)

    def constant(self, name: str) -> tuple[int, ...] | None:
        """The value of a constant seen from this graph, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants:
                return scope.constants[name]
            scope = scope.parent
        return None


def _product(values: tuple[int, ...]) -> int:
    return prod(max(value, 1) for value in values)


def _padded(values: tuple[int, ...]) -> int:
    half = len(values) // 2
    return prod(max(1, begin + end) for begin, end in zip(values[:half], values[half:], strict=False))


#: Operator: the input that sizes the output, and the least number of elements it then has.
_SIZED_BY: dict[str, tuple[int, Callable[[tuple[int, ...]], int]]] = {
    "ConstantOfShape": (0, lambda dims: count_elements(dims, "the shape")),
    "Expand": (1, _product),
    "MaxUnpool": (2, _product),
    "OneHot": (1, _product),
    "Pad": (1, _padded),
    "Resize": (3, _product),
    "Tile": (1, _product),
}
SIZED_OPERATORS = frozenset({*_SIZED_BY, "Range"})


def check_sizes(scope: Scope, max_bytes: int) -> None:
    """Refuse a node whose constant inputs ask for a tensor beyond the limit.

    What is computed at run time (a shape out of data) is bounded by the limits of the process instead.

    Args:
        scope: one graph, with all its constants.
        max_bytes: limit of one tensor.

    Raises:
        NetworkRefused: the output is too large, or its shape absurd.
    """
    for sizing in scope.sizings:
        if sizing.operator == "Range":
            found = [scope.constant(name) for name in sizing.inputs[:3]]
            bounds = [value[0] for value in found if value]
            if len(bounds) == 3 and bounds[2]:
                bounded_size(max(0, (bounds[1] - bounds[0]) // bounds[2]), sizing.data_type, max_bytes, sizing.where)
            continue
        index, elements = _SIZED_BY[sizing.operator]
        values = scope.constant(sizing.inputs[index]) if index < len(sizing.inputs) else None
        if values is None:
            continue
        if sizing.operator == "ConstantOfShape":
            count_elements(values, f"the shape given to {sizing.where}")
        bounded_size(elements(values), sizing.data_type, max_bytes, f"the output of {sizing.where}")
