"""What power switching is about, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Command = str | tuple[str, ...]


class Action(StrEnum):
    """What a switch can be asked."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"  # off, a wait, on
    STATUS = "status"


class PowerState(StrEnum):
    """Whether a board has power."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"  # the switch cannot tell, or said something else


@dataclass(frozen=True, slots=True)
class PowerStatus:
    """What a switch says of the power.

    Args:
        state: on, off or unknown.
        detail: why it is unknown, or what else the switch said; one line, "" for nothing.
    """

    state: PowerState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Power:
    """How a board's power is switched: the `power:` of a target.

    Args:
        cycle: a command of this machine, as text or as its words; None where there is none. So are the next three.
        on: its power comes on.
        off: its power goes.
        status: prints `on` or `off`.
        shell: commands are texts for /bin/sh.
        method: "command", or what switches instead: "qmp", "labgrid", or the name of a plug-in.
        options: of that method, as plain data.
        wait_s: between off and on in a cycle.
        timeout_s: of each switching.
    """

    cycle: Command | None = None
    on: Command | None = None
    off: Command | None = None
    status: Command | None = None
    shell: bool = False
    method: str = "command"
    options: Mapping[str, object] = field(default_factory=dict, hash=False)
    wait_s: float = 5.0
    timeout_s: float = 60.0

    def command(self, action: Action) -> Command | None:
        """The command for an action, where there is one."""
        commands = {Action.CYCLE: self.cycle, Action.ON: self.on, Action.OFF: self.off, Action.STATUS: self.status}
        return commands[action]
