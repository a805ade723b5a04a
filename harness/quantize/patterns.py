"""Functions that exporters write as several operators, and that are float as a whole: GELU, normalization, softmax.

Seen one by one, their sums and products have int8 rules; inside such a function an int8 value would be an
intermediate of an exponential, an error function or a variance, whose range 8 bits do not hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from harness.quantize.graph import Graph

GELU = "part of a GELU written out in single operators: computed in float between int8 layers"
NORMALIZATION = "part of a normalization written out in single operators: mean and variance are computed in float"
SOFTMAX = "part of a softmax written out in single operators: exponentials are computed in float"
INTO_SOFTMAX = "scales or masks what a softmax reads: kept in float with it, as masks hold values like -10000"

#: Operators that stand between a matrix product and the softmax over it.
_BEFORE_SOFTMAX = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Clip"})
#: A mean over the image has become a pool when the rule books look.
_MEANS = ("ReduceMean", "GlobalAveragePool")
#: Steps that a written-out function may have between its characteristic operator and its end.
_STEPS = 4


def float_blocks(graph: Graph) -> dict[str, str]:
    """Name → reason of each node that belongs to a function which stays float."""
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if node.domain not in {"", "ai.onnx"}:
            continue
        if node.op_type in {"Erf", "Tanh"}:
            reasons |= dict.fromkeys(_gelu(graph, node), GELU)
        elif node.op_type == "Sqrt":
            reasons |= dict.fromkeys(_normalization(graph, node), NORMALIZATION)
        elif node.op_type == "Exp":
            reasons |= dict.fromkeys(_softmax(graph, node), SOFTMAX)
        elif node.op_type in {"Softmax", "LogSoftmax"}:
            reasons |= dict.fromkeys(_into_softmax(graph, node), INTO_SOFTMAX)
    return reasons


def _maker(graph: Graph, name: str, *op_types: str) -> NodeProto | None:
    node = graph.producer.get(name)
    return node if node is not None and node.op_type in op_types else None


def _reader(graph: Graph, name: str, *op_types: str) -> NodeProto | None:
    use = graph.sole_use(name)
    return use.node if use is not None and use.node.op_type in op_types else None


def _constant_operand(graph: Graph, node: NodeProto) -> bool:
    return any(graph.is_constant(name) for name in node.input)


def _gelu(graph: Graph, curve: NodeProto) -> list[str]:
    """x·½·(1 + erf(x/√2)), or with tanh(√(2/π)·(x + 0.044715·x³)): ½ anywhere among the products."""
    plus_one = _reader(graph, curve.output[0], "Add")
    if plus_one is None or not _constant_operand(graph, plus_one):
        return []
    members = [curve.name, plus_one.name]
    source = None
    name = plus_one.output[0]
    for _ in range(_STEPS):
        product = _reader(graph, name, "Mul")
        if product is None:
            break
        other = next((operand for operand in product.input if operand != name), name)
        members.append(product.name)
        name = product.output[0]
        if graph.is_constant(other):
            continue
        if source is not None:  # a product of GELUs: not part of this one
            members.pop()
            break
        source = other
        half = _maker(graph, other, "Mul", "Div")
        if half is not None and _constant_operand(graph, half) and graph.sole_use(other) is not None:
            members.append(half.name)
            source = next((operand for operand in half.input if not graph.is_constant(operand)), other)
    if source is None:
        return []
    inner = list(_between(graph, curve.input[0], source))
    return [*members, *inner]


def _between(graph: Graph, name: str, source: str, depth: int = 0) -> Iterator[str]:
    """Names of the arithmetic that computes `name` from `source`."""
    if name == source or depth > 2 * _STEPS:
        return
    node = _maker(graph, name, "Mul", "Div", "Add", "Pow")
    if node is None:
        return
    yield node.name
    for operand in node.input:
        if not graph.is_constant(operand):
            yield from _between(graph, operand, source, depth + 1)


def _normalization(graph: Graph, root: NodeProto) -> list[str]:
    """(x - mean)/√(variance + ε), scaled and shifted; without the mean it is a root-mean-square normalization."""
    plus = _maker(graph, root.input[0], "Add")
    if plus is None or not _constant_operand(graph, plus):
        return []
    variance = next((n for i in plus.input if (n := _maker(graph, i, *_MEANS)) is not None), None)
    square = None if variance is None else _maker(graph, variance.input[0], "Pow", "Mul")
    if variance is None or square is None:
        return []
    members = [root.name, plus.name, variance.name, square.name]
    centred = _maker(graph, square.input[0], "Sub")
    readers = [use.node for use in graph.uses[root.output[0]]]
    if centred is not None:
        mean = next((n for i in centred.input if (n := _maker(graph, i, *_MEANS)) is not None), None)
        if mean is not None:
            members += [mean.name, centred.name]
            # PyTorch's exporter used to write the difference twice.
            members += [use.node.name for use in graph.uses[mean.output[0]] if use.node.op_type == "Sub"]
    for reader in readers:
        if reader.op_type not in {"Div", "Reciprocal", "Mul"}:
            continue
        members.append(reader.name)
        last = reader
        if reader.op_type == "Reciprocal":
            product = _reader(graph, reader.output[0], "Mul")
            if product is not None:
                members.append(product.name)
                last = product
        for kind in ("Mul", "Add"):
            following = _reader(graph, last.output[0], kind)
            if following is None or not _constant_operand(graph, following):
                break
            members.append(following.name)
            last = following
    return list(dict.fromkeys(members))


def _softmax(graph: Graph, power: NodeProto) -> list[str]:
    """exp(x - max x) / Σ exp(x - max x)."""
    uses = [use.node for use in graph.uses[power.output[0]]]
    total = next((node for node in uses if node.op_type == "ReduceSum"), None)
    quotient = next((node for node in uses if node.op_type == "Div"), None)
    if total is None or quotient is None or total.output[0] not in quotient.input:
        return []
    members = [power.name, total.name, quotient.name]
    shifted = _maker(graph, power.input[0], "Sub")
    if shifted is not None:
        members.append(shifted.name)
        largest = _maker(graph, shifted.input[1], "ReduceMax")
        if largest is not None:
            members.append(largest.name)
    return members


def _into_softmax(graph: Graph, softmax: NodeProto) -> list[str]:
    """Scale and mask of attention scores."""
    members = []
    name = softmax.input[0]
    for _ in range(_STEPS):
        if graph.sole_use(name) is None:
            break
        node = _maker(graph, name, *_BEFORE_SOFTMAX)
        # A bias belongs to the matrix product before it: only what follows a product of two activations is a mask.
        if node is None or not _after_attention(graph, node):
            break
        members.append(node.name)
        name = next((i for i in node.input if not graph.is_constant(i) and _maker(graph, i, *_PATH) is not None), "")
        if not name:
            break
    return members


_PATH = (*_BEFORE_SOFTMAX, "MatMul")


def _after_attention(graph: Graph, node: NodeProto, depth: int = 0) -> bool:
    """Whether a node's operands come, through such nodes only, from a matrix product of two activations."""
    for name in node.input:
        maker = _maker(graph, name, *_PATH)
        if maker is None or depth > _STEPS:
            continue
        if maker.op_type == "MatMul":
            if not any(graph.is_constant(operand) for operand in maker.input):
                return True
        elif _after_attention(graph, maker, depth + 1):
            return True
    return False
