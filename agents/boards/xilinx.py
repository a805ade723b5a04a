"""Zynq UltraScale+ boards of AMD (Xilinx): rails, temperatures of the chip, the DPU and what the logic holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agents.boards.base import Telemetry
from agents.boards.generic import GenericLinux, LinuxSampler
from agents.boards.hwmon import IioTemperatures
from agents.boards.parse.platformstats import TOTAL, parse_platformstats
from agents.boards.parse.xdputil import DpuQuery, parse_show_dpu, parse_xdputil
from agents.boards.parse.xmutil import active_applications
from agents.boards.som import som_total
from agents.boards.sources import Sources, read_text

#: xdputil loads the runtime and opens the device; it answers within a few seconds or hangs with the logic.
_QUERY_TIMEOUT_S = 15.0
_TOOL_TIMEOUT_S = 5.0
_OVERLAYS = "sys/kernel/config/device-tree/overlays/*"


class Xilinx(GenericLinux):
    """One board, or what stands in for one."""

    def __init__(self, kind: str = "kv260", sources: Sources | None = None) -> None:
        super().__init__(kind, sources)
        self._asked: tuple[object, DpuQuery | None] | None = None

    def sampler(self, interval_s: float = 1.0) -> XilinxSampler:  # noqa: ARG002 - files are read when asked
        """See `agents.boards.base.Board.sampler`. The DPU's clock is that of the last `identity`."""
        return XilinxSampler(self._sources, self._asked[1] if self._asked is not None else None)

    def details(self) -> Mapping[str, str]:
        """The DPU's architecture, fingerprint and clock; the state of the logic; the application that is loaded."""
        found = dict(super().details())
        for folder in self._sources.glob("sys/class/fpga_manager/fpga*"):
            found["fpga_manager"] = read_text(folder / "name")
            found["fpga_state"] = read_text(folder / "state")
            break
        listed = self._sources.run(["xmutil", "listapps"], _TOOL_TIMEOUT_S) or ""
        found["application"] = ", ".join(active_applications(listed))
        return {name: text for name, text in (found | _dpu_details(self._dpu())).items() if text}

    def _dpu(self) -> DpuQuery | None:
        """The tool's answer, kept while the logic holds the same: the query loads a runtime and takes seconds."""
        held = (
            [path.name for path in self._sources.glob(_OVERLAYS)],
            [read_text(path) for path in self._sources.glob("sys/class/fpga_manager/fpga*/state")],
        )
        if self._asked is None or self._asked[0] != held or self._asked[1] is None:
            text = self._sources.run(["xdputil", "query"], _QUERY_TIMEOUT_S)
            query = parse_xdputil(text) if text is not None else None
            if query is None:
                query = parse_show_dpu(self._sources.run(["show_dpu"], _QUERY_TIMEOUT_S) or "")
            self._asked = (held, query)
        return self._asked[1]


class XilinxSampler(LinuxSampler):
    """The sensors of a board; platformstats is asked only where the kernel shows no power of its own.

    Args:
        sources: of the board.
        dpu: what is known of the DPU.
    """

    def __init__(self, sources: Sources, dpu: DpuQuery | None) -> None:
        super().__init__(sources)
        self._iio = IioTemperatures(sources)
        clocks = [core.clock_mhz for core in dpu.cores if core.clock_mhz is not None] if dpu is not None else []
        self._dpu_mhz = clocks[0] if clocks else None
        self._command = self._stats_command()

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        linux = super().sample()
        power = dict(linux.power_mw)
        if not power and self._command is not None:
            stats = parse_platformstats(self._sources.run(self._command, _TOOL_TIMEOUT_S) or "")
            power.update(stats.power_mw)
        total_mw, rail = som_total(power)
        clocks = {**linux.clocks_mhz, **({"dpu": self._dpu_mhz} if self._dpu_mhz is not None else {})}
        return replace(
            linux,
            temperature_c={**linux.temperature_c, **self._iio.temperatures()},
            power_mw=power,
            total_power_mw=total_mw,
            total_power_rail=rail,
            clock_mhz=self._dpu_mhz if self._dpu_mhz is not None else linux.clock_mhz,
            clocks_mhz=clocks,
        )

    def _stats_command(self) -> tuple[str, ...] | None:
        """The spelling that this image has; the older one is `xmutil platformstats`."""
        for command in (("xlnx_platformstats",), ("xmutil", "xlnx_platformstats"), ("xmutil", "platformstats")):
            if self._sources.tool(command[0]) is None:
                continue
            if TOTAL in (self._sources.run(command, _TOOL_TIMEOUT_S) or ""):
                return command
        return None


def _dpu_details(query: DpuQuery | None) -> dict[str, str]:
    """Of all cores; equal ones are told once."""
    if query is None or not query.cores:
        return {}
    clocks = dict.fromkeys(f"{core.clock_mhz:g}" for core in query.cores if core.clock_mhz is not None)
    return {
        "dpu_arch": ", ".join(dict.fromkeys(core.arch for core in query.cores if core.arch)),
        "dpu_fingerprint": ", ".join(dict.fromkeys(core.fingerprint for core in query.cores)),
        "dpu_clock_mhz": ", ".join(clocks),
        "dpu_cores": str(len(query.cores)),
        "dpu_ip": query.ip_version,
        "vart": query.vart_version,
    }
