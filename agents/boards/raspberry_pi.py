"""Raspberry Pi: what the firmware says of throttling, clocks and the Pi 5's rails, beside the kernel's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agents.boards.base import Telemetry
from agents.boards.generic import GenericLinux, LinuxSampler
from agents.boards.mailbox import Firmware
from agents.boards.parse.vcgencmd import BITS, PMIC_TOTAL, Reading, ThrottleWatch, parse_answer
from agents.boards.sources import Sources

_SUPPLY = "proc/device-tree/chosen/power/max_current"


class RaspberryPi(GenericLinux):
    """One Raspberry Pi, or what stands in for one."""

    def sampler(self, interval_s: float = 1.0) -> RaspberryPiSampler:  # noqa: ARG002 - the firmware answers when asked
        """See `agents.boards.base.Board.sampler`."""
        return RaspberryPiSampler(self._sources)

    def details(self) -> Mapping[str, str]:
        """The firmware's version, what the supply says it can give, and throttling since the boot."""
        found = dict(super().details())
        firmware = Firmware(self._sources)
        try:
            bits = parse_answer(firmware.ask("get_throttled")).throttled_bits
            lines = firmware.ask("version").splitlines()
        finally:
            firmware.close()
        version = next((line.removeprefix("version ").split()[0] for line in lines if line.startswith("version ")), "")
        if version:
            found["firmware"] = version
        if bits is not None:
            happened = [name for bit, name in BITS.items() if bits >> 16 & 1 << bit]
            found["throttled_since_boot"] = ", ".join(happened) or "no"
        if (supply_ma := self._supply_ma()) is not None:
            found["supply_ma"] = str(supply_ma)
        return found

    def _supply_ma(self) -> int | None:
        """What the Pi 5's firmware negotiated with the supply: a big-endian cell of the device tree."""
        try:
            cell = self._sources.path(_SUPPLY).read_bytes()
        except OSError:
            return None
        return int.from_bytes(cell, "big") if len(cell) == 4 else None


class RaspberryPiSampler(LinuxSampler):
    """The sensors of a Raspberry Pi.

    Through the device node a question costs some tens of microseconds. Without it each is a process, so only what
    nothing else tells is asked: throttling, the ARM's measured clock, and the rails where there are any.

    Args:
        sources: of the board.
    """

    def __init__(self, sources: Sources) -> None:
        self._firmware = Firmware(sources)
        self._watch = ThrottleWatch()
        self._reading = self._ask("get_throttled")
        # The baseline: bits that stick since before tell nothing of the time we watch.
        self._watch.reasons(self._reading.throttled_bits)
        self._questions = [
            question
            for question in (("get_throttled",), ("measure_clock", "arm"), ("pmic_read_adc",))
            if self._answers(self._ask(*question))
        ]
        if self._firmware.is_node:
            self._questions += [("measure_clock", "core"), ("measure_temp",)]
        super().__init__(sources)

    def sample(self) -> Telemetry:
        """See `agents.boards.base.Sampler.sample`."""
        self._reading = Reading()
        for question in self._questions:
            self._reading = self._reading.merged(self._ask(*question))
        linux, told = super().sample(), self._reading
        arm_mhz = told.clocks_mhz.get("arm", linux.clock_mhz)
        soc = {"soc": told.temperature_c} if told.temperature_c is not None else {}
        total_mw = told.total_power_mw
        return replace(
            linux,
            temperature_c={**linux.temperature_c, **soc},
            power_mw={**linux.power_mw, **told.power_mw},
            total_power_mw=total_mw,
            total_power_rail=PMIC_TOTAL if total_mw is not None else None,
            clock_mhz=arm_mhz,
            clocks_mhz={**linux.clocks_mhz, **told.clocks_mhz},
        )

    def close(self) -> None:
        """Let go of the device node, until the next sample."""
        self._firmware.close()

    def throttle_reasons(self) -> list[str] | None:
        """The firmware's verdict beside the kernel's; None where neither tells."""
        linux, told = super().throttle_reasons(), self._watch.reasons(self._reading.throttled_bits)
        return None if linux is None and told is None else [*(told or []), *(linux or [])]

    def _ask(self, *words: str) -> Reading:
        return parse_answer(self._firmware.ask(*words))

    @staticmethod
    def _answers(reading: Reading) -> bool:
        return not reading.refused and reading != Reading()
