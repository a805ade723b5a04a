"""Folding factors and offsets per channel (batch normalization, Mul, Add, …) into the weights beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from harness.quantize.graph import Graph, Use, attribute, drop_unused_initializers, set_initializer

Vector = NDArray[np.float64]

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


@dataclass(frozen=True)
class _Affine:
    """y = factor · x + offset, each a vector of channels or a single value, shape (C,) or (1,)."""

    factor: Vector
    offset: Vector

    def usable(self) -> bool:
        """Whether weights multiplied by it can still be written as float32."""
        limit = np.finfo(np.float32).max
        return all(bool(np.isfinite(v).all() and (np.abs(v) < limit).all()) for v in (self.factor, self.offset))


def fold_affine(model: ModelProto) -> dict[str, str]:
    """Fold batch normalization and constant factors and offsets per channel into the layer with weights beside them.

    After a convolution, Gemm or MatMul always; before a convolution only where that is exact: a padded border is
    zero after the offset, not before it.

    Returns:
        name of each folded layer → name of the layer that computes it now.
    """
    folded: dict[str, str] = {}
    while True:
        graph = Graph(model)
        done = next((pair for node in graph.nodes if (pair := _fold_at(graph, node)) is not None), None)
        if done is None:
            break
        if done[0] != done[1]:
            folded[done[0]] = done[1]
    drop_unused_initializers(model)
    return folded


def _fold_at(graph: Graph, node: NodeProto) -> tuple[str, str] | None:
    """(folded layer, layer that computes it now) when something beside this layer could be folded.

    The two are the same where a layer after a MatMul gave its factor away and stays as the Add of its offset.
    """
    if node.op_type not in _WEIGHTED or node.domain or not _constant_parameters(graph, node):
        return None
    return _after(graph, node) or _before(graph, node)


def _constant_parameters(graph: Graph, node: NodeProto) -> bool:
    names = [name for name in node.input[1:] if name]
    if graph.is_constant(node.input[0]) or not all(_float_constant(graph, name) for name in names):
        return False
    if node.op_type == "MatMul":
        return len(_dims(graph, names[0])) == 2
    if node.op_type == "Gemm" and len(names) > 1:
        # one bias per output channel, or one for all: nothing per row
        bias = _dims(graph, names[1])
        size = int(np.prod(bias))
        return size in {1, _out_channels(graph, node)} and bias[-1:] in {(), (size,)}
    return bool(names)


def _float_constant(graph: Graph, name: str) -> bool:
    return graph.is_constant(name) and graph.element_type(name) == TensorProto.FLOAT


def _dims(graph: Graph, name: str) -> tuple[int, ...]:
    """Shape of a constant, its values left alone."""
    return tuple(graph.initializers[name].dims)


def _out_channels(graph: Graph, node: NodeProto) -> int:
    weight = _dims(graph, node.input[1])
    if node.op_type == "ConvTranspose":
        return weight[1] * int(attribute(node, "group", 1))
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return weight[0]
    return weight[1]


def _rank(graph: Graph, node: NodeProto) -> int | None:
    """Rank of a weighted layer's data, result included; None when it is not known."""
    if node.op_type in _CONVOLUTIONS:
        return len(_dims(graph, node.input[1]))
    if node.op_type == "Gemm":
        return 2
    shape = graph.shape(node.input[0]) or graph.shape(node.output[0])
    return None if shape is None else len(shape)


def _after(graph: Graph, node: NodeProto) -> tuple[str, str] | None:
    use = graph.sole_use(node.output[0])
    if use is None:
        return None
    channels, rank = _out_channels(graph, node), _rank(graph, node)
    axis = 1 if node.op_type in _CONVOLUTIONS else -1
    affine = _affine(graph, use, channels, rank, axis)
    if affine is None or not affine.usable():
        return None
    if node.op_type == "MatMul":
        return _after_matmul(graph, node, use, affine, channels, rank)
    _scale_outputs(graph, node, affine, channels)
    _take_over(graph, node, use.node)
    return use.node.name, node.name


def _after_matmul(
    graph: Graph, node: NodeProto, use: Use, affine: _Affine, channels: int, rank: int | None
) -> tuple[str, str] | None:
    """A MatMul takes factors; offsets live in the Add after it."""
    if not affine.offset.any():
        _scale_outputs(graph, node, affine, channels)
        _take_over(graph, node, use.node)
        return use.node.name, node.name
    add = use.node
    if add.op_type != "Add":
        # The factor goes into the weights; what is left of the layer is its offset.
        _scale_outputs(graph, node, _Affine(affine.factor, np.zeros(1)), channels)
        offset = np.broadcast_to(affine.offset, (channels,))
        name = graph.free_name(f"{add.name}.bias")
        set_initializer(graph.model, name, offset.astype(np.float32))
        add.op_type = "Add"
        del add.attribute[:]
        del add.input[:]
        add.input.extend([node.output[0], name])
        return add.name, add.name
    following = graph.sole_use(add.output[0])
    if following is None:
        return None
    second = _affine(graph, following, channels, rank, -1)
    if second is None or not second.usable():
        return None
    _scale_outputs(graph, node, _Affine(second.factor, np.zeros(1)), channels)
    total = np.broadcast_to(affine.offset * second.factor + second.offset, (channels,))
    slot = 1 - use.slot
    name = _own_name(graph, add.input[slot], f"{add.name}.bias")
    set_initializer(graph.model, name, total.astype(np.float32))
    add.input[slot] = name
    _take_over(graph, add, following.node)
    return following.node.name, add.name


def _before(graph: Graph, node: NodeProto) -> tuple[str, str] | None:
    earlier = graph.producer.get(node.input[0])
    if earlier is None or not earlier.output or graph.sole_use(node.input[0]) is None:
        return None
    if node.op_type != "Conv":
        return None  # Gemm and MatMul: what stands before them is an activation or a normalization of its own
    source = next((slot for slot, name in enumerate(earlier.input) if name and not graph.is_constant(name)), None)
    if source is None or [name for name in earlier.output if name] != [node.input[0]]:
        return None
    groups = int(attribute(node, "group", 1))
    channels, rank = _dims(graph, node.input[1])[1] * groups, len(_dims(graph, node.input[1]))
    # An operand may also widen what it meets: then the convolution cannot read the narrow tensor itself.
    shape = graph.shape(earlier.input[source])
    if earlier.op_type != "BatchNormalization" and (shape is None or len(shape) != rank or shape[1] != channels):
        return None
    affine = _affine(graph, Use(earlier, source), channels, rank, 1)
    if affine is None or not affine.usable() or (affine.offset.any() and _pads(node)):
        return None
    weight = graph.array(node.input[1]).astype(np.float64)
    factor, offset = (np.broadcast_to(vector, (channels,)) for vector in (affine.factor, affine.offset))
    # The inputs of output channel o are those of its group.
    group_of = np.arange(weight.shape[0]) // (weight.shape[0] // groups)
    per_input = (weight.shape[0], weight.shape[1], *(1,) * (rank - 2))
    shift = (weight * offset.reshape(groups, -1)[group_of].reshape(per_input)).sum(axis=tuple(range(1, rank)))
    scaled = weight * factor.reshape(groups, -1)[group_of].reshape(per_input)
    _write(graph, node, 1, "weight", scaled)
    if affine.offset.any():
        bias = graph.array(node.input[2]).astype(np.float64) if len(node.input) > 2 and node.input[2] else 0.0
        _write(graph, node, 2, "bias", bias + shift)
    node.input[0] = earlier.input[source]
    graph.model.graph.node.remove(earlier)
    return earlier.name, node.name


def _pads(conv: NodeProto) -> bool:
    return any(attribute(conv, "pads", [])) or attribute(conv, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}


def _affine(graph: Graph, use: Use, channels: int, rank: int | None, axis: int) -> _Affine | None:
    """What a layer computes per channel of the tensor it reads, None when it is not of that form.

    Args:
        graph: the network.
        use: the layer, and which of its inputs is the tensor.
        channels: size of the channel axis.
        rank: of the tensor, None when it is not known.
        axis: the channel axis: 1 for a convolution, -1 for a matrix product.
    """
    node = use.node
    if node.domain:
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(graph, use, channels) if axis == 1 or rank == 2 else None
    if node.op_type not in {"Add", "Sub", "Mul", "Div"} or len(node.input) != 2:
        return None
    other = node.input[1 - use.slot]
    if not _float_constant(graph, other) or not _per_channel(_dims(graph, other), channels, rank, axis):
        return None
    value = graph.array(other).astype(np.float64).reshape(-1)
    one, nothing = np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return _Affine(one, value)
    if node.op_type == "Mul":
        return _Affine(value, nothing)
    if node.op_type == "Sub":
        return _Affine(one, -value) if use.slot == 0 else _Affine(-one, value)
    return _Affine(1 / value, nothing) if use.slot == 0 and value.all() else None


def _batch_norm(graph: Graph, use: Use, channels: int) -> _Affine | None:
    node = use.node
    if use.slot or attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
        return None
    if not all(_float_constant(graph, name) for name in node.input[1:5]):
        return None
    scale, bias, mean, variance = (graph.array(name).astype(np.float64) for name in node.input[1:5])
    spread = variance + attribute(node, "epsilon", 1e-5)
    if scale.size != channels or not (spread > 0).all():
        return None
    factor = scale / np.sqrt(spread)
    return _Affine(factor, bias - mean * factor)


def _per_channel(shape: tuple[int, ...], channels: int, rank: int | None, axis: int) -> bool:
    """Whether an operand of this shape broadcasts as one value per channel, or one for all, and adds no axis."""
    if rank is None:
        return shape in {(), (1,), (channels,)} and (axis == -1 or shape != (channels,))
    if len(shape) > rank:
        return False
    padded = [1] * (rank - len(shape)) + list(shape)
    position = axis % rank
    return padded[position] in {1, channels} and all(n == 1 for i, n in enumerate(padded) if i != position)


def _scale_outputs(graph: Graph, node: NodeProto, affine: _Affine, channels: int) -> None:
    """Give the layer new parameters of its own: others may share the old ones."""
    factor, offset = (np.broadcast_to(vector, (channels,)) for vector in (affine.factor, affine.offset))
    weight = graph.array(node.input[1]).astype(np.float64)
    alpha, beta = 1.0, 1.0
    if node.op_type == "Gemm":
        alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
        kept = [entry for entry in node.attribute if entry.name not in {"alpha", "beta"}]
        del node.attribute[:]
        node.attribute.extend(kept)
    if node.op_type == "ConvTranspose":
        # [Cin, Cout/group, …]: rows of one group share that group's output channels.
        groups = attribute(node, "group", 1)
        per_row = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        weight = weight * per_row.reshape(*per_row.shape, *(1,) * (weight.ndim - 2))
    elif node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        weight = alpha * weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    else:
        weight = alpha * weight * factor
    has_bias = len(node.input) > 2 and bool(node.input[2])
    _write(graph, node, 1, "weight", weight)
    if node.op_type == "MatMul" or not (has_bias or offset.any()):
        return
    bias = graph.array(node.input[2]).astype(np.float64).reshape(-1) if has_bias else np.zeros(1)
    _write(graph, node, 2, "bias", np.broadcast_to(beta * bias, factor.shape) * factor + offset)


def _write(graph: Graph, node: NodeProto, slot: int, what: str, value: NDArray[np.float64]) -> None:
    name = _own_name(graph, node.input[slot] if len(node.input) > slot else "", f"{node.name}.{what}")
    set_initializer(graph.model, name, value.astype(np.float32))
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = name


def _own_name(graph: Graph, name: str, wanted: str) -> str:
    """The constant's name when nobody else reads it, else a free one."""
    shared = not name or len(graph.uses[name]) > 1 or name in graph.read_in_bodies or name in graph.outputs
    return graph.free_name(wanted) if shared else name


def _take_over(graph: Graph, node: NodeProto, gone: NodeProto) -> None:
    node.output[0] = gone.output[0]
    graph.model.graph.node.remove(gone)
