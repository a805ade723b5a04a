"""One form for operators that say the same: padding inside its layer, pooling as pooling, plain Gemm.

Boards and ONNX Runtime have integer kernels for the one form and none for the other.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from harness.quantize.graph import Graph, attribute, drop_unused_initializers, replace_nodes, set_initializer

_PADDED = frozenset({"Conv", "AveragePool"})


def one_form(model: ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    """Rewrite, without changing the network's function beyond float rounding.

    - a Pad with zeros before a convolution or an average pool becomes that layer's own padding;
    - a ReduceMean over all spatial axes becomes a GlobalAveragePool;
    - a Gemm's alpha and beta go into its constants, and a constant C becomes a vector;
    - a Resize by 1 goes, and one that spreads a single pixel picks it instead of interpolating.

    Args:
        model: types and shapes of inner tensors are known as far as inference gets.

    Returns:
        name of each Resize that is gone → tensor that carries its value; name of each Pad that is gone → name of the
        layer that pads now.
    """
    removed = _drop_equal_sizes(model)
    folded = _fold_pads(model)
    graph = Graph(model)
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        nodes.append(node)
        if node.domain not in {"", "ai.onnx"}:
            continue
        if node.op_type == "ReduceMean" and _is_global_pool(graph, node):
            nodes.extend(_as_pool(graph, node))
        elif node.op_type == "Gemm":
            _plain_gemm(graph, node)
        elif node.op_type == "Resize":
            _pick_a_single_pixel(graph, node)
    if len(nodes) != len(graph.nodes):
        replace_nodes(model, nodes)
    drop_unused_initializers(model)
    return removed, folded


def _drop_equal_sizes(model: ModelProto) -> dict[str, str]:
    graph = Graph(model)
    removed: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type != "Resize" or node.domain or len(node.input) != 3 or not graph.is_constant(node.input[2]):
            continue
        scales, result = graph.array(node.input[2]), node.output[0]
        if not scales.size or np.any(scales != 1) or result in graph.outputs or result in graph.read_in_bodies:
            continue
        for use in graph.uses[result]:
            use.node.input[use.slot] = node.input[0]
        removed[node.name] = node.input[0]
        model.graph.node.remove(node)
        graph = Graph(model)
    return removed


def _pick_a_single_pixel(graph: Graph, node: NodeProto) -> None:
    """Interpolating between one value and itself is nearest neighbour, which more boards have in integers."""
    shape = graph.shape(node.input[0])
    if shape is None or len(shape) < 3 or any(size != 1 for size in shape[2:]):
        return
    if attribute(node, "mode", "nearest") == "nearest" or attribute(node, "axes") is not None:
        return
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return
    for entry in list(node.attribute):
        node.attribute.remove(entry)
    _set(node, "mode", "nearest")
    _set(node, "coordinate_transformation_mode", "asymmetric")
    _set(node, "nearest_mode", "floor")


def _fold_pads(model: ModelProto) -> dict[str, str]:
    folded: dict[str, str] = {}
    while True:
        graph = Graph(model)
        pair = next((pair for node in graph.nodes if (pair := _foldable(graph, node)) is not None), None)
        if pair is None:
            return folded
        pad, layer, sizes = pair
        half = len(sizes) // 2
        own = attribute(layer, "pads", [0] * (2 * (half - 2)))
        _set(layer, "pads", [a + b for a, b in zip(own, [*sizes[2:half], *sizes[half + 2 :]], strict=True)])
        if attribute(layer, "auto_pad", "NOTSET") == "VALID":
            _set(layer, "auto_pad", "NOTSET")
        if layer.op_type == "AveragePool":
            # The zeros were values like any other.
            _set(layer, "count_include_pad", 1)
        layer.input[0] = pad.input[0]
        folded[pad.name] = layer.name
        model.graph.node.remove(pad)


def _foldable(graph: Graph, pad: NodeProto) -> tuple[NodeProto, NodeProto, list[int]] | None:
    if pad.op_type != "Pad" or pad.domain or attribute(pad, "mode", "constant") != "constant":
        return None
    use = graph.sole_use(pad.output[0])
    if use is None or use.slot or use.node.op_type not in _PADDED or use.node.domain:
        return None
    if len(pad.input) > 3 and pad.input[3]:
        return None  # only some axes: exporters write that for other things
    if any(name and not graph.is_constant(name) for name in pad.input[1:]):
        return None
    if len(pad.input) > 2 and pad.input[2] and np.any(graph.array(pad.input[2])):
        return None
    sizes = [int(size) for size in graph.array(pad.input[1]).reshape(-1)]
    half = len(sizes) // 2
    if half < 3 or min(sizes) < 0 or any((*sizes[:2], *sizes[half : half + 2])):
        return None
    layer = use.node
    if attribute(layer, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return None
    if layer.op_type == "AveragePool":
        plain = not any(attribute(layer, "pads", [])) and not attribute(layer, "ceil_mode", 0)
        # ONNX Runtime refuses padding as large as the window.
        window = attribute(layer, "kernel_shape", [])
        fits = all(
            size < window[index % len(window)] for index, size in enumerate([*sizes[2:half], *sizes[half + 2 :]])
        )
        return (pad, layer, sizes) if plain and fits else None
    return pad, layer, sizes


def _is_global_pool(graph: Graph, node: NodeProto) -> bool:
    shape = graph.shape(node.input[0])
    if shape is None or len(shape) < 3 or graph.element_type(node.input[0]) != TensorProto.FLOAT:
        return False
    axes = attribute(node, "axes")
    if axes is None:
        if len(node.input) < 2 or not graph.is_constant(node.input[1]):
            return False
        axes = graph.array(node.input[1]).reshape(-1).tolist()
    return sorted(int(axis) % len(shape) for axis in axes) == list(range(2, len(shape)))


def _as_pool(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """Turn a ReduceMean into a pool in place; the node that drops its unit axes, where it did."""
    rank = len(graph.shape(node.input[0]) or ())
    keeps = attribute(node, "keepdims", 1)
    node.op_type = "GlobalAveragePool"
    del node.input[1:]
    del node.attribute[:]
    if keeps:
        return []
    result = node.output[0]
    node.output[0] = graph.free_name(f"{result}.pooled")
    axes = graph.free_name(f"{result}.axes")
    set_initializer(graph.model, axes, np.arange(2, rank))
    squeeze = graph.free_name(f"{node.name}.Squeeze")
    return [helper.make_node("Squeeze", [node.output[0], axes], [result], name=squeeze)]


def _plain_gemm(graph: Graph, node: NodeProto) -> None:
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    weight = node.input[1]
    if not graph.is_constant(weight) or graph.element_type(weight) != TensorProto.FLOAT:
        return
    width = graph.array(weight).shape[0 if attribute(node, "transB", 0) else 1]
    offset = node.input[2] if len(node.input) > 2 else ""
    if offset and not graph.is_constant(offset):
        return
    if offset:
        value = graph.array(offset)
        row = value.size in {1, width} and (value.ndim < 2 or value.shape[0] == 1)
        if not row:
            return  # a constant per row is no bias per channel
        if beta != 1 or value.shape != (width,):
            plain = np.broadcast_to((beta * value.astype(np.float64)).reshape(-1), (width,)).astype(np.float32)
            node.input[2] = graph.free_name(f"{node.name}.bias")
            set_initializer(graph.model, node.input[2], plain)
    if alpha != 1:
        node.input[1] = graph.free_name(f"{node.name}.weights")
        set_initializer(graph.model, node.input[1], (alpha * graph.array(weight).astype(np.float64)).astype(np.float32))
    for name in ("alpha", "beta"):
        _unset(node, name)


def _set(node: NodeProto, name: str, value: object) -> None:
    _unset(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _unset(node: NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
