"""What nvpmodel, jetson_clocks and /etc/nv_tegra_release say of a Jetson's state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MODE = re.compile(r"(?:NVPM VERB:\s*Current mode:\s*)?NV Power Mode:\s*(\S.*?)\s*")
_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")
_FAMILY = re.compile(r"SOC family:\s*(\S+)\s+Machine:\s*(.*?)\s*")
_CORE = re.compile(r"cpu(\d+):\s+(.*)")
_UNIT = re.compile(r"(GPU|EMC|\w+)\s+(MinFreq=.*)")
_PAIR = re.compile(r"(\w+)=(-?\d{1,15})(?=\s|$)")
_GOVERNOR = re.compile(r"Governor=(\S+)")
_IDLE = re.compile(r"IdleStates:((?:\s+\w+=\d+)*)")
_RELEASE = re.compile(r"#?\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")

#: L4T release → JetPack, the first two numbers of each (NVIDIA's JetPack archive; checked with the releases named in
#: the recorded samples: 36.4 = 6.2, 38.4 = 7.1, 39.2 = 7.2). Only what an L4T release fixes is named.
_JETPACK = {
    (28, 1): "3.1", (28, 2): "3.2", (31, 1): "4.1.1", (32, 1): "4.2", (32, 2): "4.2.1", (32, 3): "4.3",
    (32, 4): "4.4", (32, 5): "4.5", (32, 6): "4.6", (32, 7): "4.6", (34, 1): "5.0", (35, 1): "5.0.2",
    (35, 2): "5.1", (35, 3): "5.1.1", (35, 4): "5.1.2", (35, 5): "5.1.3", (35, 6): "5.1.4",
    (36, 2): "6.0", (36, 3): "6.0", (36, 4): "6.2", (38, 2): "7.0", (38, 4): "7.1", (39, 2): "7.2",
}  # fmt: skip
#: Where a release's third number decides.
_JETPACK_EXACT = {
    "28.2.1": "3.3", "32.2.1": "4.2.2", "32.4.4": "4.4.1", "32.5.1": "4.5.1", "32.7.1": "4.6.1", "36.4.0": "6.1",
    "36.4.3": "6.2", "36.4.4": "6.2.1",
}  # fmt: skip


@dataclass(frozen=True)
class PowerMode:
    """The mode of nvpmodel: its name ("MAXN_SUPER") and its number; what is unknown is None."""

    name: str | None
    number: int | None


@dataclass(frozen=True)
class Clock:
    """One unit's range and clock of now, in MHz; None where not told.

    Attributes:
        online: False for a core that is off.
        idle: whether any idle state is allowed; None where not told.
    """

    minimum_mhz: float | None
    maximum_mhz: float | None
    current_mhz: float | None
    governor: str = ""
    online: bool = True
    idle: bool | None = None

    @property
    def locked(self) -> bool | None:
        """Whether the clock cannot change: its range is one point."""
        if self.minimum_mhz is None or self.maximum_mhz is None:
            return None
        return self.minimum_mhz == self.maximum_mhz


@dataclass(frozen=True)
class JetsonClocks:
    """What `jetson_clocks --show` prints.

    Attributes:
        units: "cpu0", …, "GPU", "EMC".
        mode: of nvpmodel; "" when not told.
    """

    family: str = ""
    machine: str = ""
    mode: str = ""
    units: Mapping[str, Clock] = field(default_factory=dict)

    @property
    def locked(self) -> bool | None:
        """Whether every core that is on, and the GPU, has one clock only; None when the printing has no clock.

        EMC is left out: its range stays open under `jetson_clocks`, which overrides it in another way.
        """
        verdicts = [clock.locked for name, clock in self.units.items() if clock.online and name != "EMC"]
        known = [verdict for verdict in verdicts if verdict is not None]
        return all(known) if known else None


def parse_nvpmodel(text: str) -> PowerMode:
    """The answer of `nvpmodel -q`: the mode's line, then its number alone on a line; warnings may stand before."""
    name, number = None, None
    for line in text.splitlines():
        if found := _MODE.fullmatch(line.strip()):
            name, number = found[1], None
        elif name is not None and number is None and re.fullmatch(r"\s*[0-9]{1,6}\s*", line):
            number = int(line)
    return PowerMode(name, number)


def parse_power_models(text: str) -> dict[int, str]:
    """The modes a board has, of /etc/nvpmodel.conf or of a listing: number → name."""
    return {int(found[1]): found[2] for found in _MODEL.finditer(text)}


def parse_jetson_clocks(text: str) -> JetsonClocks | None:
    """The printing; None when it is none (without root the script only complains)."""
    family = machine = mode = ""
    units: dict[str, Clock] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if found := _FAMILY.fullmatch(stripped):
            family, machine = found.groups()
        elif found := _MODE.fullmatch(stripped):
            mode = found[1]
        elif found := _CORE.fullmatch(stripped):
            units[f"cpu{found[1]}"] = _clock(found[2], 1e3)  # kHz
        elif found := _UNIT.fullmatch(stripped):
            units[found[1]] = _clock(found[2], 1e6)  # Hz
    return JetsonClocks(family, machine, mode, units) if units else None


def parse_release(text: str) -> str | None:
    """L4T of /etc/nv_tegra_release: "# R36 (release), REVISION: 4.3, GCID: …" → "36.4.3"; None when it is not that."""
    found = _RELEASE.search(text)
    return f"{found[1]}.{found[2]}" if found else None


def jetpack_of(l4t: str) -> str | None:
    """The JetPack that this L4T belongs to; None for a release that is not known here."""
    numbers = [int(part) for part in l4t.split(".") if part.isdigit()]
    if len(numbers) < 2:
        return None
    return _JETPACK_EXACT.get(l4t) or _JETPACK.get((numbers[0], numbers[1]))


def _clock(text: str, per_mhz: float) -> Clock:
    pairs = {name: int(value) for name, value in _PAIR.findall(text)}
    governor, idle = _GOVERNOR.search(text), _IDLE.search(text)
    states = [int(value) for _, value in _PAIR.findall(idle[1])] if idle else []

    def mhz(name: str) -> float | None:
        return pairs[name] / per_mhz if name in pairs else None

    return Clock(
        minimum_mhz=mhz("MinFreq"),
        maximum_mhz=mhz("MaxFreq"),
        current_mhz=mhz("CurrentFreq"),
        governor=governor[1] if governor else "",
        online=pairs.get("Online", 1) == 1,
        idle=any(states) if states else None,
    )
