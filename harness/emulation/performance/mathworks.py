"""Cycles of the deep learning processor of MathWorks' bitstreams.

The constants are fitted on the one published table of single layers: MathWorks' own estimate, which is no measurement,
of LogoNet on zcu102_single (220 MHz, 16/4 threads), by least squares of the relative error; a test fits them again.
p = sqrt(conv_threads) channels go through at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.emulation.lowered import Where
from harness.emulation.performance.hardware import Placed, input_images, place_layers
from harness.emulation.performance.layers import LayerShape, NetworkShape, Volume
from harness.emulation.performance.processors import Processor
from harness.emulation.performance.timing import Bound, LayerTiming, NetworkTiming
from harness.errors import UserError

#: Cycles per 3x3 window on p channels in and p channels out (LogoNet, conv_1 to conv_4: within 0.42 %).
WINDOW = 1.0828
#: Cycles per p values to or from external memory; the same fit. Three of them make the input's normalization (-0.1 %).
WORD = 1.3988
#: Cycles per fc_threads products, which wait for their weights, and of starting a layer (fc_1 to fc_3: within 0.02 %).
PRODUCT, FC_START = 1.6178, 473.0
#: Cycles per p values of a max-pool's input, and per p channels (off by +8, +9, -27 and +1 %: unexplained).
POOLED, POOL_START = 3.343, 293.3
#: A kernel is cut into tiles of this height and width.
_TILE = 3


@dataclass(frozen=True, slots=True)
class Cycles:
    """Cycles of one layer.

    Args:
        total: all of them.
        bound: what most of them are spent on.
        peak: multiply-accumulates per cycle of the module it runs in.
        note: on what the figure rests where no published figure of such a layer exists; None where one does.
    """

    total: float
    bound: Bound
    peak: int
    note: str | None = None


def layer_cycles(layer: LayerShape, processor: Processor, fed_by: Volume | None = None) -> Cycles:
    """Cycles of a layer that one of the processor's modules computes, for one sample.

    Args:
        layer: of any kind that `place_layers` gives a module.
        processor: whose.
        fed_by: for a fully connected layer, the volume that was flattened for it; None: its own operand.
    """
    p, peak = processor.lanes, processor.conv_peak
    out = _words(layer.output, p)
    into = sum(_words(volume, p) for volume in layer.inputs)
    if layer.kind in {"conv", "depthwise", "transposed"}:
        compute, writing = WINDOW * _positions(layer) * kernel_tiles(layer, p), WORD * out
        bound: Bound = "compute" if compute >= writing else "memory"
        return Cycles(compute + writing, bound, peak, _unlike_logonet(layer))
    if layer.kind == "fc":
        return _fully_connected(layer, processor, fed_by or layer.inputs[0])
    if layer.kind in {"maxpool", "avgpool"}:
        note = None if layer.kind == "maxpool" else "counted as a max-pool: no published figure"
        return Cycles(POOLED * into + POOL_START * _ceil(layer.inputs[0].channels, p), "memory", peak, note)
    if len(layer.inputs) == 1 and layer.kind in {"add", "mul", "normalization"}:
        note = None if "" in layer.parents else "counted as the input's normalization: no published figure"
        return Cycles(3 * WORD * out, "memory", peak, note)
    note = "counted as reads and writes at the rate of the input's normalization: no published figure"
    return Cycles(WORD * (into + out), "memory", peak, note)


def kernel_tiles(layer: LayerShape, lanes: int) -> int:
    """How many kernels of 3x3 on `lanes` channels in and out a convolution is cut into.

    Depthwise layers take `lanes` channels at a time; groups come one after the other.
    """
    inside = tiles_of_kernel(layer)
    if layer.kind == "depthwise":
        return _ceil(layer.output.channels, lanes) * inside
    into, out = layer.inputs[0].channels // layer.groups, layer.output.channels // layer.groups
    return layer.groups * _ceil(into, lanes) * _ceil(out, lanes) * inside


def tiles_of_kernel(layer: LayerShape) -> int:
    """How many tiles of 3x3 cover the window of one channel."""
    return _ceil(layer.kernel[0], _TILE) * _ceil(layer.kernel[1], _TILE)


def product_positions(layer: LayerShape) -> int:
    """For how many positions a fully connected layer uses its weights; 1 but for sequences."""
    return max(1, layer.macs // layer.weights) if layer.weights else 1


def flattened_for(placed: Placed, network: NetworkShape) -> Volume:
    """The volume that a fully connected layer reads, as it lies in memory before it is flattened."""
    layer = placed.layer
    if placed.source:
        made = network.layer(placed.source).output
        return made if made.elements == layer.inputs[0].elements else layer.inputs[0]
    images = input_images(network)
    return next((image for image in images if image.elements == layer.inputs[0].elements), layer.inputs[0])


def padded_elements(volume: Volume, lanes: int) -> int:
    """How many values a volume takes where channels lie in groups of `lanes`."""
    return _words(volume, lanes) * lanes


def time_on_processor(network: NetworkShape, processor: Processor) -> NetworkTiming:
    """Time of one sample; what the host computes in software is listed and has no time.

    Raises:
        UserError: the processor computes none of its layers.
    """
    layers = tuple(_timed(item, network, processor) for item in place_layers(network, processor))
    cycles = sum(layer.cycles for layer in layers if layer.cycles is not None)
    if not cycles:
        message = (
            "no layer of this network runs in the deep learning processor: "
            + (
                f"{layers[0].name} ({layers[0].op_type}): {layers[0].reason or layers[0].note}"
                if layers
                else "it has none"
            )
            + "; nothing to estimate"
        )
        raise UserError(message)
    seconds = cycles / (processor.clock_mhz * 1e6)
    return NetworkTiming(layers, seconds, 1 / seconds, None, cycles, processor.clock_mhz, processor.error)


def _timed(item: Placed, network: NetworkShape, processor: Processor) -> LayerTiming:
    layer = item.layer
    where: Where = "SW" if item.module is None and not item.free else "HW"
    if where == "SW":
        return LayerTiming(layer.name, layer.op_type, "SW", None, reason=item.why)
    if item.free:
        return LayerTiming(layer.name, layer.op_type, "HW", 0.0, 0.0, note=item.why)
    spent = layer_cycles(layer, processor, flattened_for(item, network) if layer.kind == "fc" else None)
    return LayerTiming(
        layer.name,
        layer.op_type,
        "HW",
        spent.total / (processor.clock_mhz * 1e6),
        spent.total,
        spent.bound,
        layer.macs / (spent.total * spent.peak) if layer.macs else None,
        item.group,
        note=spent.note,
    )


def _fully_connected(layer: LayerShape, processor: Processor, fed_by: Volume) -> Cycles:
    inputs = layer.inputs[0].elements
    once = product_positions(layer) == 1
    padded = padded_elements(fed_by, processor.lanes) if once and fed_by.elements == inputs else inputs
    products = _ceil(layer.macs * padded, max(1, inputs) * processor.fc_threads)
    note = None if once else "one product a position: no published figure"
    # More than one cycle per product: the multipliers wait for weights, each of which is used once.
    return Cycles(PRODUCT * products + FC_START, "memory", processor.fc_threads, note)


def _positions(layer: LayerShape) -> int:
    """Places of the window; a stride costs as stride 1 (LogoNet's conv_4)."""
    if layer.kind == "transposed":
        return layer.output.height * layer.output.width
    given = layer.inputs[0]
    spans = [dilation * (size - 1) for dilation, size in zip(layer.dilations, layer.kernel, strict=True)]
    high = given.height + layer.pads[0] + layer.pads[2] - spans[0]
    wide = given.width + layer.pads[1] + layer.pads[3] - spans[1]
    return max(high, layer.output.height) * max(wide, layer.output.width)


def _unlike_logonet(layer: LayerShape) -> str | None:
    """What sets a convolution apart from those that the constants were fitted on."""
    if layer.kind == "depthwise":
        return "depthwise, counted as p channels at a time: no published figure"
    if layer.kind == "transposed":
        return "transposed, counted as a convolution over its output: no published figure"
    if layer.groups > 1:
        return "groups, counted one after the other: no published figure"
    if max(layer.dilations) > 1:
        return "dilated, counted by its own weights: no published figure"
    if layer.kernel not in {(3, 3), (5, 5)}:
        return f"{layer.kernel[0]}x{layer.kernel[1]} kernel, counted in tiles of 3x3: no published figure"
    return None


def _words(volume: Volume, lanes: int) -> int:
    return volume.height * volume.width * _ceil(volume.channels, lanes)


def _ceil(value: int, by: int) -> int:
    return -(-value // by)
