"""What a DPUCZDX8G takes of its device: published figures of one core, scaled where they must be and said so."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from harness.emulation.performance.dpu import DpuConfig

DspUsage = Literal["high", "low"]
ResourceName = Literal["LUT", "Register", "BRAM", "DSP"]


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """One kind of resource.

    Args:
        name: LUT, Register, BRAM (of 36 Kbit) or DSP.
        count: of all cores.
        total: of the device; None where no public figure is at hand.
        origin: published: as the source says, of one core on a ZCU102; scaled: of several cores, or on another device.
        source: document, version and table.
    """

    name: ResourceName
    count: float
    total: int | None
    origin: Literal["published", "scaled"]
    source: str

    @property
    def share(self) -> float | None:
        """Of the device, 1 is all of it; more than 1 does not fit."""
        return None if self.total is None else self.count / self.total


@dataclass(frozen=True, slots=True)
class DpuResources:
    """What a DPU takes.

    Args:
        config: the DPU.
        dsp_usage: high: sums are made in DSPs; low: in look-up tables.
        uses: by resource.
        notes: what a reader must know of these figures, one sentence each.
    """

    config: DpuConfig
    dsp_usage: DspUsage
    uses: tuple[ResourceUse, ...]
    notes: tuple[str, ...]

    def use(self, name: ResourceName) -> ResourceUse:
        """That of one resource."""
        return next(use for use in self.uses if use.name == name)


def dpu_resources(config: DpuConfig, dsp_usage: DspUsage = "high") -> DpuResources:
    """What the cores of a DPU take of its board's device.

    One core's figures are PG338's (v1.2, table 9); DSP with low usage equals peak operations / 8 + 2 for every size.

    Args:
        config: as `dpu_config` gives it.
        dsp_usage: of each core.
    """
    row = _table()[config.arch.name, dsp_usage]
    device = config.board.device
    totals: Mapping[ResourceName, int | None] = {
        "LUT": device.lut if device else None,
        "Register": device.register if device else None,
        "BRAM": device.bram if device else None,
        "DSP": device.dsp if device else None,
    }
    columns: Mapping[ResourceName, str] = {"LUT": "lut", "Register": "register", "BRAM": "bram", "DSP": "dsp"}
    origin: Literal["published", "scaled"] = "scaled"
    if config.cores == 1 and config.board.name == "zcu102":
        origin = "published"
    uses = tuple(
        ResourceUse(name, float(row[columns[name]]) * config.cores, totals[name], origin, row["source"])
        for name in totals
    )
    return DpuResources(config, dsp_usage, uses, _notes(config, uses))


def _notes(config: DpuConfig, uses: tuple[ResourceUse, ...]) -> tuple[str, ...]:
    extra = _depthwise()[config.arch.name]
    lut, bram, dsp = (float(extra[name]) * config.cores for name in ("lut", "bram", "dsp"))
    notes = [
        "the table's cores are without depthwise convolution, average pooling, ReLU6 and LeakyReLU; depthwise "
        f"convolution takes {lut:g} LUT, {bram:g} block RAMs and {dsp:g} DSP more ({extra['source']})"
    ]
    if config.cores > 1:
        notes.append(f"{config.cores} cores are counted as {config.cores} times one; synthesis shares a little")
    block_rams = next(use for use in uses if use.name == "BRAM")
    if block_rams.share is not None and block_rams.share > 1:
        device = config.board.device
        notes.append(
            f"{block_rams.count:g} block RAMs do not fit into {device.name if device else 'the device'}: "
            "part of the buffers lies in UltraRAM there, which the table does not count"
        )
    return tuple(notes)


@functools.cache
def _table() -> Mapping[tuple[str, str], Mapping[str, str]]:
    return {(row["arch"], row["dsp_usage"]): row for row in _rows("dpu_resources.csv")}


@functools.cache
def _depthwise() -> Mapping[str, Mapping[str, str]]:
    return {row["arch"]: row for row in _rows("dpu_features.csv") if row["feature"] == "depthwise"}


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("harness.emulation.performance").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
