"""Bring a lost board back: reconnect → restart its agent → reboot → power cycle → watch it boot, else quarantine.

Every step runs within its own time and is recorded; a step that the board has no means for is skipped with the reason.
So is one that cannot help: nothing over the network mends a kernel whose console shows that it has stopped, and a board
whose SSH server just did not answer is not rebooted through it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import QuantrigError, TimedOut, Unreachable
from harness.record.target import RecoveryStep
from harness.targets.console.explain import Prognosis

DONE, FAILED, TIMED_OUT, SKIPPED = "done", "failed", "timed out", "skipped"
RECONNECT, RESTART, REBOOT = "reconnect", "restart agent", "reboot"
CYCLE, WATCH, QUARANTINE = "power cycle", "watch console", "quarantine"

#: How often a step looks whether the run was stopped, s.
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Means:
    """What can be done for one board. Each callable returns a line about what it did and raises on failure.

    Args:
        reconnect: reach the agent within so many seconds, trying again until then.
        restart_agent: over SSH; None: no means. So are the next three.
        reboot: over SSH.
        power_cycle: takes the board's power and gives it back.
        mark_boot: called before a reboot or power cycle, so that no word of the boot is missed.
        watch_boot: the console until the login prompt, for so many seconds at most.
        quarantine: sets the board aside for the reason given.
        prognosis: what its console says of its kernel by now.
        absent: for each step without means, why, e.g. {"power cycle": "no `power:` in targets.yaml"}.
    """

    reconnect: Callable[[float], str]
    quarantine: Callable[[str], str]
    absent: dict[str, str]
    restart_agent: Callable[[], str] | None = None
    reboot: Callable[[], str] | None = None
    power_cycle: Callable[[], str] | None = None
    mark_boot: Callable[[], None] | None = None
    watch_boot: Callable[[float], str] | None = None
    prognosis: Callable[[], Prognosis | None] = lambda: None

    @property
    def any(self) -> bool:
        """Whether anything but waiting can be done."""
        return not (self.restart_agent is None and self.reboot is None and self.power_cycle is None)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each step may take, s.

    Args:
        link_s: a board that only lost its link for a moment; that it is lost took up to 30 s to notice already.
        agent_s: from a restarted agent to its answer; Python on a slow SD card or a busy board takes many of them, and
            what comes next, a reboot, is worse than a wait.
        ssh_s: one command over SSH; a login to a hung board alone takes this long to fail.
        power_s: a power cycle.
        boot_s: from power or reboot to an agent that answers.
    """

    link_s: float = 10.0
    agent_s: float = 60.0
    ssh_s: float = 60.0
    power_s: float = 200.0
    boot_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Climb:
    """How an attempt to bring a board back ended.

    Args:
        recovered: its agent answers again.
        stopped: the user ended the attempt.
        steps: everything that was done or skipped, in order.
    """

    recovered: bool
    stopped: bool
    steps: tuple[RecoveryStep, ...]

    @property
    def sentence(self) -> str:
        """In one line, e.g. "recovered by power cycle after 21.3 s"."""
        taken = sum(step.seconds for step in self.steps)
        done = [step.name for step in self.steps if step.outcome == DONE]
        if self.recovered:
            deeds = [name for name in done if name in {RESTART, REBOOT, CYCLE}]
            return f"recovered by {deeds[-1] if deeds else RECONNECT} after {taken:.1f} s"
        tried = ", ".join(f"{step.name}: {step.outcome}" for step in self.steps if step.outcome != SKIPPED)
        return f"not recovered within {taken:.1f} s ({tried})"


def climb(
    means: Means,
    reason: str,
    *,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
    on_step: Callable[[RecoveryStep], None] | None = None,
) -> Climb:
    """Climb until the board answers or nothing is left.

    Args:
        means: what can be done.
        reason: the failure that began it; kept with a quarantine.
        limits: of the steps.
        stop: ends the climb after the step at hand; a power cycle under way is finished first.
        on_step: told of each step as it ends.
    """
    return _Climber(means, limits or Limits(), stop or threading.Event(), on_step).climb(reason)


class _Climber:
    def __init__(
        self,
        means: Means,
        limits: Limits,
        stop: threading.Event,
        on_step: Callable[[RecoveryStep], None] | None,
    ) -> None:
        self._means = means
        self._limits = limits
        self._stop = stop
        self._on_step = on_step
        self._steps: list[RecoveryStep] = []
        self._silent = ""  # why SSH is no way to the board, once it was tried

    def climb(self, reason: str) -> Climb:
        means, limits = self._means, self._limits
        if self._answers_by_itself():
            return self._end(recovered=True)
        if self._deed(RESTART, means.restart_agent, limits.ssh_s) and self._reconnect(limits.agent_s):
            return self._end(recovered=True)
        for name, deed, limit_s in (
            (REBOOT, means.reboot, limits.ssh_s),
            (CYCLE, means.power_cycle, limits.power_s),
        ):
            if means.mark_boot is not None and deed is not None and not self._hopeless(name):
                means.mark_boot()
            if not self._deed(name, deed, limit_s):
                continue
            if self._reconnect(limits.boot_s if self._booted() else limits.link_s):
                return self._end(recovered=True)
        if not self._stop.is_set():
            tried = "; ".join(f"{step.name} {step.outcome}" for step in self._steps if step.outcome != SKIPPED)
            self._step(QUARANTINE, lambda: means.quarantine(f"{reason} (tried: {tried})"), limits.ssh_s)
        return self._end(recovered=False)

    def _end(self, *, recovered: bool) -> Climb:
        return Climb(recovered, self._stop.is_set() and not recovered, tuple(self._steps))

    def _answers_by_itself(self) -> bool:
        """The first look: a link that was gone for a moment, or a board that starts already."""
        means, limits = self._means, self._limits
        found = means.prognosis()
        if found is None:
            return self._reconnect(limits.link_s)
        if means.mark_boot is not None:
            means.mark_boot()
            found = means.prognosis()  # a prompt that came meanwhile is before the mark
        if found is None:
            return self._reconnect(limits.agent_s)
        if not found.boots and means.power_cycle is not None:
            self._note(RECONNECT, 0.0, SKIPPED, found.sentence)
            return False
        # Without power, a hardware watchdog may still reset a kernel that has stopped.
        return self._reconnect(limits.boot_s if self._booted() else limits.link_s)

    def _hopeless(self, name: str) -> str:
        """Why a step over SSH would be lost time; "" where it is worth a try."""
        if name not in {RESTART, REBOOT}:
            return ""
        found = self._means.prognosis()
        if found is not None and not found.boots:
            return found.sentence
        return self._silent if self._means.power_cycle is not None else ""

    def _reconnect(self, limit_s: float) -> bool:
        # the callable keeps the time itself; the margin is for a call that does not
        return self._step(RECONNECT, lambda: self._means.reconnect(limit_s), limit_s + 15.0)

    def _deed(self, name: str, deed: Callable[[], str] | None, limit_s: float) -> bool:
        if self._stop.is_set():
            return False
        if deed is None:
            self._note(name, 0.0, SKIPPED, self._means.absent.get(name, "no means"))
            return False
        if why := self._hopeless(name):
            self._note(name, 0.0, SKIPPED, why)
            return False
        return self._step(name, deed, limit_s, whole=name == CYCLE)

    def _booted(self) -> bool:
        """Watch the boot; False when the console shows that waiting longer is no use."""
        watch, limit_s = self._means.watch_boot, self._limits.boot_s
        if watch is None:
            self._note(WATCH, 0.0, SKIPPED, self._means.absent.get(WATCH, "no means"))
            return True
        return self._step(WATCH, lambda: watch(limit_s), limit_s + 5.0)

    def _step(self, name: str, act: Callable[[], str], limit_s: float, *, whole: bool = False) -> bool:
        """Run one step on a thread of its own, which is left behind when it takes too long.

        Args:
            whole: not left behind when the run is stopped.
        """
        if self._stop.is_set():
            return False
        begun = time.monotonic()
        result: list[tuple[str, str]] = []

        def work() -> None:
            try:
                result.append((DONE, act()))
            except (Unreachable, TimedOut) as error:
                self._silent = self._silent if name == RECONNECT else f"SSH did not answer just now ({error.message})"
                result.append((FAILED, str(error)))
            except QuantrigError as error:
                result.append((FAILED, str(error)))
            except Exception as error:  # noqa: BLE001 (plug-ins and libraries act here; the next step must come all the same)
                result.append((FAILED, f"{type(error).__name__}: {error}"))

        thread = threading.Thread(target=work, name=f"recovery-{name}", daemon=True)
        thread.start()
        while thread.is_alive() and time.monotonic() - begun < limit_s:
            thread.join(_POLL_S)
            if self._stop.is_set() and not whole:
                break
        seconds = time.monotonic() - begun
        if result:
            outcome, detail = result[0]
        elif self._stop.is_set() and seconds < limit_s:
            outcome, detail = FAILED, "stopped"
        else:
            outcome, detail = TIMED_OUT, f"gave up after {seconds:.0f} s"
            self._silent = self._silent if name == RECONNECT else f"SSH did not answer within {seconds:.0f} s"
        self._note(name, seconds, outcome, detail)
        return outcome == DONE

    def _note(self, name: str, seconds: float, outcome: str, detail: str) -> None:
        step = RecoveryStep(name, time.time() - seconds, round(seconds, 3), outcome, " ".join(detail.split())[:600])
        self._steps.append(step)
        if self._on_step is not None:
            self._on_step(step)
