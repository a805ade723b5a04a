"""What is known of an FPGA's designs without the board: modelled speed, resources from tables, a compile log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness.emulation.performance.boards import DPU_BOARDS
from harness.emulation.performance.dpu import DpuConfig, dpu_config
from harness.emulation.performance.estimate import (
    Device,
    Estimate,
    ResourceShare,
    counted_as_int8,
    estimate_network,
    find_device,
)
from harness.emulation.performance.processors import Processor
from harness.emulation.performance.reading import read_shape
from harness.emulation.performance.timing import ModelError
from harness.errors import UserError
from harness.record.designs import DesignRecord, DesignRow
from harness.record.figure import Network, Source
from harness.targets.target import Target

#: A DPU computes in int8 only.
FLOAT_ON_ARM = "float runs on the board's ARM cores: a DPU has no float network"
_SHARES = {"LUT": "lut_percent", "BRAM": "bram_percent", "DSP": "dsp_percent"}
_ROWS = (
    ("fps", "1/s"),
    ("latency_p50_ms", "ms"),
    ("clock_mhz", "MHz"),
    ("conv_threads", ""),
    ("fc_threads", ""),
    *((metric, "percent") for metric in _SHARES.values()),
)
_TYPES = {Network.FLOAT: ("float", "single"), Network.QUANTIZED: ("int8", "int8")}


def check_designs(targets: Iterable[Target]) -> None:
    """Refuse a lab entry of an emulated FPGA whose design cannot be.

    Raises:
        UserError: an unknown bitstream, one of another board or data type, or a DPU that none is like.
    """
    for target in targets:
        if target.timed or target.environment != "fpga":
            continue
        try:
            for network in _TYPES:
                if target.bitstream is not None:
                    _processor(target, network)
            if target.dpu is not None and target.board in DPU_BOARDS:
                _dpu(target)
        except UserError as error:
            raise UserError(f"{target.name}: {error}; correct targets.yaml") from error


def designs_of(target: Target, float_model: Path, int8_model: Path) -> tuple[DesignRecord, ...]:
    """Both networks of a target on the designs that its entry names; empty for targets that are no FPGA.

    An entry without `bitstream` and `dpu` has the board's usual DPU. What cannot be modelled is an empty row with its
    reason: accuracy does not depend on it.
    """
    if target.environment != "fpga":
        return ()
    if target.bitstream is None:
        return _nothing(Network.FLOAT, FLOAT_ON_ARM), _design(Network.QUANTIZED, target, int8_model)
    return _design(Network.FLOAT, target, float_model), _design(Network.QUANTIZED, target, int8_model)


def error_text(error: ModelError) -> str:
    """How far a model was from published figures, for a note."""
    return f"error of the model: {error}"


def _caveat(error: ModelError) -> str:
    """A model's error in a line; where there is none, what it was fitted on, of which `quantrig estimate` says more."""
    return error_text(error) if error.rows else f"{error_text(error)}; {error.fitted.partition(': ')[0]}"


def design_digest(device: Device) -> str:
    """What a design is called where it is programmed: sha256 of its description, as of a bitstream's file."""
    if isinstance(device, DpuConfig):
        text = f"dpuczdx8g {device.arch.name} {device.clock_mhz:g} MHz x{device.cores} {device.board.name}"
    else:
        text = f"{device.name} {device.conv_threads}/{device.fc_threads} {device.clock_mhz:g} MHz"
    return hashlib.sha256(text.encode()).hexdigest()


def _design(network: Network, target: Target, model: Path) -> DesignRecord:
    try:
        device: Device | None = _dpu(target) if target.bitstream is None else _processor(target, network)
        if device is None:
            return _nothing(network, f"targets.yaml names no bitstream for the {_TYPES[network][0]} network")
        found = estimate_network(read_shape(model), device)
    except UserError as error:
        return _nothing(network, str(error))
    name = device.name if isinstance(device, Processor) else str(device)
    usual = ""
    if target.bitstream is None and target.dpu is None:
        usual = "the board's usual DPU, since targets.yaml names no `dpu` and no `bitstream`; "
    design = (*_configuration(device), *_resources(found.resources, device))
    digest = design_digest(device)
    if found.network.free:  # a time of sizes that count as 1 means nothing; what fills the logic is as it is
        why = f"the network leaves sizes open ({'; '.join(found.network.free)}): no time to model"
        return DesignRecord(network, name, digest, (*_no_figures(_ROWS[:2], why), *design), usual + why)
    rows = (*_speed(found, device), *design)
    return DesignRecord(network, name, digest, rows, usual + _caveat(found.error), found.compile_log, found.remarks)


def _dpu(target: Target) -> DpuConfig:
    dpu = target.dpu
    if dpu is None:
        return dpu_config(board=target.board)
    return dpu_config(dpu.arch, dpu.clock_mhz, dpu.cores, target.board)


def _processor(target: Target, network: Network) -> Device | None:
    """The processor of the bitstream that runs a network; None where the entry names none."""
    design = target.bitstream
    name = None if design is None else design.float_network if network is Network.FLOAT else design.int8_network
    if name is None:
        return None
    device = find_device(bitstream=name, board=target.board)
    field, wanted = _TYPES[network]
    if isinstance(device, Processor) and device.data_type != wanted:
        raise UserError(f"bitstream.{field}: {name} computes in {device.data_type}, not in {wanted}")
    return device


def _nothing(network: Network, reason: str) -> DesignRecord:
    return DesignRecord(network, "", "", _no_figures(_ROWS, reason))


def _no_figures(metrics: Iterable[tuple[str, str]], reason: str) -> tuple[DesignRow, ...]:
    return tuple(DesignRow(metric, None, unit, Source.EMULATED, reason) for metric, unit in metrics)


def _speed(found: Estimate, device: Device) -> tuple[DesignRow, ...]:
    """Rate and time of one sample; a model has one time, no distribution."""
    left_out = [layer.name for layer in found.timing.layers if layer.where == "SW" and layer.seconds is None]
    missing = f"without {len(left_out)} layers in software ({', '.join(left_out[:3])}{', …' if left_out[3:] else ''})"
    mixed = counted_as_int8(found.network, device)
    how = "; ".join(([missing] if left_out else []) + ([mixed] if mixed else []) + [error_text(found.error)])
    busy = found.fps_multi_thread
    rate = "one sample at a time" if busy is None else f"one sample at a time, {busy:.4g} 1/s with all cores busy"
    return (
        DesignRow("fps", found.fps, "1/s", Source.MODELLED, f"{rate}; {how}; {found.error.fitted}"),
        DesignRow("latency_p50_ms", found.seconds * 1e3, "ms", Source.MODELLED, f"one time, no distribution; {how}"),
    )


def _configuration(device: Device) -> tuple[DesignRow, ...]:
    if isinstance(device, DpuConfig):
        why = f"a DPU has no such threads: {device.arch.peak_ops_per_cycle} operations a cycle in each core"
        return (
            _dpu_clock(device),
            DesignRow("conv_threads", None, "", Source.PUBLISHED, why),
            DesignRow("fc_threads", None, "", Source.PUBLISHED, why),
        )
    fitted = device.clock_source == "fitted"
    clock = Source.MODELLED if fitted else Source.PUBLISHED
    return (
        DesignRow("clock_mhz", device.clock_mhz, "MHz", clock, "fitted on a published rate" if fitted else device.name),
        DesignRow("conv_threads", float(device.conv_threads), "", Source.PUBLISHED, device.name),
        DesignRow("fc_threads", float(device.fc_threads), "", Source.PUBLISHED, device.name),
    )


def _dpu_clock(device: DpuConfig) -> DesignRow:
    """Published where it is the board's usual one; else what the lab file says, which no source backs."""
    usual = dpu_config(device.arch.name, None, device.cores, device.board.name).clock_mhz
    if device.clock_mhz == usual:
        return DesignRow("clock_mhz", device.clock_mhz, "MHz", Source.PUBLISHED, str(device))
    return DesignRow("clock_mhz", device.clock_mhz, "MHz", Source.MODELLED, f"as targets.yaml gives it; {device}")


def _resources(shares: Iterable[ResourceShare], device: Device) -> list[DesignRow]:
    rows = []
    for share in shares:
        if share.name in _SHARES:
            source = Source.PUBLISHED if share.origin == "published" else Source.MODELLED
            scaled = "" if share.origin == "published" else "; scaled from the published figure"
            unknown = "" if share.percent is not None else "; the device's total is not published"
            cores = (
                f" ({device.cores} times one core's on a ZCU102)" if isinstance(device, DpuConfig) and scaled else ""
            )
            note = f"{share.count:,g} {share.name}{scaled}{cores}{unknown}; {share.source}"
            rows.append(DesignRow(_SHARES[share.name], share.percent, "percent", source, note))
    return rows
