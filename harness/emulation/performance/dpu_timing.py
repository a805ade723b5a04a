"""How long a network takes on a DPUCZDX8G: a roofline for each layer, and the host's time for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.emulation.performance.dpu import DpuConfig
from harness.emulation.performance.dpu_layers import software_reason, work_of
from harness.emulation.performance.layers import LayerShape, NetworkShape
from harness.emulation.performance.timing import LayerTiming, ModelError, NetworkTiming


@dataclass(frozen=True, slots=True)
class DpuModel:
    """The constants of the timing model.

    Args:
        array_efficiency: share of its cycles that the array of multipliers works.
        side_efficiency: the same of the unit for depthwise convolution, pooling and element-wise work.
        core_gb_per_s: what one core moves alone, per board.
        host_fixed_ms: of the processor beside the DPU, for each image.
        host_ns_per_pixel: of the processor, for each pixel of the input, per board.
        error: how far it was from published figures.
    """

    array_efficiency: float
    side_efficiency: float
    core_gb_per_s: Mapping[str, float]
    host_fixed_ms: float
    host_ns_per_pixel: Mapping[str, float]
    error: ModelError


MODEL = DpuModel(
    array_efficiency=0.988,
    side_efficiency=0.57,
    core_gb_per_s={"zcu102": 8.38, "zcu104": 8.38, "kv260": 8.38, "ultra96": 3.19},
    host_fixed_ms=0.09,
    host_ns_per_pixel={"zcu102": 9.0, "zcu104": 9.0, "kv260": 9.0, "ultra96": 40.0},
    error=ModelError(None, None, 0, "not fitted yet"),
)


def time_on_dpu(network: NetworkShape, config: DpuConfig, model: DpuModel = MODEL) -> NetworkTiming:
    """Time a network on a DPU.

    Args:
        network: as `read_shape` gives it.
        config: as `dpu_config` gives it.
        model: the constants; those of the published fit.

    Returns:
        Layers in the network's order. `seconds` is one image with one thread, host included; `fps_multi_thread` is
        with every core busy.
    """
    layers: list[LayerTiming] = []
    group = 0
    before_was_software = True
    for layer in network.layers:
        reason = software_reason(layer, config.arch)
        if reason is not None:
            layers.append(LayerTiming(layer.name, layer.op_type, "SW", None, reason=reason))
        else:
            group += before_was_software
            layers.append(_time_layer(layer, config, model, 1, group))
        before_was_software = reason is not None
    alone = sum(layer.seconds or 0.0 for layer in layers)
    shared = alone
    host = _host_seconds(network, config, model)
    seconds = alone + host
    return NetworkTiming(
        tuple(layers),
        seconds,
        1 / seconds,
        config.cores / max(shared, host * config.cores / 4),
        sum(layer.cycles or 0.0 for layer in layers),
        config.clock_mhz,
        model.error,
    )


def _time_layer(layer: LayerShape, config: DpuConfig, model: DpuModel, cores: int, group: int) -> LayerTiming:
    work = work_of(layer, config.arch)
    hertz = config.clock_mhz * 1e6
    compute = (work.array_cycles / model.array_efficiency + work.side_cycles / model.side_efficiency) / hertz
    moved = work.weight_bytes + work.input_bytes + work.output_bytes
    memory = moved * cores / (model.core_gb_per_s[config.board.name] * 1e9)
    seconds = max(compute, memory)
    return LayerTiming(
        layer.name,
        layer.op_type,
        "HW",
        seconds,
        cycles=seconds * hertz,
        bound="compute" if compute >= memory else "memory",
        utilization=min(1.0, 2 * layer.macs / (config.peak_ops_per_second * seconds)) if seconds else 0.0,
        group=group,
    )


def _host_seconds(network: NetworkShape, config: DpuConfig, model: DpuModel) -> float:
    pixels = sum(volume.height * volume.width for volume in network.inputs.values())
    return model.host_fixed_ms * 1e-3 + model.host_ns_per_pixel[config.board.name] * 1e-9 * pixels
