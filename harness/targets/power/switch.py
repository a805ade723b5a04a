"""What every way to switch power offers; a plug-in gives an object of this shape."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.errors import UserError
from harness.targets.power.values import Action, Power, PowerStatus

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class PowerSwitch(Protocol):
    """Switches one board.

    A plug-in is a callable `(SwitchContext) -> PowerSwitch`, registered in the entry point group `quantrig.power`
    under the name that `power: {tool: NAME}` gives. Its methods raise `BoardError` for a switch that fails and
    `UserError` for wrong options, each one line, and return within the seconds they are given.
    """

    @property
    def abilities(self) -> frozenset[Action]:
        """What it can do. `cycle` means a cycle of its own; without it, off, a wait and on are done in turn."""

    def switch(self, action: Action, timeout_s: float) -> str:
        """Do `on`, `off` or `cycle`, and return what the switch said about it."""

    def status(self, timeout_s: float) -> PowerStatus:
        """Ask for the state; unknown rather than guessed."""


@dataclass(frozen=True, slots=True)
class SwitchContext:
    """What a switch is made from.

    Args:
        target: name in targets.yaml, for errors.
        power: its `power:` entry; `power.options` are the plug-in's.
        base: folder of the lab file; relative paths and commands start there.
        secrets: values taken from the environment so far; whatever is kept or shown has them blanked.
    """

    target: str
    power: Power
    base: Path
    secrets: set[str] = field(default_factory=set)

    def expand(self, text: str) -> str:
        """`text` with `${NAME}` from the environment, remembered as a secret.

        Raises:
            UserError: the variable is not set.
        """

        def value(match: re.Match[str]) -> str:
            found = os.environ.get(match[1])
            if found is None:
                raise UserError(f"{self.target}: power: ${{{match[1]}}} is not set in the environment; export it")
            if found:
                self.secrets.add(found)
            return found

        return _VARIABLE.sub(value, text)

    def blank(self, text: str) -> str:
        """`text` without secrets: those of the environment, and logins written in URLs."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return re.sub(r"(?<=://)[^/\s@]+@", "***@", text)


def text_option(options: Mapping[str, object], name: str) -> str:
    """An option that was checked to be text when the lab file was read."""
    value = options[name]
    assert isinstance(value, str)
    return value


def number_option(options: Mapping[str, object], name: str) -> int:
    """An option that was checked to be a whole number when the lab file was read."""
    value = options[name]
    assert isinstance(value, int)
    return value
