"""Provision a board: look, say what is to be done, do it, see the agent serve, or go back to the one that did.

Every step can be broken off and done again: what is half made is made anew, what is whole is kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, UserError
from harness.targets.ssh.board_state import BoardState, board_program, read_state
from harness.targets.ssh.bundle import gather
from harness.targets.ssh.claim import Claim
from harness.targets.ssh.install import Installer, Release, plan_release
from harness.targets.ssh.keys import KeyPlan, board_files, make_own, plan_keys
from harness.targets.ssh.layout import Layout, choose_layout
from harness.targets.ssh.report import BoardReport, choose_python
from harness.targets.ssh.rollout import Rollout
from harness.targets.ssh.service import Service, read_report
from harness.targets.ssh.serving import SERVE_TIMEOUT_S, serves
from harness.targets.ssh.session import Session, Tell, open_session
from harness.targets.ssh.units import service_files
from harness.targets.ssh.wheels import choose_wheels

if TYPE_CHECKING:
    from harness.targets.target import Target

#: TLS certificates begin a day in the past; a clock that is further off makes every connection fail.
_CLOCK_SLACK_S = 86_400
#: Told of uploads: file name, its size, bytes of it that are there.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to provision.

    Args:
        dry_run: only say what would be done.
        refresh: ask pip's index again for newer dependencies.
        ca: folder of the lab's authority; None: looked for.
        agent_wheel: a ready wheel of the agent; None: this installation's.
        may_ask: a person is there to type a password.
        serve_timeout_s: bound of the wait for the new agent.
    """

    dry_run: bool = False
    refresh: bool = False
    ca: Path | None = None
    agent_wheel: Path | None = None
    may_ask: bool = False
    serve_timeout_s: float = SERVE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What came of it.

    Args:
        target: name in targets.yaml.
        release: that serves, or would.
        changed: something was done, or would be.
        steps: what, one line each.
        notices: what the user should know.
        folder: of the agent on the board.
        service: who starts it.
        board: its distribution and processor.
        seconds: from the first connection.
        serving_s: from the service's start to serving; None when it was not started.
        log: everything the board said.
    """

    target: str
    release: str
    changed: bool
    steps: tuple[str, ...]
    notices: tuple[str, ...]
    folder: str
    service: str
    board: str
    seconds: float
    serving_s: float | None
    log: str | None

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a line for a person, and the doing."""

    what: str
    do: Callable[[], None]


def provision(
    target: Target,
    wishes: Wishes | None = None,
    *,
    log: Path | None = None,
    tell: Tell = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Provisioned:
    """Install or upgrade the agent on a board over SSH; the board needs no network of its own.

    Args:
        target: entry of the lab file with `ssh:` and an address.
        wishes: None: the usual ones.
        log: everything said is appended there.
        tell: is told each step as it begins, and what the board says.
        progress: is told of uploads: file, its size, bytes there.

    Raises:
        UserError: the target, this machine's certificates, or wheels that do not exist for the board.
        BoardError: the board, or an agent that did not come up (the one before serves again where there was one).
    """
    wishes = wishes if wishes is not None else Wishes()
    begun = time.monotonic()
    with open_session(target, log=log, tell=tell, may_ask=wishes.may_ask) as session:
        job = _look(target, wishes, session, tell, progress)
        steps = job.plan()
        if not wishes.dry_run and steps:
            with job.claim.alone():
                for step in job.plan():
                    tell(step.what)
                    session.log.write("#", step.what)
                    step.do()
        return Provisioned(
            target=target.name,
            release=job.release.name,
            changed=bool(steps),
            steps=tuple(step.what for step in steps),
            notices=(*job.notices, *job.rollout.notices),
            folder=job.layout.folder,
            service=job.layout.kind,
            board=f"{job.report.os or 'Linux'}, {job.python.machine}, Python {'.'.join(map(str, job.python.version))}",
            seconds=round(time.monotonic() - begun, 3),
            serving_s=job.rollout.serving_s,
            log=None if log is None else str(log),
        )


def _look(
    target: Target,
    wishes: Wishes,
    session: Session,
    tell: Tell,
    progress: Progress,
) -> _Job:
    """Everything that can be known without changing the board."""
    assert target.ssh is not None
    report = read_report(session, target.ssh.python)
    python = choose_python(target, report)
    layout = choose_layout(target, report)
    bundle = gather(
        target.name, choose_wheels(target.name, python), runtime_wheel=target.packages.wheel,
        agent_wheel=wishes.agent_wheel, refresh=wishes.refresh, say=tell,
    )  # fmt: skip
    release = plan_release(bundle, python, system_site_packages=target.packages.system_site_packages)
    return _Job(target, wishes, session, report, layout, release, tell, progress)


class _Job:
    """One provisioning: what is wanted, what is there, and the steps between the two."""

    def __init__(
        self, target: Target, wishes: Wishes, session: Session, report: BoardReport,
        layout: Layout, release: Release, tell: Tell, progress: Progress,
    ) -> None:  # fmt: skip
        self.target = target
        self.report = report
        self.python = release.python
        self.layout = layout
        self.release = release
        self.notices: list[str] = []
        self._wishes = wishes
        self._session = session
        self._progress = progress
        self.claim = Claim(session, layout, self.python.executable, target.name)
        self._service = Service(session, layout, self.python.executable)
        self._installer = Installer(session, layout, self.python.executable)
        self._files = {path: (text.encode(), 0o644) for path, text in service_files(target, layout, report).items()}
        if layout.kind == "supervisor":
            self._files[layout.at("run", "supervise.py")] = (board_program("supervise").encode(), 0o644)
        self.rollout = Rollout(
            target, session, layout, release, self._files, serve_timeout_s=wishes.serve_timeout_s, tell=tell
        )

    def plan(self) -> list[Step]:
        """The steps that are left, from what the board is like now.

        Raises:
            UserError: the folder holds something else.
            BoardError: no room, or another lab's board.
        """
        layout, release = self.layout, self.release
        state = read_state(self._session, self.python.executable, layout.folder, layout.sudo, list(self._files))
        if state.exists and state.claim is None and not state.empty:
            raise UserError(
                f"{self.target.name}: {layout.folder} on the board holds something that is not ours; "
                "name another `folder` in `ssh`"
            )
        self._notice()
        keys = plan_keys(self.target, self._wishes.ca, (state.ca, state.certificate, state.key))
        steps = [*self._claim_steps(state), *self._key_steps(keys), *self._release_steps(state)]
        stale = [path for path, (content, _) in self._files.items() if state.files.get(path) != _digest(content)]
        if stale:
            steps.append(Step(f"write {', '.join(stale)}", lambda: self.rollout.write(stale)))
        settled = not steps and state.current == state.accepted == release.name
        if settled and self._serves_already():
            return []
        if state.current != release.name:
            steps.append(Step(f"make {release.name} the current release", lambda: self._installer.switch(release.name)))
        steps.append(
            Step(f"start the agent ({_WHO[layout.kind]}) and wait until it serves", lambda: self.rollout.start(state))
        )
        if state.accepted != release.name:
            steps.append(Step(f"accept {release.name}, keep the one before it", lambda: self.rollout.accept(state)))
        return steps

    def _claim_steps(self, state: BoardState) -> list[Step]:
        steps: list[Step] = []
        if state.claim is None:
            steps.append(Step(f"make {self.layout.folder}", lambda: None))  # done by the lock, which needs it
        former = state.claim.get("former") if state.claim is not None else None
        if state.claim is not None and state.claim.get("kind") not in (None, self.layout.kind):
            former = state.claim  # this run's own claim has not been made yet
        if isinstance(former, dict) and former.get("kind") in _WHO:
            kind = former["kind"]
            old = replace(self.layout, kind=kind, unit=former.get("unit"))
            steps.append(Step(f"end the agent's former service ({_WHO[kind]})", lambda: self._end_former(old)))
        return steps

    def _end_former(self, old: Layout) -> None:
        Service(self._session, old, self.python.executable).forget()
        self.claim.make(settled=True)

    def _key_steps(self, keys: KeyPlan | None) -> list[Step]:
        steps: list[Step] = []
        if keys is None:
            return steps
        made = [f"the lab's authority in {keys.authority}"] * keys.make_authority
        made += [f"this host's certificate in {keys.host}"] * keys.make_host
        if made:
            steps.append(Step(f"make {' and '.join(made)}", lambda: make_own(keys)))
        if keys.issue is not None:
            what = f"issue the board's certificate for {', '.join(keys.names)} ({keys.issue})"
            steps.append(Step(what, lambda: self._send_keys(keys)))
        return steps

    def _release_steps(self, state: BoardState) -> list[Step]:
        release = self.release
        if state.releases.get(release.name):
            return []
        self._installer.check_space(release, state)
        missing = {
            path: digest for path, digest in self.release.bundle.wheels.items() if state.wheels.get(path.name) != digest
        }
        steps: list[Step] = []
        if missing:
            size_mb = sum(path.stat().st_size for path in missing) / 1e6
            words = f"{len(missing)} wheels" if len(missing) > 1 else next(iter(missing)).name
            steps.append(
                Step(f"send {words} ({size_mb:.1f} MB)", lambda: self._installer.send(missing, state, self._progress))
            )
        steps.append(Step(f"install release {release.name}", lambda: self._installer.install(release)))
        return steps

    def _notice(self) -> None:
        off_s = abs(self.report.clock_unix_s - time.time())
        self.notices = []
        if off_s > _CLOCK_SLACK_S:
            self.notices.append(f"the board's clock is {off_s / 86400:.0f} days off: set it, or TLS will refuse")
        if self.layout.kind == "supervisor" and not self.report.crontab:
            self.notices.append(
                "our supervisor is started by nothing after a reboot (the board has no cron): provision it again then"
            )

    def _serves_already(self) -> bool:
        if not self._service.running():
            return False
        try:
            serves(self.target)
        except BoardError:
            return False
        return True

    def _send_keys(self, keys: KeyPlan) -> None:
        for name, (content, mode) in board_files(self.target, keys).items():
            self._session.put(content, self.layout.at("tls", name), mode=mode, sudo=self.layout.sudo)


_WHO = {"system": "systemd", "user": "the login's systemd", "supervisor": "our supervisor"}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
