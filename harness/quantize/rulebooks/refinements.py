"""Decisions that need more than an operator's name: its mode, its constants, its axes."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from harness.quantize.graph import Graph, attribute
from harness.quantize.rulebooks.rules import Kind

_CROPS = "interpolates from a computed region of interest"


def pad(graph: Graph, node: NodeProto) -> Kind | str:
    """Zeros and mirrored values are there already; another constant gets a scale that holds it."""
    if attribute(node, "mode", "constant") != "constant" or len(node.input) < 3 or not node.input[2]:
        return Kind.MOVES
    if not graph.is_constant(node.input[2]):
        return "pads with a value that is computed at run time"
    value = float(np.asarray(graph.array(node.input[2])).reshape(-1)[0])
    if not np.isfinite(value):
        return f"pads with {value:g}, which no integer stands for"
    # Every type we use holds 0 exactly: it is the zero point.
    return Kind.MOVES if value == 0 else Kind.POINTWISE


def resize_nearest(graph: Graph, node: NodeProto) -> Kind | str:
    """ONNX Runtime carries integers through the nearest mode only."""
    if attribute(node, "mode", "nearest") != "nearest":
        return f"interpolates ({attribute(node, 'mode')}): the runtime carries integers through nearest only"
    return resize_linear(graph, node)


def resize_linear(graph: Graph, node: NodeProto) -> Kind | str:  # noqa: ARG001  # one signature for all
    """Nearest picks values and linear stays between them; cubic overshoots its input's range."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return _CROPS
    if attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation overshoots the range of its input, and no board has it in int8"
    return Kind.MOVES


def dpu_leaky_relu(graph: Graph, node: NodeProto) -> Kind | str:  # noqa: ARG001  # one signature for all
    """The DPU has one slope, 26/256 (docs/quantization.md): what exporters write as 0.1."""
    slope = float(attribute(node, "alpha", 0.01))
    if abs(slope - 26 / 256) > 0.5 / 256:
        return f"slope {slope:g}: the DPU has 26/256 only, so it runs on the board's ARM cores"
    return Kind.POINTWISE
