"""What a Raspberry Pi's firmware answers, through `vcgencmd` or its device node: the same text either way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.boards.parse.words import NUMBER

#: One answer, with the name that the documentation's loops print before it: "arm:  frequency(48)=600117184".
_ANSWER = re.compile(
    r"(?:(?P<label>[A-Za-z]\w*):\s*)?(?<![\w.])(?:throttled=(?P<throttled>0x[0-9a-fA-F]{1,8})"
    rf"|temp=(?P<temp>{NUMBER})"
    r"|frequency\((?P<clock>\d{1,9})\)=(?P<hertz>\d{1,15})"
    rf"|volt=(?P<volt>{NUMBER})V)(?![\w.])"
)
_ADC = re.compile(rf"\s*(\w+)_([AV])\s+(current|volt)\((\d+)\)=({NUMBER})([AV])")
_REFUSED = re.compile(r"error=(\d+)(?:\s.*)?")

#: Bits of `get_throttled` (documentation of Raspberry Pi, "vcgencmd", get_throttled): now, and once since the boot.
BITS = {0: "under-voltage", 1: "ARM frequency capped", 2: "throttled", 3: "soft temperature limit"}
_STICKY = 16
_NOW_MASK = 0xF
_STICKY_MASK = _NOW_MASK << _STICKY

#: Ids of clocks in the answer of measure_clock: the ARM cores are 48 up to the Pi 4 and 0 on the Pi 5.
CLOCKS = {48: "arm", 0: "arm", 1: "core", 46: "v3d"}

#: The rails whose current the Pi 5's power chip measures. EXT5V (the input) and BATT have a voltage only.
PMIC_RAILS = frozenset(
    {"3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "DDR_VDDQ", "1V1_SYS"}
    | {"0V8_SW", "VDD_CORE", "3V3_DAC", "3V3_ADC", "0V8_AON", "HDMI"}
)
#: What the sum of those rails is called wherever a total names its rail: it is not the board's input, which nothing
#: measures; the 5 V input's losses and everything fed by 5 V itself (USB, HATs, the fan) are missing.
PMIC_TOTAL = "PMIC rails (without 5V: USB, HAT, fan)"


@dataclass(frozen=True)
class Reading:
    """One answer, or several of one moment; what was not asked is None or missing.

    Attributes:
        throttled_bits: of `get_throttled`.
        temperature_c: of the SoC.
        clocks_mhz: by name; an id without a name is "clock N".
        volts: of `measure_volts` ("measured") and of the power chip's rails.
        amperes: of the power chip's rails.
        refused: the firmware knows no such command.
    """

    throttled_bits: int | None = None
    temperature_c: float | None = None
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    volts: Mapping[str, float] = field(default_factory=dict)
    amperes: Mapping[str, float] = field(default_factory=dict)
    refused: bool = False

    @property
    def power_mw(self) -> dict[str, float]:
        """Current times voltage of every rail that has both."""
        return {rail: self.amperes[rail] * volts * 1e3 for rail, volts in self.volts.items() if rail in self.amperes}

    @property
    def total_power_mw(self) -> float | None:
        """Sum of the power chip's rails (`PMIC_TOTAL`); None unless every one was read."""
        power = self.power_mw
        return sum(power[rail] for rail in PMIC_RAILS) if power.keys() >= PMIC_RAILS else None

    def overlaps(self, other: Reading) -> bool:
        """Whether both tell one thing, so that they are of two moments."""
        return bool(
            (self.throttled_bits is not None and other.throttled_bits is not None)
            or (self.temperature_c is not None and other.temperature_c is not None)
            or self.clocks_mhz.keys() & other.clocks_mhz.keys()
            or self.volts.keys() & other.volts.keys()
            or self.amperes.keys() & other.amperes.keys()
        )

    def merged(self, other: Reading) -> Reading:
        """Both together; `other` wins."""
        return Reading(
            throttled_bits=self.throttled_bits if other.throttled_bits is None else other.throttled_bits,
            temperature_c=self.temperature_c if other.temperature_c is None else other.temperature_c,
            clocks_mhz={**self.clocks_mhz, **other.clocks_mhz},
            volts={**self.volts, **other.volts},
            amperes={**self.amperes, **other.amperes},
            refused=self.refused or other.refused,
        )


def parse_line(line: str) -> Reading | None:
    """One line of an answer; None when the firmware says nothing of the kind."""
    if found := _ADC.fullmatch(line.rstrip()):
        return _channel(found)
    if _REFUSED.fullmatch(line.strip()):
        return Reading(refused=True)
    whole = None
    for answer in _ANSWER.finditer(line):
        reading = _single(answer)
        whole = reading if whole is None else whole.merged(reading)
    return whole


def parse_answer(text: str) -> Reading:
    """A whole answer; lines that say nothing are skipped."""
    whole = Reading()
    for line in text.splitlines():
        if (reading := parse_line(line)) is not None:
            whole = whole.merged(reading)
    return whole


def _single(found: re.Match[str]) -> Reading:
    """One answer; its label names a clock or a voltage where there is one."""
    label, bits, hertz = found["label"], found["throttled"], found["hertz"]
    if bits is not None:
        return Reading(throttled_bits=int(bits, 16))
    if found["temp"] is not None:
        return Reading(temperature_c=float(found["temp"]))
    if hertz is not None:
        number = int(found["clock"])
        return Reading(clocks_mhz={label or CLOCKS.get(number, f"clock {number}"): int(hertz) / 1e6})
    return Reading(volts={label or "measured": float(found["volt"])})


def _channel(found: re.Match[str]) -> Reading | None:
    rail, suffix, kind, _, value, unit = found.groups()
    if suffix != unit or (kind == "current") != (unit == "A"):
        return None
    return Reading(amperes={rail: float(value)}) if unit == "A" else Reading(volts={rail: float(value)})


class ThrottleWatch:
    """The verdict over a series of `throttled=` answers: what is so now, and what happened since the first one."""

    def __init__(self) -> None:
        self._seen: int | None = None

    def reasons(self, bits: int | None) -> list[str] | None:
        """Why the board is throttled in this sample; [] when it is not, None when the firmware did not say.

        A sticky bit counts once, in the first sample that has it: bits that were set before the first sample tell of
        something that happened before.
        """
        if bits is None:
            return None
        before = bits if self._seen is None else self._seen
        self._seen = before | bits
        new = (bits & ~before & _STICKY_MASK) >> _STICKY
        now = bits & _NOW_MASK
        return [
            name if now & 1 << bit else f"{name} since the last sample"
            for bit, name in BITS.items()
            if (now | new) & 1 << bit
        ]
