"""Decisions that need more than an operator's name: its mode, its constants, its axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
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


#: Slope of the DPU's LeakyReLU, what exporters write as 0.1; others within half of its step become it.
_DPU_SLOPE, _SLOPE_STEP = 26 / 256, 1 / 256
#: How far HardSigmoid's factors may be from 1/6 and 1/2: exporters write six digits at least.
_FACTOR_TOLERANCE = 1e-4
_ARM = "so it runs on the board's ARM cores"


def dpu_leaky_relu(graph: Graph, node: NodeProto) -> Kind | str:  # noqa: ARG001  # one signature for all
    """The DPU has one slope, 26/256 (docs/quantization.md): what exporters write as 0.1."""
    slope = float(attribute(node, "alpha", 0.01))
    if not _is_dpu_slope(np.asarray(slope)):
        return f"slope {slope:g}: the DPU has 26/256 only, {_ARM}"
    return Kind.POINTWISE


def dpu_prelu(graph: Graph, node: NodeProto) -> Kind | str:
    """The DPU has no slope per channel: PRelu is its LeakyReLU where every slope is 26/256, else nothing of its own."""
    if not graph.is_constant(node.input[1]):
        return f"its slopes are computed at run time: the DPU has 26/256 only, {_ARM}"
    slopes = np.asarray(graph.array(node.input[1]), np.float64)
    if not _is_dpu_slope(slopes):
        worst = float(slopes.flat[int(np.argmax(np.abs(slopes - _DPU_SLOPE)))])
        return f"slope {worst:g}: the DPU has 26/256 only, {_ARM}"
    return Kind.POINTWISE


def dpu_hard_sigmoid(graph: Graph, node: NodeProto) -> Kind | str:  # noqa: ARG001  # one signature for all
    """The DPU computes min(max(x + 3, 0), 6)·2731/16384: the HardSigmoid of 1/6 and 1/2 (docs/emulation.md)."""
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    if abs(alpha - 1 / 6) > _FACTOR_TOLERANCE or abs(beta - 1 / 2) > _FACTOR_TOLERANCE:
        return f"factors {alpha:g} and {beta:g}: the DPU has 1/6 and 1/2 only, {_ARM}"
    return Kind.POINTWISE


def _is_dpu_slope(slopes: NDArray[np.float64]) -> bool:
    return bool((np.abs(slopes - _DPU_SLOPE) <= _SLOPE_STEP / 2).all())
