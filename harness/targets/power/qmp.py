"""A virtual board's power through QEMU's monitor (QMP), as `-qmp unix:PATH,server=on,wait=off` opens it.

A machine without power is one that is stopped right after a reset: programs, links and devices are gone, and nothing
answers. `off` = stop + system_reset, `on` = cont. The process stays, so that the monitor can switch it on again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, TimedOut, Unreachable, UserError
from harness.targets.power.switch import SwitchContext, text_option
from harness.targets.power.values import Action, PowerState, PowerStatus

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

#: RunState of qapi/run-state.json, as power: a machine that hangs after a panic or an I/O error still has power.
_STATES = {
    "running": PowerState.ON,
    "guest-panicked": PowerState.ON,
    "internal-error": PowerState.ON,
    "io-error": PowerState.ON,
    "watchdog": PowerState.ON,
    "paused": PowerState.OFF,
    "prelaunch": PowerState.OFF,
    "shutdown": PowerState.OFF,
}
#: States that `cont` cannot leave without a reset (qemu: runstate_needs_reset).
_NEED_RESET = frozenset({"shutdown", "internal-error", "guest-panicked"})


class QmpSwitch:
    """One virtual machine."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context
        self._socket = text_option(context.power.options, "socket")

    @property
    def abilities(self) -> frozenset[Action]:
        """On, off and status; a cycle is ours."""
        return frozenset({Action.ON, Action.OFF, Action.STATUS})

    def _talk(self, work: Callable[[QMPClient], Awaitable[str]], timeout_s: float) -> str:
        try:
            from qemu.qmp import ExecuteError, QMPClient, QMPError
        except ImportError:
            raise UserError(
                f"{self._context.target}: power: qmp needs a package: pip install 'quantrig[qmp]'"
            ) from None

        async def session() -> str:
            client = QMPClient(self._context.target)
            client.logger.disabled = True  # it repeats on stderr what comes as an exception
            await client.connect(self._socket)
            try:
                return await work(client)
            finally:
                await client.disconnect()

        target = self._context.target
        try:
            return asyncio.run(asyncio.wait_for(session(), timeout_s))
        except TimeoutError:
            raise TimedOut(
                target, f"power: the monitor {self._name} did not answer within {timeout_s:.0f} s; another program may "
                "hold it: QEMU serves one at a time",
            ) from None  # fmt: skip
        except ExecuteError as error:
            raise BoardError(target, f"power: QEMU refuses: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(
                target, f"power: no monitor answers at {self._name} ({why}); start the machine with -qmp unix:…"
            ) from error

    @property
    def _name(self) -> str:
        return Path(self._socket).name

    def switch(self, action: Action, timeout_s: float) -> str:
        """Stop and reset, or go on."""

        async def off(client: QMPClient) -> str:
            await client.execute("stop")
            await client.execute("system_reset")
            return "stopped and reset"

        async def on(client: QMPClient) -> str:
            if await _run_state(client) in _NEED_RESET:
                await client.execute("system_reset")
            await client.execute("cont")
            return "running"

        return self._talk(on if action is Action.ON else off, timeout_s)

    def status(self, timeout_s: float) -> PowerStatus:
        """From `query-status`; a machine that is not there has no power that could be told."""
        said = self._talk(_run_state, timeout_s)
        return PowerStatus(_STATES.get(said, PowerState.UNKNOWN), said)


async def _run_state(client: QMPClient) -> str:
    answer = await client.execute("query-status")
    return str(answer["status"]) if isinstance(answer, dict) else str(answer)
