"""What a MathWorks processor takes of its FPGA: the published tables, and scaled figures where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.emulation.performance.processors import PROCESSORS, Processor

ResourceName = Literal["LUT", "BRAM", "DSP"]
#: published: as the source says; interpolated: scaled from the published point of the same data type.
Origin = Literal["published", "interpolated"]

_QUANTIZER_PAGE = "MathWorks, documentation of dlquantizer's validation on an FPGA (resources of the reference designs)"
_BUILD_INFO_PAGE = "MathWorks, dlhdl.Workflow.getBuildInfo, example output"
_DEVICE_PAGE = "MathWorks, 'Estimate Resource Utilization for Custom Processor Configuration' (device totals)"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of resource.

    Args:
        name: LUT (Intel: ALM), BRAM (Xilinx: blocks of 36 Kbit; Intel: M20K), DSP.
        percent: of the device; more than 100 does not fit.
        count: how many.
        total: of the device.
        origin: published or interpolated.
        source: where the figure stands, or from what and how it was scaled.
    """

    name: ResourceName
    percent: float
    count: int
    total: int
    origin: Origin
    source: str


#: Totals of the devices.
_TOTALS: dict[str, dict[ResourceName, int]] = {
    "xczu9eg": {"LUT": 274_080, "BRAM": 912, "DSP": 2_520},
    "Arria 10 SoC": {"LUT": 251_680, "BRAM": 2_131, "DSP": 1_687},
}
_PERCENT: dict[str, dict[ResourceName, float]] = {
    "zcu102_single": {"LUT": 93.198, "BRAM": 63.925, "DSP": 15.595},
    "zcu102_int8": {"LUT": 62.31, "BRAM": 50.11, "DSP": 32.103},
    "arria10soc_single": {"LUT": 37.18, "BRAM": 100.0, "DSP": 16.48},
}
#: Where the source counts too; percentages alone give the count to the nearest whole one.
_COUNTS: dict[str, dict[ResourceName, int]] = {
    "arria10soc_single": {"LUT": 93_578, "BRAM": 2_131, "DSP": 278},
}
_SOURCES = {
    "zcu102_single": f"{_QUANTIZER_PAGE}; totals: {_DEVICE_PAGE}",
    "zcu102_int8": f"{_QUANTIZER_PAGE}; totals: {_DEVICE_PAGE}",
    "arria10soc_single": _BUILD_INFO_PAGE,
}
_NAMES: tuple[ResourceName, ...] = ("LUT", "BRAM", "DSP")


def processor_resources(processor: Processor) -> tuple[Resource, ...]:
    """LUT, BRAM and DSP of a processor.

    Other threads than the published ones are scaled by the number of multipliers (9·conv_threads + fc_threads); block
    RAM is left as it is. There is one published point of each data type, so nothing checks the slope: it overstates
    large processors and understates small ones, whose fixed part (interconnect, scheduler) does not shrink.
    """
    base = PROCESSORS[processor.base]
    same = (processor.conv_threads, processor.fc_threads) == (base.conv_threads, base.fc_threads)
    factor = _multipliers(processor) / _multipliers(base)
    found = []
    for name in _NAMES:
        percent, total, source = _PERCENT[base.name][name], _TOTALS[base.part][name], _SOURCES[base.name]
        if same:
            count = _COUNTS.get(base.name, {}).get(name, round(percent / 100 * total))
            found.append(Resource(name, percent, count, total, "published", source))
            continue
        scale = 1.0 if name == "BRAM" else factor
        scaled = "taken unchanged" if name == "BRAM" else f"x {scale:.3g}, by number of multipliers"
        source = f"{base.name} ({base.conv_threads}/{base.fc_threads} threads), {scaled}; {source}"
        percent *= scale
        found.append(Resource(name, round(percent, 3), round(percent / 100 * total), total, "interpolated", source))
    return tuple(found)


def _multipliers(processor: Processor) -> int:
    return processor.conv_peak + processor.fc_threads
