"""What one layer asks of a DPUCZDX8G: where it runs, how many cycles its sums take, how many bytes it moves."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from harness.emulation.performance.dpu import DpuArch
from harness.emulation.performance.layers import LayerShape

#: PG338, 'Operators supported': limits of the DPUCZDX8G.
MOST_KERNEL = 16
MOST_STRIDE = 8
MOST_POOL_KERNEL = 256
#: Input channels of a convolution and inputs of a fully connected layer, per input channel computed at once.
MOST_CHANNELS_PER_LANE = 256
MOST_FC_INPUTS_PER_LANE = 2048

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish"})


def software_reason(layer: LayerShape, arch: DpuArch) -> str | None:
    """Why a DPU leaves a layer to the processor beside it; None where it computes it itself."""
    match layer.kind:
        case "conv" | "depthwise" | "transposed":
            return _window_reason(layer, arch)
        case "fc":
            if not layer.weights:
                return "a product of two activations"
            inputs = layer.macs // max(layer.output.elements, 1)
            most = MOST_FC_INPUTS_PER_LANE * arch.input_channels
            return f"{inputs} inputs, {arch.name} takes {most}" if inputs > most else None
        case "maxpool" | "avgpool":
            return "its window is larger than 256" if max(layer.kernel) > MOST_POOL_KERNEL else None
        case "activation":
            return None if layer.op_type in _ACTIVATIONS else f"a DPU has no {layer.op_type}"
        case "mul":
            return "a DPU does not divide" if layer.op_type == "Div" else None
        case "normalization":
            return None if layer.op_type == "BatchNormalization" else f"a DPU has no {layer.op_type}"
        case "add" | "concat" | "resize" | "move":
            return None
        case _:
            return f"a DPU has no {layer.op_type}"


def _window_reason(layer: LayerShape, arch: DpuArch) -> str | None:
    if not layer.weights:
        return "its weights are computed"
    if max(layer.kernel) > MOST_KERNEL:
        return f"kernel {layer.kernel[0]} x {layer.kernel[1]}, a DPU takes {MOST_KERNEL}"
    if layer.kind != "transposed" and max(layer.strides) > MOST_STRIDE:
        return f"stride {max(layer.strides)}, a DPU takes {MOST_STRIDE}"
    channels = max(layer.dilations) * layer.inputs[0].channels // max(layer.groups, 1)
    most = MOST_CHANNELS_PER_LANE * arch.input_channels
    return f"{channels} input channels (times dilation), {arch.name} takes {most}" if channels > most else None


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer asks of one core for one image.

    Args:
        array_cycles: of the array of multipliers, with every lane that a shape leaves idle counted.
        side_cycles: of the unit beside it that does depthwise convolution, pooling and element-wise work, at one
            value of every lane and pixel in a cycle.
        weight_bytes: int8, weights and biases.
        input_bytes: int8 feature maps read.
        output_bytes: int8 feature map written.
    """

    array_cycles: float = 0.0
    side_cycles: float = 0.0
    weight_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0


def work_of(layer: LayerShape, arch: DpuArch) -> Work:
    """The work of a layer that runs on the DPU."""
    array = side = 0.0
    out = layer.output
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.kind in {"conv", "transposed"}:
        array = _conv_cycles(layer, arch)
    elif layer.kind == "fc":
        depth = layer.macs // max(out.elements, 1)
        rows = out.height * out.width
        array = ceil(rows / arch.pixels) * ceil(depth / arch.input_channels) * ceil(out.channels / arch.output_channels)
    elif layer.kind in {"depthwise", "maxpool", "avgpool"}:
        side = taps * _steps(out.height, out.width, out.channels, arch)
    elif layer.kind in {"add", "mul"}:
        side = max(len(layer.inputs), 1) * _steps(out.height, out.width, out.channels, arch)
    elif layer.kind in {"activation", "normalization", "resize"}:
        side = _steps(out.height, out.width, out.channels, arch)
    moves = layer.kind not in {"concat", "move"}
    return Work(
        array,
        side,
        layer.weights + layer.biases,
        sum(volume.elements for volume in layer.inputs) if moves else 0,
        out.elements if moves else 0,
    )


def _steps(height: int, width: int, channels: int, arch: DpuArch) -> int:
    return ceil(height / arch.pixels) * width * ceil(channels / arch.input_channels)


def _conv_cycles(layer: LayerShape, arch: DpuArch) -> int:
    first, out = layer.inputs[0], layer.output
    groups = max(layer.groups, 1)
    taps = layer.kernel[0] * layer.kernel[1]
    over = first if layer.kind == "transposed" else out  # a transposed convolution multiplies each input value
    return (
        groups
        * ceil(over.height / arch.pixels)
        * over.width
        * taps
        * ceil(first.channels // groups / arch.input_channels)
        * ceil(max(out.channels // groups, 1) / arch.output_channels)
    )
