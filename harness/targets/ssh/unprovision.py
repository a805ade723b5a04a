"""Take the agent away from a board again: all that provisioning made there, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.targets.ssh.board_state import read_state
from harness.targets.ssh.layout import Layout, choose_layout
from harness.targets.ssh.report import choose_python
from harness.targets.ssh.service import Service, read_report
from harness.targets.ssh.session import Session, open_session

if TYPE_CHECKING:
    from harness.targets.target import Target

#: systemd's places of StateDirectory= under DynamicUser= (systemd.exec(5)).
_STATE = ("/var/lib/private/quantrig-agent", "/var/lib/quantrig-agent")


@dataclass(frozen=True, slots=True)
class Unprovisioned:
    """What was removed.

    Args:
        target: name in targets.yaml.
        removed: paths on the board; empty when there was nothing of ours.
        log: everything the board said.
    """

    target: str
    removed: tuple[str, ...]
    log: str | None

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json`."""
        return asdict(self)


def unprovision(
    target: Target,
    *,
    dry_run: bool = False,
    may_ask: bool = False,
    log: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Unprovisioned:
    """Stop the agent and remove its folder, its service, and the directories that were made for them and are empty.

    The lab's certificates on this machine stay.

    Args:
        target: entry of the lab file with `ssh:`.
        dry_run: only say what would be removed.
        may_ask: a person is there to type a password.
        log: everything said is appended there.
        tell: is told what is done.

    Raises:
        UserError: the folder on the board is not ours.
        BoardError: the board cannot be reached, or refuses.
    """
    with open_session(target, log=log, tell=tell, may_ask=may_ask) as session:
        assert target.ssh is not None  # a session is open
        report = read_report(session, target.ssh.python)
        python = choose_python(target, report).executable
        layout = choose_layout(target, report)
        state = read_state(session, python, layout.folder, layout.sudo, ())
        if state.claim is None:
            if state.exists and not state.empty:
                raise UserError(
                    f"{target.name}: {layout.folder} on the board holds something that is not ours; not touched"
                )
            return Unprovisioned(target.name, (), None if log is None else str(log))
        kind = state.claim.get("kind")
        unit = state.claim.get("unit")
        made = [str(one) for one in state.claim.get("made", ())]
        if kind in ("system", "user", "supervisor"):
            layout = Layout(
                layout.folder, kind, layout.sudo, unit if isinstance(unit, str) else None, layout.listen,
                layout.encrypted, layout.port,
            )  # fmt: skip
        doomed = [layout.folder, *([layout.unit] if layout.unit is not None else [])]
        if layout.kind == "system":
            doomed += _STATE
        if not dry_run:
            tell(f"ending the agent ({layout.kind})")
            Service(session, layout, python).forget()
            tell(f"removing {', '.join(doomed)}")
            _remove(session, layout, doomed, made)
        return Unprovisioned(target.name, tuple(doomed), None if log is None else str(log))


def _remove(session: Session, layout: Layout, doomed: list[str], made: list[str]) -> None:
    session.run([*layout.sudo, "rm", "-rf", "--", *doomed], timeout_s=600.0)
    if layout.kind in ("system", "user"):
        scope = ["--user"] if layout.kind == "user" else []
        session.run([*layout.sudo, "systemctl", *scope, "daemon-reload"], check=False)
    parents = [one for one in reversed(made) if one != layout.folder and not one.startswith(f"{layout.folder}/")]
    if parents:  # those that others use by now are not empty and stay
        session.run([*layout.sudo, "rmdir", "--", *parents], check=False, quiet=True)
