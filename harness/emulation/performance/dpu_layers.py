"""What the layers of a network ask of one DPUCZDX8G core: where each runs, its cycles, the bytes it moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from harness.emulation.performance.dpu import DpuArch
from harness.emulation.performance.layers import LayerShape, NetworkShape

#: PG338, 'Deep neural network features and parameters supported': limits of the DPUCZDX8G.
MOST_KERNEL = 16
MOST_STRIDE = 8
MOST_POOL_KERNEL = 256
#: Input channels of a convolution and inputs of a fully connected layer, per input channel computed at once.
MOST_CHANNELS_PER_LANE = 256
MOST_FC_INPUTS_PER_LANE = 2048
#: The largest map that stays on the chip between a convolution and a depthwise one: about what a B4096's block RAMs
#: hold. Found from the rates of MobileNet v1, whose maps do (up to 803 kB, on a B1600 too), and v2, whose first do not.
MOST_KEPT_BYTES = 2**20

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish"})
#: Moves that only rename, or that a DPU's load and store do on their way.
_MOVES = frozenset(
    {"Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Slice", "Split", "Pad", "DepthToSpace", "SpaceToDepth"}
)


def software_reason(layer: LayerShape, arch: DpuArch) -> str | None:
    """Why a DPU leaves a layer to the processor beside it; None where it computes it itself."""
    if layer.axes > 2:
        return f"its window moves along {layer.axes} axes, a DPU's along two"
    match layer.kind:
        case "conv" | "depthwise" | "transposed":
            return _window_reason(layer, arch)
        case "fc":
            return _dense_reason(layer, arch)
        case "maxpool" | "avgpool":
            return f"its window is larger than {MOST_POOL_KERNEL}" if max(layer.kernel) > MOST_POOL_KERNEL else None
        case "activation":
            return None if layer.op_type in _ACTIVATIONS else f"a DPU has no {layer.op_type}"
        case "mul":
            return "a DPU does not divide" if layer.op_type == "Div" else None
        case "normalization":
            return None if layer.op_type == "BatchNormalization" else f"a DPU has no {layer.op_type}"
        case "move":
            return _move_reason(layer)
        case "add" | "concat" | "resize":
            return None
        case _ if layer.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            return "its shapes are known only when the network runs"
        case _:
            return f"a DPU has no {layer.op_type}"


def _window_reason(layer: LayerShape, arch: DpuArch) -> str | None:
    if not layer.weights:
        return "its weights are computed"
    if max(layer.kernel) > MOST_KERNEL:
        return f"kernel {layer.kernel[0]} x {layer.kernel[1]}, a DPU takes {MOST_KERNEL}"
    if layer.kind != "transposed" and max(layer.strides) > MOST_STRIDE:
        return f"stride {max(layer.strides)}, a DPU takes {MOST_STRIDE}"
    channels = max(layer.dilations) * layer.inputs[0].channels
    most = MOST_CHANNELS_PER_LANE * arch.input_channels
    return f"{channels} input channels (times dilation), {arch.name} takes {most}" if channels > most else None


def _dense_reason(layer: LayerShape, arch: DpuArch) -> str | None:
    if not layer.weights:
        return "a product of two activations"
    inputs = layer.macs // max(layer.output.elements, 1)
    most = MOST_FC_INPUTS_PER_LANE * arch.input_channels
    return f"{inputs} inputs, {arch.name} takes {most}" if inputs > most else None


def _move_reason(layer: LayerShape) -> str | None:
    if layer.op_type in _MOVES:
        return None
    if layer.op_type == "Reshape" and layer.inputs and layer.output in {layer.inputs[0], _vector(layer)}:
        return None
    return f"a DPU does not {layer.op_type.lower()}" if layer.op_type == "Reshape" else f"a DPU has no {layer.op_type}"


def _vector(layer: LayerShape) -> object:
    return replace(layer.output, channels=layer.inputs[0].elements, height=1, width=1)


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer asks of one core for one image.

    Args:
        array_cycles: of the array of multipliers, idle lanes counted.
        side_cycles: of the unit beside it, which convolves depthwise, pools and adds at half the array's pixels.
        moved_bytes: between core and memory, at 8 bits a value: weights, biases, feature maps read and written.
        launches: 1, or 0 for a layer that costs nothing (a rename, a concatenation written in place).
    """

    array_cycles: float = 0.0
    side_cycles: float = 0.0
    moved_bytes: float = 0.0
    launches: int = 0


def works(network: NetworkShape, arch: DpuArch) -> Mapping[str, Work | str]:
    """The work of each layer by its name; of a layer in software, the reason.

    A depthwise convolution that alone reads a convolution's result takes it from the core's own memory, where that
    holds it: the map is neither written nor read again.
    """
    found: dict[str, Work | str] = {}
    readers = Counter(parent for layer in network.layers for parent in layer.parents)
    readers.update(network.outputs)
    for layer in network.layers:
        reason = software_reason(layer, arch)
        if reason is not None:
            found[layer.name] = reason
            continue
        found[layer.name] = _work(layer, arch)
        maker = network.layer(layer.parents[0]) if layer.parents and layer.parents[0] else None
        if layer.kind == "depthwise" and maker and maker.kind == "conv" and readers[maker.name] == 1:
            if maker.output.elements > MOST_KEPT_BYTES:
                continue
            for name in (maker.name, layer.name):
                work = found[name]
                if isinstance(work, Work):
                    found[name] = replace(work, moved_bytes=work.moved_bytes - maker.output.elements)
    return found


def _work(layer: LayerShape, arch: DpuArch) -> Work:
    if layer.kind in {"concat", "move"}:
        return Work()
    array = side = 0.0
    out = layer.output
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.kind in {"conv", "transposed"}:
        array = _array_cycles(layer, arch)
    elif layer.kind == "fc":
        depth = layer.macs // max(out.elements, 1)
        rows = out.height * out.width
        array = ceil(rows / arch.pixels) * ceil(depth / arch.input_channels) * ceil(out.channels / arch.output_channels)
    else:
        values = {"depthwise": taps, "maxpool": taps, "avgpool": taps, "add": len(layer.inputs), "mul": 2}
        side = values.get(layer.kind, 1) * _side_steps(layer, arch)
    read = float(sum(volume.elements for volume in layer.inputs))
    if layer.kind == "conv":
        read *= min(1.0, layer.kernel[0] / layer.strides[0])  # rows that a stride skips are not loaded
    return Work(array, side, layer.weights + layer.biases + read + out.elements, 1)


def _side_steps(layer: LayerShape, arch: DpuArch) -> int:
    """PG338: the unit for depthwise convolution and pooling works on half as many pixels as the array."""
    out = layer.output
    return out.height * ceil(out.width / (arch.pixels // 2)) * ceil(out.channels / arch.input_channels)


def _array_cycles(layer: LayerShape, arch: DpuArch) -> int:
    first, out = layer.inputs[0], layer.output
    groups = max(layer.groups, 1)
    depth = max(first.channels // groups, 1)
    height, width = layer.kernel
    over = first if layer.kind == "transposed" else out  # a transposed convolution multiplies each input value
    if 2 * depth <= arch.input_channels:
        # 'Channel augmentation' (PG338): idle input lanes take neighbouring columns of the kernel.
        width = ceil(width / min(width, arch.input_channels // depth))
    return (
        groups
        * over.height
        * ceil(over.width / arch.pixels)
        * height
        * width
        * ceil(depth / arch.input_channels)
        * ceil(max(out.channels // groups, 1) / arch.output_channels)
    )
