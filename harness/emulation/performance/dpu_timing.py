"""How long a network takes on a DPUCZDX8G: a roofline for each layer, and the host's time for each image."""

from __future__ import annotations

from harness.emulation.performance.dpu import DpuConfig
from harness.emulation.performance.dpu_layers import Work, works
from harness.emulation.performance.dpu_model import MODEL, DpuModel, Works, both
from harness.emulation.performance.layers import LayerShape, NetworkShape
from harness.emulation.performance.timing import LayerTiming, NetworkTiming
from harness.errors import UserError

#: Software layers whose time is that of their values alone; others multiply or iterate, and no figure covers them.
_VALUE_BY_VALUE = frozenset({"activation", "normalization", "move", "add", "mul"})
_VALUE_BY_VALUE_TYPES = frozenset({"Softmax", "LogSoftmax", "ArgMax", "Sqrt", "Pow", "Exp", "Log", "Abs", "Neg"})


def time_on_dpu(network: NetworkShape, config: DpuConfig, model: DpuModel = MODEL) -> NetworkTiming:
    """Time a network on a DPU.

    Args:
        network: as `read_shape` gives it.
        config: as `dpu_config` gives it.
        model: the constants; those of the published fit.

    Returns:
        Layers in the network's order, each as if its core had the memory to itself. `seconds` is one image with one
        thread: layers, preparing the image and reading the result. `fps_multi_thread` is with every core busy.
        Software layers that multiply or iterate have no time and are in no sum.

    Raises:
        UserError: nothing of the network runs on a DPU.
    """
    found = works(network, config.arch)
    on_core = [work for work in found.values() if isinstance(work, Work)]
    if not any(work.launches for work in on_core):
        why = next((f": {name}: {work}" for name, work in found.items() if isinstance(work, str)), "")
        raise UserError(f"{config.arch.name} computes no layer of this network, so there is no time to model{why}")
    layers: list[LayerTiming] = []
    group, in_software = 0, True
    for layer in network.layers:
        work = found[layer.name]
        if isinstance(work, str):
            layers.append(_in_software(layer, model, work))
        else:
            group += in_software
            layers.append(_on_core(layer, work, config, model, group))
        in_software = isinstance(work, str)
    every = Works.of(on_core)
    alone_ms = model.layers_ms(every, config, 1)
    host_ms = model.image_ms(*host_values(network, config))
    seconds = (alone_ms + host_ms) * 1e-3
    return NetworkTiming(
        tuple(layers),
        seconds,
        1 / seconds,
        model.frames_per_second(model.layers_ms(every, config, config.cores), host_ms, config.cores),
        alone_ms * config.clock_mhz * 1e3,
        config.clock_mhz,
        model.error,
    )


def host_values(network: NetworkShape, config: DpuConfig) -> tuple[int, int]:
    """What the processor beside the DPU handles of an image: pixels of the input, values that leave the DPU."""
    pixels = sum(volume.height * volume.width for volume in network.inputs.values())
    found = works(network, config.arch)
    values = sum(network.layer(name).output.elements for name in network.outputs if isinstance(found[name], Work))
    values += sum(_software_values(network.layer(name)) or 0 for name, work in found.items() if isinstance(work, str))
    return pixels, values


def _software_values(layer: LayerShape) -> int | None:
    if layer.macs or layer.weights:
        return None
    if layer.kind in _VALUE_BY_VALUE or layer.op_type in _VALUE_BY_VALUE_TYPES:
        return max(layer.output.elements, *(volume.elements for volume in layer.inputs), 0)
    return None


def _in_software(layer: LayerShape, model: DpuModel, reason: str) -> LayerTiming:
    values = _software_values(layer)
    if values is None:
        return LayerTiming(layer.name, layer.op_type, "SW", None, reason=f"{reason}; no model covers its time")
    seconds = values * model.host_ns_per_value * 1e-9
    return LayerTiming(layer.name, layer.op_type, "SW", seconds, bound="software", reason=reason)


def _on_core(layer: LayerShape, work: Work, config: DpuConfig, model: DpuModel, group: int) -> LayerTiming:
    compute_ms = model.compute_ms(work.array_cycles, work.side_cycles, config.clock_mhz)
    memory_ms = model.memory_ms(work.moved_bytes, config, 1)
    seconds = (both(compute_ms, memory_ms) + model.launch_us * 1e-3 * work.launches) * 1e-3
    return LayerTiming(
        layer.name,
        layer.op_type,
        "HW",
        seconds,
        cycles=seconds * config.clock_mhz * 1e6,
        bound=("compute" if compute_ms >= memory_ms else "memory") if work.launches else None,
        utilization=2 * layer.macs / (config.peak_ops_per_second * seconds) if seconds and layer.macs else None,
        group=group,
        note=None if work.launches else "costs nothing of its own: a rename, or written in place",
    )
