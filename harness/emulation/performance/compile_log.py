"""What a compiler would tell of a network on its way into a processor: layers, notices, groups, memory."""

from __future__ import annotations

from collections.abc import Iterator

from harness.emulation.performance.layers import LayerShape, NetworkShape, Volume
from harness.emulation.performance.memory_map import MemoryMap
from harness.emulation.performance.timing import LayerTiming, NetworkTiming


def log_lines(network: NetworkShape, timing: NetworkTiming, device: str, memory: MemoryMap | None) -> tuple[str, ...]:
    """The log, line by line, from what a model said of the network.

    Args:
        network: its layers.
        timing: the same layers, placed and timed.
        device: the device, in words.
        memory: its external memory; None where the device has no map.
    """
    return tuple(_lines(network, timing, device, memory))


def _lines(network: NetworkShape, timing: NetworkTiming, device: str, memory: MemoryMap | None) -> Iterator[str]:
    yield f"Compiling the network for {device}"
    yield "Layers:"
    rows = [*_inputs(network), *_layers(network, timing), *_outputs(network)]
    names = max(len(name) for name, _, _ in rows)
    kinds = max(len(kind) for _, kind, _ in rows)
    for number, (name, kind, where) in enumerate(rows, start=1):
        yield f"  {number:>3}  {name:<{names}}  {kind:<{kinds}}  ({where})"
    for layer in timing.layers:
        if layer.where == "SW":
            yield f"Notice: layer {layer.name!r} ({layer.op_type}) is computed in software: {layer.reason}"
        elif layer.note and not layer.cycles:
            yield f"Notice: layer {layer.name!r} ({layer.op_type}) takes no time of its own: {layer.note}"
    yield from _groups(timing)
    if memory is not None:
        yield from _memory(memory)
    yield "Compiled"


def _inputs(network: NetworkShape) -> list[tuple[str, str, str]]:
    return [(name, f"Input {_size(volume)}", "SW") for name, volume in network.inputs.items()]


def _outputs(network: NetworkShape) -> list[tuple[str, str, str]]:
    return [(f"output of {name}", f"Output {_size(network.layer(name).output)}", "SW") for name in network.outputs]


def _layers(network: NetworkShape, timing: NetworkTiming) -> Iterator[tuple[str, str, str]]:
    for layer in timing.layers:
        yield layer.name, _kind(network.layer(layer.name)), layer.where


def _kind(layer: LayerShape) -> str:
    words = ["+".join((layer.op_type, *layer.fused))]
    if layer.kind in {"conv", "depthwise", "transposed"}:
        words.append(f"{layer.output.channels} kernels {layer.kernel[0]}x{layer.kernel[1]}")
        words += [f"in {layer.groups} groups"] if layer.groups > 1 else []
    elif layer.kind in {"maxpool", "avgpool"}:
        words.append(f"{layer.kernel[0]}x{layer.kernel[1]}")
    elif layer.kind == "fc":
        words.append(f"{layer.inputs[0].elements} to {layer.output.elements}")
    if layer.strides != (1, 1):
        words.append(f"stride {layer.strides[0]}x{layer.strides[1]}")
    if layer.dilations != (1, 1):
        words.append(f"dilation {layer.dilations[0]}x{layer.dilations[1]}")
    return " ".join(words)


def _groups(timing: NetworkTiming) -> Iterator[str]:
    groups: dict[int, list[LayerTiming]] = {}
    for layer in timing.layers:
        if layer.group is not None:
            groups.setdefault(layer.group, []).append(layer)
    for number, layers in sorted(groups.items()):
        title = layers[0].name if len(layers) == 1 else f"{layers[0].name}>>{layers[-1].name}"
        cycles = sum(layer.cycles or 0 for layer in layers)
        took = f", {cycles:,.0f} cycles" if cycles else ""
        count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
        yield f"Layer group {number}: {title} ({count}{took}): compiled"


def _memory(memory: MemoryMap) -> Iterator[str]:
    yield f"External memory, in pages of {memory.page_bytes // 1024} KiB ({memory.page_source}):"
    for buffer in memory.buffers:
        basis = "" if buffer.basis == "rule" else "  estimated"
        yield f"  {buffer.name:<16}  0x{buffer.offset_bytes:08x}  {buffer.size_bytes:>12,} bytes{basis}"
    yield f"  {'End':<16}  0x{memory.total_bytes:08x}  {memory.total_bytes:>12,} bytes in all"


def _size(volume: Volume) -> str:
    sizes = (volume.channels, volume.height, volume.width)
    return str(sizes[0]) if sizes[1:] == (1, 1) else "x".join(map(str, sizes))
