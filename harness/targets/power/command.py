"""Power by commands of this host: `power: {on: …, off: …, cycle: …, status: …}`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from harness.errors import UserError
from harness.targets.power.process import run_bounded, succeed
from harness.targets.power.switch import SwitchContext
from harness.targets.power.values import Action, PowerState, PowerStatus

_WORD = re.compile(r"\b(on|off|1|0|true|false|up|down)\b", re.IGNORECASE)
_MEANING = {
    "on": PowerState.ON, "1": PowerState.ON, "true": PowerState.ON, "up": PowerState.ON,
    "off": PowerState.OFF, "0": PowerState.OFF, "false": PowerState.OFF, "down": PowerState.OFF,
}  # fmt: skip


class CommandSwitch:
    """Runs the commands that targets.yaml gives; no shell unless it asks for one."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context

    @property
    def abilities(self) -> frozenset[Action]:
        """The actions that have a command."""
        return frozenset(action for action in Action if self._context.power.command(action) is not None)

    def _words(self, action: Action) -> Sequence[str]:
        given = self._context.power.command(action)
        if given is None:
            raise UserError(f"{self._context.target}: power: no `{action}` command; add one in targets.yaml")
        if self._context.power.shell:
            assert isinstance(given, str)
            return ("/bin/sh", "-c", given)  # a shell expands variables itself
        words = shlex.split(given) if isinstance(given, str) else given
        return [self._context.expand(word) for word in words]

    def switch(self, action: Action, timeout_s: float) -> str:
        """Run the command of `action`; an exit status other than 0 is a failure."""
        words = self._words(action)
        return succeed(self._context, words, run_bounded(self._context, words, timeout_s))

    def status(self, timeout_s: float) -> PowerStatus:
        """What the last line of the `status` command says: on or off in one word of it."""
        words = self._words(Action.STATUS)
        finished = run_bounded(self._context, words, timeout_s)
        said = finished.last_line
        if finished.code:
            return PowerStatus(PowerState.UNKNOWN, f"the status command failed (exit status {finished.code}): {said}")
        return read_state(said)


def read_state(said: str) -> PowerStatus:
    """On or off as a line says it; unknown where it says neither or both."""
    found = {_MEANING[word.lower()] for word in _WORD.findall(said)}
    if len(found) == 1:
        return PowerStatus(found.pop(), said)
    return PowerStatus(PowerState.UNKNOWN, f"neither on nor off in what it said: {said!r}")
