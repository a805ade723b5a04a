"""The settings of a board that a run may ask for, and how each is read, set and given back.

This is the whole list. A value of the host's only ever chooses among what the board itself offers (a mode of nvpmodel,
a governor of cpufreq): no text of it reaches a command line or a file.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agents.boards.parse.jetson_tools import PowerMode, parse_nvpmodel, parse_power_models
from agents.boards.sources import Sources, read_text
from agents.settings_file import Snapshot

CPUFREQ = "sys/devices/system/cpu/cpu*/cpufreq"
#: A change of the mode, or of every clock, takes a second or two on a Jetson.
_TOOL_S = 30.0


class CannotSet(Exception):
    """It stays as it is; one line with the reason and the remedy."""


class Knob(Protocol):
    """One setting of one board."""

    #: as in the protocol
    name: str
    #: whether a reboot leaves it as it was set
    survives_boot: bool

    def present(self) -> bool:
        """Whether the board has it."""

    def read(self) -> str:
        """What it is now, for people; "" when that cannot be read."""

    def choose(self, asked: str) -> str:
        """The board's own value for what a host asked for.

        Raises:
            CannotSet: the board has none such; the message lists what it has.
        """

    def snapshot(self) -> Snapshot:
        """All that `restore` will need.

        Raises:
            CannotSet: it could not be given back, so it must not be changed.
        """

    def set(self, value: str) -> str:
        """Set it, read it back, and return what it is now; `value` is one that `choose` returned.

        Raises:
            CannotSet: it is not as asked.
        """

    def restore(self, before: Snapshot) -> None:
        """Put back what was; `back` tells whether that succeeded."""

    def back(self, before: Snapshot) -> bool:
        """Whether it is again as it was."""


class Privileged:
    """Vendors' tools that need root: started as root, or through `sudo -n` where the agent is somebody else.

    Args:
        sources: where the tools are.
        euid: of the agent; None: that of this process.
    """

    def __init__(self, sources: Sources, euid: int | None = None) -> None:
        self.sources = sources
        self._euid = os.geteuid() if euid is None else euid

    @property
    def is_root(self) -> bool:
        """Whether no sudo is needed."""
        return self._euid == 0

    def run(self, *command: str) -> str:
        """What the tool said, "" where it is not there or took too long."""
        if not self.is_root and (tool := self.sources.tool(command[0])) is not None and self.sources.tool("sudo"):
            # sudo's own rules decide; they are written for exactly these words.
            return self.sources.run(["sudo", "-n", "--", str(tool), *command[1:]], _TOOL_S) or ""
        return self.sources.run(command, _TOOL_S) or ""

    def remedy(self, *lines: str) -> str:
        """What to do so that it is permitted; `lines`: the tool's words, as sudo's rules write them."""
        if self.is_root:
            return "see the agent's unit (docs/hardware.md, 'Settings')"
        user = _user_name(self._euid)
        commands = []
        for line in lines:
            name, _, rest = line.partition(" ")
            commands.append(f"{self.sources.tool(name) or name} {rest}".strip())
        return (
            "provision the agent anew with these `settings` in targets.yaml, or put "
            f"'{user} ALL=(root) NOPASSWD: {', '.join(commands)}' into /etc/sudoers.d/quantrig on the board"
        )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


class SysfsFiles:
    """Files of the kernel that hold one word each, below folders that a pattern names.

    Args:
        sources: of the board.
        pattern: of the folders.
    """

    def __init__(self, sources: Sources, pattern: str) -> None:
        self._sources = sources
        self._pattern = pattern

    def paths(self, name: str) -> list[Path]:
        """The file of that name in every folder that has one."""
        return [path for path in self._sources.glob(f"{self._pattern}/{name}") if path.is_file()]

    def values(self, *names: str) -> dict[str, str]:
        """Their words, by path below the root."""
        paths = [path for name in names for path in self.paths(name)]
        return {str(path.relative_to(self._sources.root)): read_text(path) for path in paths}

    def write(self, name: str, value: Callable[[Path], str]) -> None:
        """Write into each file of that name what `value` gives for it; "" leaves one as it is.

        Raises:
            CannotSet: the kernel refuses one.
        """
        for path in self.paths(name):
            if not (text := value(path)) or read_text(path) == text:
                continue
            try:
                _write(path, text)
            except OSError as error:
                raise CannotSet(
                    f"{name} cannot be written ({error.strerror}): the agent must be root or own that file; provision "
                    "it anew with these `settings` in targets.yaml"
                ) from None

    def put_back(self, name: str, before: Snapshot) -> None:
        """Write what was there, as far as the kernel takes it; a path that only the snapshot knows is not touched."""
        try:
            self.write(name, lambda path: before.get(str(path.relative_to(self._sources.root)), ""))
        except (CannotSet, ValueError):  # ValueError: not ASCII, as no word of the kernel's is: a damaged file of ours
            return


def _write(path: Path, text: str) -> None:
    """As `echo` does it: no new file, and nothing that waits in a buffer."""
    data = text.encode("ascii")
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


class Governor:
    """cpufreq's governor, of every core."""

    name = "governor"
    survives_boot = False

    def __init__(self, sources: Sources) -> None:
        self._files = SysfsFiles(sources, CPUFREQ)

    def present(self) -> bool:
        """See `Knob.present`."""
        return bool(self._files.paths("scaling_governor"))

    def read(self) -> str:
        """See `Knob.read`."""
        return ", ".join(sorted(set(self._files.values("scaling_governor").values()) - {""}))

    def choose(self, asked: str) -> str:
        """See `Knob.choose`: one that every core offers."""
        offers = [set(text.split()) for text in self._files.values("scaling_available_governors").values()]
        common = sorted(set.intersection(*offers)) if offers else []
        if asked not in common:
            raise CannotSet(f"cpufreq has no governor {asked!r} here: it has {', '.join(common) or 'none'}")
        return asked

    def snapshot(self) -> Snapshot:
        """See `Knob.snapshot`."""
        return self._files.values("scaling_governor")

    def set(self, value: str) -> str:
        """See `Knob.set`."""
        self._files.write("scaling_governor", lambda _: value)
        if (now := self.read()) != value:
            raise CannotSet(f"the governor reads back as {now or 'nothing'}: look at the kernel's log on the board")
        return now

    def restore(self, before: Snapshot) -> None:
        """See `Knob.restore`."""
        self._files.put_back("scaling_governor", before)

    def back(self, before: Snapshot) -> bool:
        """See `Knob.back`."""
        return self._files.values("scaling_governor") == dict(before)


class CpuClocks:
    """Every core at the highest clock that it is allowed: the range of cpufreq made one point."""

    name = "lock_clocks"
    survives_boot = False

    def __init__(self, sources: Sources) -> None:
        self._files = SysfsFiles(sources, CPUFREQ)

    def present(self) -> bool:
        """See `Knob.present`."""
        return bool(self._files.paths("scaling_min_freq"))

    def read(self) -> str:
        """See `Knob.read`."""
        return locked_word(self._files)

    def choose(self, asked: str) -> str:
        """See `Knob.choose`."""
        return asked

    def snapshot(self) -> Snapshot:
        """See `Knob.snapshot`."""
        return self._files.values("scaling_min_freq", "scaling_max_freq")

    def set(self, value: str) -> str:  # noqa: ARG002 - there is one value
        """See `Knob.set`."""
        self._files.write("scaling_min_freq", lambda path: read_text(path.with_name("scaling_max_freq")))
        if (now := self.read()) != "yes":
            raise CannotSet("the clocks still have a range: the kernel keeps scaling_min_freq below scaling_max_freq")
        return now

    def restore(self, before: Snapshot) -> None:
        """See `Knob.restore`; the lower end first, or the upper one may be refused."""
        self._files.put_back("scaling_min_freq", before)
        self._files.put_back("scaling_max_freq", before)

    def back(self, before: Snapshot) -> bool:
        """See `Knob.back`."""
        return self._files.values("scaling_min_freq", "scaling_max_freq") == dict(before)


def locked_word(files: SysfsFiles) -> str:
    """Whether every range of clocks is one point: "yes", "no", or "" where the kernel does not say."""
    low = files.values("scaling_min_freq")
    high = {
        name.replace("scaling_max_freq", "scaling_min_freq"): v for name, v in files.values("scaling_max_freq").items()
    }
    known = [value == high[name] for name, value in low.items() if value and high.get(name)]
    return ("yes" if all(known) else "no") if known else ""


class NvpModel:
    """A Jetson's power mode. nvpmodel keeps it over a reboot, so it is given back after one as well."""

    name = "power_mode"
    survives_boot = True

    def __init__(self, tools: Privileged) -> None:
        self._tools = tools

    def present(self) -> bool:
        """See `Knob.present`."""
        return self._tools.sources.tool("nvpmodel") is not None

    def read(self) -> str:
        """See `Knob.read`."""
        mode = self._mode()
        return mode.name or ("" if mode.number is None else str(mode.number))

    def choose(self, asked: str) -> str:
        """See `Knob.choose`: the mode's number, of its name or its number in /etc/nvpmodel.conf."""
        known = parse_power_models(self._tools.sources.text("etc/nvpmodel.conf"))
        for number, name in known.items():
            if asked in (name, str(number)):
                return str(number)
        listed = ", ".join(f"{name} ({number})" for number, name in known.items())
        raise CannotSet(f"nvpmodel has no mode {asked!r} here: it has {listed or 'none that /etc/nvpmodel.conf names'}")

    def snapshot(self) -> Snapshot:
        """See `Knob.snapshot`."""
        number = self._mode().number
        if number is None:
            raise CannotSet("nvpmodel -q does not say the mode of now, so it could not be given back: it is left alone")
        return {"number": str(number)}

    def set(self, value: str) -> str:
        """See `Knob.set`. A mode that needs a reboot asks on a terminal and is not set here."""
        if str(self._mode().number) == value:
            return self.read()
        said = self._tools.run("nvpmodel", "-m", value)
        if str(self._mode().number) == value:
            return self.read()
        if "reboot required" in said.lower():
            raise CannotSet(
                f"mode {value} needs a reboot, which a run does not do: set it once with `sudo nvpmodel -m {value}`"
            )
        raise CannotSet(f"nvpmodel did not set it ({last_line(said)}): {self._tools.remedy('nvpmodel -m [0-9]')}")

    def restore(self, before: Snapshot) -> None:
        """See `Knob.restore`."""
        number = before.get("number", "")
        if number.isascii() and number.isdigit() and len(number) <= 3:
            self._tools.run("nvpmodel", "-m", number)

    def back(self, before: Snapshot) -> bool:
        """See `Knob.back`."""
        return str(self._mode().number) == before.get("number")

    def _mode(self) -> PowerMode:
        return parse_nvpmodel(self._tools.sources.run(["nvpmodel", "-q"]) or "")


def last_line(said: str) -> str:
    """The tool's last words."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:120] if lines else "it said nothing"
