"""The power of one target: whichever way switches it, bounded, and every word of the switch kept."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, UserError
from harness.targets.console.log import TimedLog
from harness.targets.power.command import CommandSwitch
from harness.targets.power.labgrid import LabgridSwitch
from harness.targets.power.qmp import QmpSwitch
from harness.targets.power.snmp import SnmpSwitch
from harness.targets.power.switch import PowerSwitch, SwitchContext
from harness.targets.power.tasmota import TasmotaSwitch
from harness.targets.power.uhubctl import UhubctlSwitch
from harness.targets.power.values import Action, PowerState, PowerStatus
from harness.targets.qemu_system.use import nothing_runs
from harness.targets.state import file_name, state_folder
from harness.yamlfile import one_of

if TYPE_CHECKING:
    from harness.targets.target import Target

#: Where an installed package registers a way to switch power.
GROUP = "quantrig.power"
_SHIPPED: dict[str, Callable[[SwitchContext], PowerSwitch]] = {
    "command": CommandSwitch,
    "qmp": QmpSwitch,
    "labgrid": LabgridSwitch,
    "uhubctl": UhubctlSwitch,
    "snmp": SnmpSwitch,
    "tasmota": TasmotaSwitch,
}


class PowerControl:
    """Switches one target's power and keeps what the switch said.

    Args:
        target: name in targets.yaml.
        switch: what does it.
        context: what the switch was made from.
        log: file for every action with its time, its outcome and the switch's words.
        stop: ends the wait of a cycle early; the power comes back on all the same.
    """

    def __init__(
        self,
        target: str,
        switch: PowerSwitch,
        context: SwitchContext,
        log: Path,
        stop: threading.Event | None = None,
    ) -> None:
        self._target = target
        self._switch = switch
        self._context = context
        self._log = log
        self._stop = stop if stop is not None else threading.Event()

    @property
    def can_cycle(self) -> bool:
        """Whether power can be taken and given back."""
        return Action.CYCLE in self._switch.abilities or self._switch.abilities >= {Action.ON, Action.OFF}

    @property
    def timeout_s(self) -> float:
        """What a whole cycle may take: two switchings, a second try to switch on, and the wait between."""
        return 3 * self._context.power.timeout_s + self._context.power.wait_s

    def on(self) -> str:
        """Switch on; what the switch said.

        Raises:
            BoardError: it failed or did not answer in time.
            UserError: there is no way to switch on, or an option is wrong.
        """
        return self._do(Action.ON)

    def off(self) -> str:
        """Switch off; raises what `on` raises."""
        return self._do(Action.OFF)

    def cycle(self) -> str:
        """Take the power and give it back; raises what `on` raises.

        A switch's own cycle where it has one, else off, a wait, on. Once the power is off, on is tried twice,
        and after Ctrl-C too.
        """
        if Action.CYCLE in self._switch.abilities:
            return self._do(Action.CYCLE)
        if not self.can_cycle:
            raise UserError(f"{self._target}: power: cannot cycle without `cycle`, or `on` and `off`; add them")
        try:
            said = [self._do(Action.OFF)]
            self._stop.wait(self._context.power.wait_s)
        except KeyboardInterrupt:
            self._on_again()
            raise
        said.append(self._on_again())
        return "\n".join(text for text in said if text)

    def _on_again(self) -> str:
        try:
            return self._do(Action.ON)
        except BoardError:
            pass  # it is kept in the log
        try:
            return self._do(Action.ON)
        except BoardError as error:
            remedy = f"the board is without power: quantrig targets power {self._target} on"
            raise type(error)(self._target, f"{error.message}; {remedy}") from error

    def status(self) -> PowerStatus:
        """Whether the board has power, as the switch says; unknown where it cannot tell.

        Raises:
            BoardError: the switch does not answer in time.
            UserError: an option is wrong.
        """
        if Action.STATUS not in self._switch.abilities:
            return PowerStatus(PowerState.UNKNOWN, "there is no way to ask: add `status` to `power:`")
        begun = time.monotonic()
        try:
            found = self._switch.status(self._context.power.timeout_s)
        except (BoardError, UserError) as error:
            self._keep(Action.STATUS, begun, f"failed: {error}", "")
            raise
        self._keep(Action.STATUS, begun, found.state.value, found.detail)
        return PowerStatus(found.state, self._context.blank(" ".join(found.detail.split())))

    def _do(self, action: Action) -> str:
        if action not in self._switch.abilities:
            raise UserError(f"{self._target}: power: no way to switch {action}; add `{action}` to `power:`")
        begun = time.monotonic()
        try:
            said = self._context.blank(self._switch.switch(action, self._context.power.timeout_s))
        except (BoardError, UserError) as error:
            self._keep(action, begun, f"failed: {error}", "")
            raise
        self._keep(action, begun, "done", said)
        return said

    def _keep(self, action: Action, begun: float, outcome: str, said: str) -> None:
        now = time.time()
        with (
            contextlib.suppress(OSError),
            TimedLog(self._log) as log,
        ):  # a full disk must not leave a board without power
            log.write(
                f"{self._target} {action}: {self._context.blank(outcome)} ({time.monotonic() - begun:.1f} s)", now
            )
            for line in self._context.blank(said).splitlines():
                log.write(f"  {line}", now)


def open_power(target: Target, *, log: Path | None = None, stop: threading.Event | None = None) -> PowerControl:
    """The power of a target. Nothing is switched or asked yet.

    Args:
        target: an entry of the lab file.
        log: where the switch's words are kept; None: in the user's state folder.
        stop: ends the wait of a cycle early.

    Raises:
        UserError: it has no `power:`, or names a tool that is not installed.
    """
    power = target.power
    if power is None:
        raise UserError(
            nothing_runs(target)
            or f"{target.name}: no way to switch its power; add `power:` to it in targets.yaml "
            "(docs/console-and-power.md)"
        )
    context = SwitchContext(target.name, power, target.base)
    switch = _factory(target.name, power.method)(context)
    kept = log if log is not None else state_folder("power") / f"{file_name(target.name)}.log"
    return PowerControl(target.name, switch, context, kept, stop)


def _factory(target: str, method: str) -> Callable[[SwitchContext], PowerSwitch]:
    if method in _SHIPPED:
        return _SHIPPED[method]
    found = entry_points(group=GROUP)
    for point in found:
        if point.name == method:
            factory: Callable[[SwitchContext], PowerSwitch] = point.load()
            return factory
    known = sorted({point.name for point in found} | (set(_SHIPPED) - {"command"}))
    raise UserError(f"{target}: power: no tool '{method}' is installed{one_of(method, known)}")
