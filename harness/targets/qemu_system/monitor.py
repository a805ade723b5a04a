"""QEMU's monitor, asked one thing at a time: each call opens the socket, asks and closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from harness.errors import BoardError, TimedOut, Unreachable, UserError

#: An answer that needs no work.
ANSWER_S = 10.0


class Monitor:
    """The monitor of one virtual machine.

    Args:
        target: name of the board, for messages.
        socket: as `-qmp unix:PATH` opened it.
    """

    def __init__(self, target: str, socket: Path) -> None:
        self._target = target
        self._socket = socket

    def ask(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = ANSWER_S
    ) -> object:
        """The answer to a command of QMP.

        Raises:
            Unreachable: the emulator has ended.
            TimedOut: it did not answer.
            BoardError: it refuses.
            UserError: the client's package is not installed.
        """
        try:
            from qemu.qmp import ExecuteError, QMPClient, QMPError
        except ImportError:
            raise UserError(f"{self._target}: emulated boards need a package: pip install 'quantrig[qmp]'") from None

        async def session() -> object:
            client = QMPClient(self._target)
            client.logger.disabled = True  # it repeats on stderr what comes as an exception
            await client.connect(str(self._socket))
            try:
                return await client.execute(command, dict(arguments) if arguments is not None else None)
            finally:
                await client.disconnect()

        try:
            return asyncio.run(asyncio.wait_for(session(), timeout_s))
        except TimeoutError:
            raise TimedOut(self._target, f"QEMU did not answer `{command}` within {timeout_s:.0f} s") from None
        except ExecuteError as error:
            raise BoardError(self._target, f"QEMU refuses `{command}`: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(self._target, f"its QEMU does not answer ({why}); was it ended?") from error

    def human(self, line: str, *, timeout_s: float = ANSWER_S) -> str:
        """What the human monitor prints; some things can only be asked there."""
        said = self.ask("human-monitor-command", {"command-line": line}, timeout_s=timeout_s)
        return str(said).replace("\r\n", "\n").strip()

    @property
    def state(self) -> str:
        """RunState of QEMU: running, paused, shutdown and so on."""
        answer = self.ask("query-status")
        return str(answer["status"]) if isinstance(answer, dict) else str(answer)
