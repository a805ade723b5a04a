"""What can be done for a board that is lost, from its entry in targets.yaml."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, UserError
from harness.targets.connect import connect
from harness.targets.console.explain import Prognosis, prognosis
from harness.targets.errors_map import CallCancelled
from harness.targets.power.control import open_power
from harness.targets.quarantine import quarantine
from harness.targets.recovery import CYCLE, REBOOT, RESTART, WATCH, Limits, Means
from harness.targets.recovery_emulated import restart_emulated_agent, with_lab_key

if TYPE_CHECKING:
    from harness.targets.console.watch import ConsoleWatch
    from harness.targets.target import Target

#: Between two attempts to reach an agent, s. A refused connection fails at once, and a booting board refuses for long.
_AGAIN_S = 0.5


def recovery_means(
    target: Target,
    *,
    work_dir: Path,
    console: ConsoleWatch | None = None,
    stop: threading.Event | None = None,
    since_unix_s: float = 0.0,
) -> Means:
    """The means of a target. Nothing is done or opened yet.

    Args:
        target: an entry of the lab file.
        work_dir: logs of what is done are kept in `work_dir/<target>/`.
        console: the watch of its console that runs already; None where there is none.
        stop: of the run.
        since_unix_s: what the console said before means nothing any more: the board was mended since.
    """
    stop = stop if stop is not None else threading.Event()
    logs = work_dir / target.name
    absent: dict[str, str] = {}
    if target.ssh is None:
        absent |= dict.fromkeys((RESTART, REBOOT), "no `ssh:` in targets.yaml")
    power = None
    if target.power is None:
        absent[CYCLE] = "no `power:` in targets.yaml"
    else:
        try:
            control = open_power(target, log=logs / "power.log", stop=stop)
        except UserError as error:  # a tool that is not installed concerns this rung, not the other targets of the run
            absent[CYCLE] = str(error)
        else:
            if control.can_cycle:
                power = control
            else:
                absent[CYCLE] = "`power:` has no `cycle`, nor both `on` and `off`"
    if console is None:
        absent[WATCH] = "no `console:` in targets.yaml" if target.console is None else "its console could not be opened"
    boots = _Boots(target, console, stop, since_unix_s) if console is not None else None
    return Means(
        reconnect=lambda limit_s: _reconnect(target, work_dir, limit_s, stop),
        quarantine=lambda reason: quarantine(target, reason).sentence,
        absent=absent,
        restart_agent=None if target.ssh is None else lambda: _restart_agent(target, logs),
        reboot=None if target.ssh is None else lambda: _reboot(target, logs),
        power_cycle=None if power is None else power.cycle,
        mark_boot=None if boots is None else boots.mark,
        watch_boot=None if boots is None else boots.watch,
        prognosis=(lambda: None) if boots is None else boots.prognosis,
    )


def recovery_limits(target: Target) -> Limits:
    """How long the steps may take, as far as the target says it."""
    usual = Limits()
    power_s = usual.power_s if target.power is None else 3 * target.power.timeout_s + target.power.wait_s + 5.0
    boot_s = usual.boot_s if target.console is None else target.console.boot_timeout_s
    return replace(usual, power_s=power_s, boot_s=boot_s)


def _reconnect(target: Target, work_dir: Path, limit_s: float, stop: threading.Event) -> str:
    """Reach the agent, again and again until the time is up.

    A refusal is no end either: in front of a booting board a forwarded port takes connections and drops them.
    """
    begun = time.monotonic()
    tries = 0
    while True:
        tries += 1
        try:
            with connect(target, work_dir=work_dir, stop=stop) as client:
                info = client.describe()
            return f"agent {info.agent_version} answered at try {tries}"
        except CallCancelled:
            raise
        except BoardError:
            left_s = limit_s - (time.monotonic() - begun)
            if left_s <= 0 or stop.wait(min(_AGAIN_S, left_s)):
                raise


def _restart_agent(target: Target, logs: Path) -> str:
    from harness.targets.ssh.service import restart_agent  # here, so that paramiko is loaded by who needs it

    if target.via.machine is not None:
        return restart_emulated_agent(target, log=_log(logs))
    return restart_agent(target, log=_log(logs))


def _reboot(target: Target, logs: Path) -> str:
    from harness.targets.ssh.service import reboot_board

    return reboot_board(with_lab_key(target), log=_log(logs))


def _log(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "recovery-ssh.log"


class _Boots:
    """A console watch that remembers where the last deed began."""

    def __init__(self, target: Target, console: ConsoleWatch, stop: threading.Event, since_unix_s: float) -> None:
        self._target = target
        self._console = console
        self._stop = stop
        self._since_unix_s = since_unix_s
        self._since: int | None = None

    def mark(self) -> None:
        self._since = self._console.boot_mark()

    def watch(self, limit_s: float) -> str:
        outcome = self._console.await_boot(limit_s, since=self._since, stop=self._stop)
        if not outcome.reached:
            raise BoardError(self._target.name, outcome.sentence)
        return outcome.sentence

    def prognosis(self) -> Prognosis | None:
        found = prognosis([event for event in self._console.events if event.unix_s >= self._since_unix_s])
        if found is not None and found.boots:
            limit_s = recovery_limits(self._target).boot_s
            # A console may never show a prompt; a boot that began longer ago than one takes is over.
            return found if time.time() - found.unix_s < limit_s else None
        return found
