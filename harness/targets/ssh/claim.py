"""The agent's folder on a board, claimed for one target and held by one provisioning at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.targets.ssh.board_state import board_program

if TYPE_CHECKING:
    from harness.targets.ssh.layout import Layout
    from harness.targets.ssh.session import Session

#: A tiny program of the board's Python: locks the file it is given, says so, and holds it until its input ends.
LOCK = (
    "import fcntl,sys\nf=open(sys.argv[1],'r+b')\ntry: fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n"
    "except BlockingIOError: sys.exit(1)\nprint('locked',flush=True); sys.stdin.read()\n"
)


class Claim:
    """The claim of one target on the folder.

    Args:
        session: open.
        layout: of the board.
        python: the board's own interpreter.
        target: name in targets.yaml.
    """

    def __init__(self, session: Session, layout: Layout, python: str, target: str) -> None:
        self._session = session
        self._layout = layout
        self._python = python
        self._target = target

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Claim the folder, and hold its lock for as long as the connection lives."""
        layout = self._layout
        self.make()
        lock = [*layout.sudo, self._python, "-I", "-c", LOCK, layout.at("quantrig.json")]
        with self._session.holding(lock):
            yield

    def make(self, *, settled: bool = False) -> None:
        """Make the folder and write the claim into it.

        Args:
            settled: the service that a former claim named has ended.
        """
        layout = self._layout
        claim = {"target": self._target, "kind": layout.kind, "unit": layout.unit, "settled": settled}
        others = [] if layout.unit is None else [layout.unit.rpartition("/")[0]]
        self._session.run(
            [*layout.sudo, self._python, "-I", "-", layout.folder, json.dumps(claim), *others],
            stdin=board_program("claim").encode(), quiet=True,
        )  # fmt: skip
