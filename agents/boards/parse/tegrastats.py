"""A line of tegrastats, as JetPack 2 to 7 write it.

The line is words; a field is one word or several, and no field says where it ends but by what follows. So the words are
taken one by one, in this order of forms (N a name, n a number, F a frequency):

    date         07-25-2026 09:08:28            skipped
    RAM          RAM n/nMB (lfb nxnMB)          also SWAP (cached nMB) and IRAM n/nkB(lfb nkB)
    cores        CPU [n%@F,off,n%]              also cpu [n%,…]@F of JetPack 2
    load         N n%   N n%@F   N n%@[F,…]     N @F and N @[F,…] without a load; N_FREQ n: megahertz alone
    engine       N off                          switched off
    temperature  N@tC   N@tC/tC                 below absolute zero: the sensor is off
    rail         N n/n   N nmW/nmW[/nmW]        now, mean[, …]
    rest         MTS fg n% bg n%, APE n, and whatever a later version adds: skipped

Of two temperatures or three powers of one sensor the first is taken: it is the reading of now in every version whose
order is documented; the others are averages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agents.boards.parse.words import NUMBER

_NAME = r"[A-Za-z][\w.-]*"
#: A bracketed list is one word, with what hangs on it.
_WORD = re.compile(r"[^\s\[]*\[[^\]\s]*(?:, +[^\]\s]*)*\]\S*|\(lfb [^)]*\)|\(cached [^)]*\)|\S+")
_MEMORY = re.compile(rf"({NUMBER})/({NUMBER})([kMG]?B)(?:\(.*)?", re.IGNORECASE)
_CORES = re.compile(rf"\[([^\]]*)\](?:@({NUMBER}))?")
_CORE = re.compile(rf"({NUMBER})%(?:@({NUMBER}))?")
_LOAD = re.compile(rf"(?:({NUMBER})%)?(?:@(?:({NUMBER})|\[([^\]]*)\]))?")
_TEMPERATURE = re.compile(rf"({_NAME})@({NUMBER}|nan)C(?:/({NUMBER}|nan)C)*")
_RAIL = re.compile(rf"({NUMBER})(mW|W)?(?:/{NUMBER}(?:mW|W)?)+")
_MEBIBYTES = {"kb": 1 / 1024, "mb": 1.0, "gb": 1024.0, "b": 1 / (1 << 20)}

#: What a switched-off Tegra sensor reads is -256 °C; no board works anywhere near.
_SENSOR_OFF_C = -200.0
#: A channel of the power monitor that is wired to nothing.
_NOT_CONNECTED = "NC"
#: Fields whose cut-off value ("RAM 613/39", "GR3D_FREQ 9") must not pass for a rail or a clock.
_NO_RAILS = frozenset({"ram", "swap", "iram", "gr3d_freq", "emc_freq"})


@dataclass(frozen=True)
class Load:
    """One unit's load and clocks.

    Attributes:
        percent: None when the line does not say (AGX Thor's GPU), or the unit is off.
        clocks_mhz: one for each of its clocks (a GPU's clusters); empty without root.
        off: the line calls it off.
    """

    percent: float | None = None
    clocks_mhz: tuple[float, ...] = ()
    off: bool = False


@dataclass(frozen=True)
class TegrastatsLine:
    """What one line says; what it does not say is None or missing.

    Attributes:
        ram_used_mb: RAM, mebibytes (tegrastats' "MB" are 1,048,576 bytes), as `ram_total_mb`.
        cpu: the cores in order; `off` where a core is.
        units: loads of everything else by its name in the line: "GR3D_FREQ", "EMC_FREQ", "NVENC", …
        temperature_c: by zone, as the line spells it; sensors that are off are missing.
        power_mw: by rail, the reading of now; "NC" rails (not connected) are missing.
    """

    ram_used_mb: float | None = None
    ram_total_mb: float | None = None
    swap_used_mb: float | None = None
    swap_total_mb: float | None = None
    iram_used_kb: float | None = None
    iram_total_kb: float | None = None
    cpu: tuple[Load, ...] = ()
    units: Mapping[str, Load] = field(default_factory=dict)
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpu(self) -> Load | None:
        """The 3-D engine, whatever the version calls it."""
        return self.units.get("GR3D_FREQ") or self.units.get("GR3D")

    @property
    def memory_controller(self) -> Load | None:
        """EMC, likewise."""
        return self.units.get("EMC_FREQ") or self.units.get("EMC")


def parse_tegrastats(line: str) -> TegrastatsLine | None:
    """One line; None when nothing in it is tegrastats'."""
    reader = _Reader(line)
    reader.read()
    fields = reader.fields
    if not fields["cpu"] and not reader.power and not reader.temperatures and fields["ram_used_mb"] is None:
        return None
    return TegrastatsLine(
        **fields,  # type: ignore[arg-type]  # each value is of the type of its name
        units=reader.units,
        temperature_c=reader.temperatures,
        power_mw=reader.power,
    )


class _Reader:
    """Takes the words of a line one by one."""

    def __init__(self, line: str) -> None:
        self._words = [word.group() for word in _WORD.finditer(line)]
        self.fields: dict[str, float | tuple[Load, ...] | None] = dict.fromkeys(
            ("ram_used_mb", "ram_total_mb", "swap_used_mb", "swap_total_mb", "iram_used_kb", "iram_total_kb")
        )
        self.fields["cpu"] = ()
        self.units: dict[str, Load] = {}
        self.temperatures: dict[str, float] = {}
        self.power: dict[str, float] = {}

    def read(self) -> None:
        at = 0
        while at < len(self._words):
            word = self._words[at]
            following = self._words[at + 1] if at + 1 < len(self._words) else ""
            if temperature := _TEMPERATURE.fullmatch(word):
                self._temperature(temperature[1], temperature[2])
            elif re.fullmatch(_NAME, word) and following and self._field(word, following):
                at += 1
            at += 1

    def _field(self, name: str, value: str) -> bool:
        """Whether `value` belongs to `name`, and was taken in."""
        kind = name.lower()
        if kind in ("ram", "swap", "iram") and (memory := _MEMORY.fullmatch(value)):
            self._memory(kind, memory)
        elif kind == "cpu" and (cores := _CORES.fullmatch(value)):
            self.fields["cpu"] = tuple(_cores(cores[1], cores[2]))
        elif value == "off":
            self.units[name] = Load(off=True)
        elif (load := _LOAD.fullmatch(value)) and (load[1] or load[2] or load[3] is not None):
            self.units[name] = Load(_share(load[1]), tuple(_clocks(load[2] or load[3] or "")))
        elif kind not in _NO_RAILS and (rail := _RAIL.fullmatch(value)):
            if name != _NOT_CONNECTED:
                self.power[name] = float(rail[1]) * (1000 if rail[2] == "W" else 1)
        elif kind not in _NO_RAILS and kind.endswith("_freq") and re.fullmatch(NUMBER, value):
            self.units[name] = Load(clocks_mhz=(float(value),))
        else:
            return False
        return True

    def _memory(self, kind: str, found: re.Match[str]) -> None:
        unit = _MEBIBYTES[found[3].lower()]
        scale, suffix = (unit * 1024, "kb") if kind == "iram" else (unit, "mb")
        self.fields[f"{kind}_used_{suffix}"] = float(found[1]) * scale
        self.fields[f"{kind}_total_{suffix}"] = float(found[2]) * scale

    def _temperature(self, name: str, reading: str) -> None:
        value = float(reading)
        if value > _SENSOR_OFF_C:  # false for nan too
            self.temperatures[name] = value


def _cores(inside: str, clock: str | None) -> Iterator[Load]:
    """`clock`: of all cores at once, as JetPack 2 has it."""
    for text in inside.split(","):
        if core := _CORE.fullmatch(text.strip()):
            own = core[2] or clock
            yield Load(_share(core[1]), (float(own),) if own else ())
        else:
            yield Load(off=text.strip() == "off")


def _clocks(text: str) -> Iterator[float]:
    for part in text.split(","):
        if re.fullmatch(NUMBER, part.strip()):
            yield float(part)


def _share(text: str | None) -> float | None:
    """A share of time in percent; what cannot be one is unknown."""
    value = float(text) if text is not None else None
    return value if value is not None and 0 <= value <= 100 else None
