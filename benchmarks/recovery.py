"""How long a run takes to bring a lost board back, rung by rung, on an emulated board that is broken on purpose.

The clock starts when the run has noticed the loss (a call that ends at once, or the connection's keepalive after at
most 40 s) and ends when the board's agent answers again. Boots are emulated: no board's own speed is in these figures.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Effort, Result, Row
from harness.errors import BoardError, Offline, UserError
from harness.record.target import RecoveryStep
from harness.runs.rescue import Rescue, watched_console
from harness.targets.connect import connect
from harness.targets.console.explain import prognosis
from harness.targets.qemu_system.board import QemuBoard
from harness.targets.recovery import DONE
from harness.targets.ssh.session import open_session
from harness.targets.target import Target

#: How long the cable is out in the first of the faults.
LINK_DOWN_S = 5.0
SERVING_TIMEOUT_S = 120.0


def link_down(board: QemuBoard) -> None:
    """The network cable is out for a moment."""
    board.fault.link(up=False)
    threading.Timer(LINK_DOWN_S, lambda: board.fault.link(up=True)).start()


def agent_killed(board: QemuBoard) -> None:
    """SIGKILL to the agent; its supervisor starts another by itself."""
    board.fault.kill_agent()


def agent_hangs(board: QemuBoard) -> None:
    """SIGSTOP to the agent: connections are taken and nobody answers; its supervisor notices nothing."""
    on_board(board.target, "kill -STOP $(cat /run/agent.pid)")


def supervisor_broken(board: QemuBoard) -> None:
    """The agent is killed, and what its supervisor starts instead is none."""
    on_board(
        board.target, "printf '#!/bin/sh\\nexec sleep 100000\\n' > /run/quantrig/agent; kill -9 $(cat /run/agent.pid)"
    )


def board_hangs(board: QemuBoard) -> None:
    """The processors stop."""
    board.fault.hang()


def kernel_panics(board: QemuBoard) -> None:
    """Sysrq `c`; the kernel stays where it is."""
    board.fault.panic()


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to break a board, and the step that mends it."""

    words: str
    cause: Callable[[QemuBoard], None]
    mended_by: str


FAULTS = (
    Fault(f"cable out for {LINK_DOWN_S:.0f} s", link_down, "reconnect"),
    Fault("agent killed", agent_killed, "reconnect"),
    Fault("agent hangs", agent_hangs, "restart agent"),
    Fault("agent killed and its supervisor broken", supervisor_broken, "reboot"),
    Fault("kernel panic, seen on the console", kernel_panics, "power cycle"),
    Fault("board hangs", board_hangs, "power cycle"),
)


@dataclass
class Rescued:
    """What bringing a board back took."""

    seconds: float = 0.0
    steps: list[RecoveryStep] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def mended_by(self) -> str:
        """The last step that did something; the reconnection when that was enough."""
        deeds = [
            step.name for step in self.steps if step.outcome == DONE and step.name not in {"reconnect", "watch console"}
        ]
        return deeds[-1] if deeds else "reconnect"


def run(effort: Effort) -> Result:
    """Every fault, each time on a fresh board."""
    try:
        import qemu.qmp  # noqa: F401  (a lab's package)

        taken = {fault: [rescue_from(fault) for _ in range(1 if effort.is_quick else 2)] for fault in FAULTS}
    except ImportError:
        return Result((), ("recovery of lost boards: needs the package qemu.qmp",))
    except UserError as error:
        return Result((), (f"recovery of lost boards: {error}",))
    return Result(tuple(_row(fault, rescues) for fault, rescues in taken.items()))


def _row(fault: Fault, rescues: list[Rescued]) -> Row:
    # A busy machine starts an agent more slowly than a step waits: the next one mends it then, and the row says so.
    steps = ", ".join(sorted({one.mended_by for one in rescues}))
    return Row(
        figure=f"recovery of an emulated board: {fault.words}",
        unit="s",
        ours=tuple(one.seconds for one in rescues),
        note=f"mended by: {steps}",
    )


def rescue_from(fault: Fault) -> Rescued:
    """Start a board, break it, and let a run's own rescue mend it.

    Raises:
        BoardError: it was not mended.
    """
    with tempfile.TemporaryDirectory() as name, QemuBoard(name="rescued") as board:
        return broken_and_mended(board, board.target, fault.cause, Path(name))


def broken_and_mended(board: QemuBoard, target: Target, cause: Callable[[QemuBoard], None], folder: Path) -> Rescued:
    """Break a board that serves, and mend it as a run does.

    Args:
        board: running.
        target: how the run knows it.
        cause: breaks it.
        folder: of logs.

    Raises:
        BoardError: it was not mended.
    """
    rescued = Rescued()
    await_agent(target, folder)
    with watched_console(target, folder, "r-recovery", rescued.words.append) as console:
        rescue = Rescue(target, folder, console, threading.Event(), rescued.words.append, rescued.steps.append)
        cause(board)
        if cause is kernel_panics and console is not None:
            # A run notices by its connection, seconds after the console has shown it.
            console.await_event(lambda events: prognosis(events) is not None, SERVING_TIMEOUT_S)
        begun = time.monotonic()
        rescue.after(Offline(target.name, "the agent stopped answering"), reached=True)
        rescued.seconds = time.monotonic() - begun
    await_agent(target, folder)
    return rescued


def on_board(target: Target, script: str) -> None:
    """Run a shell script on a board."""
    with open_session(target) as session:
        session.run(["sh", "-c", script], quiet=True)


def await_agent(target: Target, folder: Path) -> None:
    """Wait until the board's agent answers.

    Raises:
        BoardError: it did not in time.
    """
    deadline = time.monotonic() + SERVING_TIMEOUT_S
    while True:
        try:
            with connect(target, work_dir=folder) as agent:
                agent.describe()
                return
        except BoardError:
            if time.monotonic() > deadline:
                raise
