"""Cycles, time, memory and resources of a network on an FPGA that is not there."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.emulation.performance.compile_log import log_lines
from harness.emulation.performance.dpu import DpuConfig, dpu_config
from harness.emulation.performance.dpu_resources import dpu_resources
from harness.emulation.performance.dpu_timing import time_on_dpu
from harness.emulation.performance.layers import NetworkShape
from harness.emulation.performance.mathworks import time_on_processor
from harness.emulation.performance.memory_map import MemoryMap, memory_map
from harness.emulation.performance.processors import Processor, find_processor
from harness.emulation.performance.reading import read_shape
from harness.emulation.performance.resources import processor_resources
from harness.emulation.performance.timing import ModelError, NetworkTiming
from harness.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Device = Processor | DpuConfig


@dataclass(frozen=True, slots=True)
class ResourceShare:
    """What a device's design takes of one kind of resource.

    Args:
        name: LUT, Register, BRAM or DSP.
        percent: of the part, more than 100 does not fit; None where the part's total is not known.
        count: how many.
        origin: published, or interpolated from published figures.
        source: where they stand, and how they were scaled.
    """

    name: str
    percent: float | None
    count: float
    origin: Literal["published", "interpolated"]
    source: str


@dataclass(frozen=True)
class Estimate:
    """What the performance model says of a network on a device; every figure is modelled, none measured.

    Args:
        model: the network's file, or its name.
        device: the device, in words.
        network: its layers as shapes.
        timing: per layer and in all.
        memory_map: buffers in external memory, by name; None for a DPU, of whose memory no rule is published.
        resources: of the part.
        remarks: what a reader must know of these figures, a sentence each.
    """

    model: str
    device: str
    network: NetworkShape
    timing: NetworkTiming
    memory_map: MemoryMap | None
    resources: tuple[ResourceShare, ...]
    remarks: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Samples per second, one after the other."""
        return self.timing.fps

    @property
    def fps_multi_thread(self) -> float | None:
        """Samples per second with all cores busy; None where the model has no such figure."""
        return self.timing.fps_multi_thread

    @property
    def cycles(self) -> float | None:
        """Of the accelerator, for one sample."""
        return self.timing.cycles

    @property
    def seconds(self) -> float:
        """For one sample."""
        return self.timing.seconds

    @property
    def clock_mhz(self) -> float:
        """Of the accelerator."""
        return self.timing.clock_mhz

    @property
    def error(self) -> ModelError:
        """Of the model, against published figures."""
        return self.timing.error

    @functools.cached_property
    def layers(self) -> pd.DataFrame:
        """One row a layer: layer, type, where, group, cycles, seconds, fps, bound, utilization (0 … 1), note."""
        import pandas as pd

        return pd.DataFrame(self._rows())

    @property
    def compile_log(self) -> tuple[str, ...]:
        """Layers, notices, groups and memory as a compiler would list them."""
        return log_lines(self.network, self.timing, self.device, self.memory_map)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        return {
            "model": self.model,
            "device": self.device,
            "kind": "modelled",
            "fps": self.fps,
            "fps_multi_thread": self.fps_multi_thread,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "clock_mhz": self.clock_mhz,
            "error": asdict(self.error),
            "layers": self._rows(),
            "memory_map": None if self.memory_map is None else _map_rows(self.memory_map),
            "resources": [asdict(share) for share in self.resources],
            "remarks": list(self.remarks),
            "compile_log": list(self.compile_log),
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "layer": layer.name,
                "type": layer.op_type,
                "where": layer.where,
                "group": layer.group,
                "cycles": layer.cycles,
                "seconds": layer.seconds,
                "fps": 1 / layer.seconds if layer.seconds else None,
                "bound": layer.bound,
                "utilization": layer.utilization,
                "note": layer.reason or layer.note,
            }
            for layer in self.timing.layers
        ]


def estimate(
    path: str | PathLike[str],
    *,
    bitstream: str | None = None,
    conv_threads: int | None = None,
    fc_threads: int | None = None,
    dpu: str | None = None,
    cores: int | None = None,
    board: str | None = None,
    clock_mhz: float | None = None,
    memory_gb_per_s: float | None = None,
) -> Estimate:
    """Estimate a network on one of MathWorks' bitstreams, or on a DPUCZDX8G.

    Example:
        >>> import harness
        >>> found = harness.estimate("net.onnx", bitstream="zcu102_int8")  # doctest: +SKIP
        >>> found.fps, found.memory_map["InputData"].size_bytes  # doctest: +SKIP
        >>> harness.estimate("net.onnx", dpu="B4096", cores=3, board="zcu102").fps  # doctest: +SKIP

    Args:
        path: a float or Q/DQ network; a free batch counts as 1, other free sizes do too, with a remark.
        bitstream: zcu102_single, zcu102_int8 or arria10soc_single.
        conv_threads: of a custom processor made from the bitstream (None: zcu102_single), a square.
        fc_threads: of such a processor.
        dpu: B512 … B4096.
        cores: of the DPU; None: the board's usual number.
        board: of the DPU; None: zcu102.
        clock_mhz: of the processor or the DPU; None: the usual one.
        memory_gb_per_s: of the DPU's board, for all cores together, in 10^9 bytes; None: as fitted for the board.

    Raises:
        UserError: no readable network, no such device, or both kinds or neither kind of device.
    """
    device = find_device(
        bitstream=bitstream,
        conv_threads=conv_threads,
        fc_threads=fc_threads,
        dpu=dpu,
        cores=cores,
        board=board,
        clock_mhz=clock_mhz,
        memory_gb_per_s=memory_gb_per_s,
    )
    return estimate_network(read_shape(Path(path)), device, str(path))


def find_device(
    *,
    bitstream: str | None = None,
    conv_threads: int | None = None,
    fc_threads: int | None = None,
    dpu: str | None = None,
    cores: int | None = None,
    board: str | None = None,
    clock_mhz: float | None = None,
    memory_gb_per_s: float | None = None,
) -> Device:
    """The device of those words; arguments as for `estimate`.

    Raises:
        UserError: no such device, or both kinds or neither kind.
    """
    processor = bitstream is not None or conv_threads is not None or fc_threads is not None
    if processor and (dpu is not None or cores is not None or memory_gb_per_s is not None):
        message = (
            "a bitstream (or its threads) and a DPU (or its cores and memory) exclude each other: name one of them"
        )
        raise UserError(message)
    if not processor and not dpu:
        message = "which device? name a bitstream (--bitstream zcu102_int8) or a DPU (--dpu B4096 --board zcu102)"
        raise UserError(message)
    if dpu:
        return dpu_config(dpu, clock_mhz, cores, board, memory_gb_per_s)
    found = find_processor(bitstream, conv_threads=conv_threads, fc_threads=fc_threads, clock_mhz=clock_mhz)
    if board is not None and not found.base.startswith(board.lower()):
        message = f"board {board!r}: bitstream {found.base} is made for its own board; leave --board out"
        raise UserError(message)
    return found


def estimate_network(network: NetworkShape, device: Device, model: str = "network") -> Estimate:
    """Estimate a network that is read already.

    Args:
        network: as `read_shape` gives it.
        device: as `find_device` gives it.
        model: how to call the network.

    Raises:
        UserError: the device computes none of its layers.
    """
    found = _on_dpu(network, device, model) if isinstance(device, DpuConfig) else _on_processor(network, device, model)
    remarks = []
    if network.free:
        remarks.append(
            f"sizes that the network leaves open count as 1 ({'; '.join(network.free)}): these are the figures of no "
            "real input; export it with fixed sizes"
        )
    if mixed := counted_as_int8(network, device):
        remarks.append(mixed)
    return replace(found, remarks=(*remarks, *found.remarks))


def counted_as_int8(network: NetworkShape, device: Device) -> str | None:
    """What the figures of an int8 device pass over in a network of mixed precision; None where it is nothing."""
    if not network.kept_float or (isinstance(device, Processor) and device.data_type != "int8"):
        return None
    names = ", ".join(network.kept_float[:3]) + (", …" if network.kept_float[3:] else "")
    layers = "1 layer" if len(network.kept_float) == 1 else f"{len(network.kept_float)} layers"
    return f"counted as if in int8: {layers} that the network keeps float ({names})"


def compile_log(network: NetworkShape, device: Device) -> tuple[str, ...]:
    """What a compiler would tell of the network on its way into the device, line by line.

    Raises:
        UserError: the device computes none of its layers.
    """
    return estimate_network(network, device).compile_log


def _on_processor(network: NetworkShape, device: Processor, model: str) -> Estimate:
    timing = time_on_processor(network, device)
    resources = tuple(
        ResourceShare(item.name, item.percent, item.count, item.origin, item.source)
        for item in processor_resources(device)
    )
    remarks = [
        "the published figures that the model was fitted on are MathWorks' own estimates, not measurements",
        "software layers run on the host and have no published figure: they are not in the total",
    ]
    if any(layer.note and layer.cycles for layer in timing.layers):
        remarks.append("layers with a note are of a kind that no published figure covers: counted by analogy")
    if too_much := [f"{item.name} {item.percent:.0f} %" for item in resources if (item.percent or 0) > 100]:
        remarks.append(f"it does not fit on the {device.part} by these figures: {', '.join(too_much)}")
    return Estimate(model, device.title, network, timing, memory_map(network, device), resources, tuple(remarks))


def _on_dpu(network: NetworkShape, device: DpuConfig, model: str) -> Estimate:
    found = dpu_resources(device)
    resources = tuple(
        ResourceShare(
            use.name,
            None if use.share is None else 100 * use.share,
            use.count,
            "published" if use.origin == "published" else "interpolated",
            use.source,
        )
        for use in found.uses
    )
    remarks = (*found.notes, "no rule of a DPU's external memory is published: no memory map")
    return Estimate(model, str(device), network, time_on_dpu(network, device), None, resources, remarks)


def _map_rows(memory: MemoryMap) -> list[dict[str, Any]]:
    return [
        {
            "buffer": buffer.name,
            "offset_bytes": buffer.offset_bytes,
            "bytes": buffer.size_bytes,
            "basis": buffer.basis,
            "note": buffer.note,
        }
        for buffer in memory.buffers
    ]
