"""A network's way to an emulated board, over its emulated network card: ours against paramiko's SFTP to the same board.

Both ends are as a board has them: the agent (mutual TLS, sha256 on both ends) and OpenSSH's server, each in the guest.
What takes the time is the guest's processor at work for the encryption, so ratios say more than rates.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import Effort, Result, Row
from benchmarks.recovery import await_agent, on_board
from benchmarks.uploads import HASHED, PLAIN, Transfer, interleaved, sender
from harness.errors import UserError
from harness.targets.qemu_system.board import QemuBoard

UPLOAD_BYTES = 16_000_000
REPETITIONS = 4
#: On the board's disk, as the agent's own files are.
FOLDER = "/var/lib/quantrig-sftp"


def run(effort: Effort) -> Result:
    """Interleaved transfers of one fresh file each, to one board."""
    size = min(UPLOAD_BYTES, effort.upload_bytes)
    mine = replace(effort, upload_bytes=size, repetitions=2 if effort.is_quick else REPETITIONS)
    try:
        import qemu.qmp  # noqa: F401  (a lab's package)

        taken = _transfers(mine)
    except ImportError:
        return Result((), ("upload to an emulated board: needs the package qemu.qmp",))
    except UserError as error:
        return Result((), (f"upload to an emulated board: {error}",))
    return Result(tuple(_rows(taken, size)))


def _transfers(effort: Effort) -> dict[str, list[Transfer]]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        board = stack.enter_context(QemuBoard(name="uploads"))
        await_agent(board.target, folder)
        on_board(board.target, f"mkdir -p {FOLDER}")
        ssh, emulator = board.ssh, board.machine.pid
        agent: dict[str, object] = {"kind": "agent", "address": board.agent_address, "tls": str(board.tls)}
        senders = {"ours": stack.enter_context(sender(agent, emulator))}
        for label, hashed in ((PLAIN, False), (HASHED, True)):
            sftp: dict[str, object] = {
                "kind": "sftp",
                "port": ssh.port,
                "user": ssh.user,
                "key": str(ssh.key),
                "folder": FOLDER,
                "hashed": hashed,
            }
            senders[label] = stack.enter_context(sender(sftp, emulator))
        return interleaved(senders, folder, effort)


def _rows(taken: dict[str, list[Transfer]], size_bytes: int) -> Iterator[Row]:
    size_mb = size_bytes / 1e6
    for peer in (PLAIN, HASHED):
        yield Row(
            figure=f"upload of {size_mb:.0f} MB to an emulated board, mutual TLS, sha256 on both ends: rate",
            unit="MB/s",
            ours=tuple(size_mb / each.seconds for each in taken["ours"]),
            peer_name=peer,
            peer=tuple(size_mb / each.seconds for each in taken[peer]),
            note="QEMU's speed, not a board's",
        )
