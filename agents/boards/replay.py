"""Recorded output of a board, read as samples: what `quantrig-agent telemetry --replay` does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from agents.boards.base import Telemetry
from agents.boards.parse import hwmon, nvidia_smi, platformstats, vcgencmd
from agents.boards.parse.jetson_tools import parse_nvpmodel
from agents.boards.parse.tegrastats import parse_tegrastats
from agents.boards.parse.xdputil import parse_show_dpu
from agents.boards.pi_telemetry import telemetry_of as pi_telemetry
from agents.boards.replay_xilinx import XilinxRecording
from agents.boards.smi_telemetry import telemetry_of as gpu_telemetry
from agents.boards.tegra import telemetry_of as jetson_telemetry

#: A line of a board's tool is a few hundred bytes; what is longer is no such line.
MAX_LINE = 16 << 10

#: Told of a line that says nothing of its format: its number, from 1, and the line.
Complain = Callable[[int, str], None]

#: A recording does not say when it was made.
_NO_TIME_S = 0.0


class Recording(Protocol):
    """A format at work: takes lines, gives samples."""

    def take(self, line: str) -> Iterator[Telemetry] | None:
        """The samples that this line completes; None when it says nothing of the format."""

    def finish(self) -> Iterator[Telemetry]:
        """The sample that was still open at the end."""


class TegrastatsRecording:
    """One line, one sample; what nvpmodel says in between holds no reading."""

    def take(self, line: str) -> Iterator[Telemetry] | None:
        """See `Recording`."""
        if parse_nvpmodel(line).name is not None:
            return iter(())
        found = parse_tegrastats(line)
        return iter([jetson_telemetry(found, _NO_TIME_S)]) if found is not None else None

    def finish(self) -> Iterator[Telemetry]:
        """See `Recording`."""
        return iter(())


class VcgencmdRecording:
    """Answers of vcgencmd: a sample ends where something is told a second time."""

    def __init__(self) -> None:
        self._open: vcgencmd.Reading | None = None
        self._watch = vcgencmd.ThrottleWatch()

    def take(self, line: str) -> Iterator[Telemetry] | None:
        """See `Recording`."""
        found = vcgencmd.parse_line(line)
        if found is None:
            return None
        done: Iterator[Telemetry] = iter(())
        if self._open is not None and self._open.overlaps(found):
            done = self.finish()
        self._open = found if self._open is None else self._open.merged(found)
        return done

    def finish(self) -> Iterator[Telemetry]:
        """See `Recording`."""
        reading, self._open = self._open, None
        if reading is None:
            return iter(())
        return iter([pi_telemetry(reading, self._watch.reasons(reading.throttled_bits), _NO_TIME_S)])


class NvidiaRecording:
    """CSV of nvidia-smi; without a header the fields are those that our own sampler asks for."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = (*nvidia_smi.QUERY, nvidia_smi.REASONS_FIELDS[0])

    def take(self, line: str) -> Iterator[Telemetry] | None:
        """See `Recording`."""
        names = nvidia_smi.parse_header(line)
        if names is not None:
            self._names = names
            return iter(())
        found = nvidia_smi.parse_row(line, self._names)
        return iter([gpu_telemetry(found, _NO_TIME_S)]) if found is not None else None

    def finish(self) -> Iterator[Telemetry]:
        """See `Recording`."""
        return iter(())


_BY_FAMILY: dict[str, Callable[[], Recording]] = {
    "jetson": TegrastatsRecording,
    "raspberry-pi": VcgencmdRecording,
    "xilinx": XilinxRecording,
    "nvidia": NvidiaRecording,
}


def replay(lines: Iterable[str], family: str, complain: Complain) -> Iterator[Telemetry]:
    """The samples of a recording. Empty lines and those that begin with "#" or a prompt ("$ ") say nothing.

    Args:
        lines: of the recording.
        family: whose format it is; one without a format of its own ("generic"): the first line that is known tells.
        complain: told of every line that cannot be read; the rest goes on.
    """
    numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
    told: Iterator[tuple[int, str]] = filter(lambda pair: _tells(pair[1]), numbered)
    recording = _BY_FAMILY[family]() if family in _BY_FAMILY else None
    if recording is None:
        skipped: list[tuple[int, str]] = []
        for number, line in told:
            if (found := family_of_line(line)) is not None:
                recording, told = _BY_FAMILY[found](), itertools.chain([(number, line)], told)
                break
            skipped.append((number, line))
        for number, line in skipped:
            complain(number, line)
        if recording is None:
            return
    for number, line in told:
        samples = recording.take(line) if len(line) <= MAX_LINE else None
        if samples is None:
            complain(number, line)
        else:
            yield from samples
    yield from recording.finish()


def _tells(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#") and not stripped.startswith("$ ")


def family_of_line(line: str) -> str | None:
    """Whose tool prints such a line; None when none that is known."""
    if len(line) > MAX_LINE:
        return None
    if parse_nvpmodel(line).name is not None:
        return "jetson"  # asked first: "NV Power Mode: 25W" reads like a rail, too
    if vcgencmd.parse_line(line) is not None:
        return "raspberry-pi"
    if nvidia_smi.parse_header(line) is not None:
        return "nvidia"
    if platformstats.is_heading(line) or platformstats.is_reading(line) or hwmon.parse_line(line) is not None:
        return "xilinx"
    if line.lstrip().startswith("{") or parse_show_dpu(line) is not None:
        return "xilinx"
    return "jetson" if parse_tegrastats(line) is not None else None
