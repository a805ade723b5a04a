"""From installed to serving: the service's files, the start, the wait; and back when the agent does not come up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.errors import BoardError
from harness.targets.addresses import Address
from harness.targets.ssh.install import Installer, Release
from harness.targets.ssh.service import Service
from harness.targets.ssh.serving import NotServing, await_serving

if TYPE_CHECKING:
    from harness.targets.ssh.board_state import BoardState
    from harness.targets.ssh.layout import Layout
    from harness.targets.ssh.session import Session, Tell
    from harness.targets.target import Target


class Rollout:
    """One release on its way into service.

    Args:
        target: entry of the lab file.
        session: open.
        layout: of the board.
        release: to be served.
        files: of the service: path on the board → (content, mode).
        serve_timeout_s: bound of the wait for the new agent.
        tell: is told when it goes back.
    """

    def __init__(
        self,
        target: Target,
        session: Session,
        layout: Layout,
        release: Release,
        files: Mapping[str, tuple[bytes, int]],
        *,
        serve_timeout_s: float,
        tell: Tell,
    ) -> None:
        self.notices: list[str] = []
        self.serving_s: float | None = None
        self._target = target
        self._session = session
        self._layout = layout
        self._release = release
        self._files = files
        self._serve_timeout_s = serve_timeout_s
        self._tell = tell
        self._python = release.python.executable
        self._service = Service(session, layout, self._python)
        self._installer = Installer(session, layout, self._python)
        self._replaced: dict[str, bytes | None] = {}

    def write(self, paths: Sequence[str]) -> None:
        """Write these of the service's files; what was there is remembered."""
        for path in paths:
            content, mode = self._files[path]
            there = self._session.run([*self._layout.sudo, "cat", path], check=False, quiet=True)
            self._replaced[path] = there.out.encode() if there.status == 0 else None
            self._session.put(content, path, mode=mode, sudo=self._layout.sudo)

    def start(self, state: BoardState) -> None:
        """Start the agent and wait until it serves.

        Raises:
            BoardError: it does not, or cannot be reached; the release before it serves again where there was one.
        """
        try:
            self.serving_s = round(self._start_and_wait(), 3)
        except BoardError as error:
            if isinstance(error, NotServing) and not error.reached and self._listens():
                address = Address.parse(self._target.name, self._target.via.address or "", tls=self._target.via.tls)
                raise BoardError(
                    self._target.name,
                    f"the new agent listens on the board, but this host cannot reach {address.grpc_target}; "
                    "open the port in the board's firewall or correct `address`, then provision again",
                ) from error
            self._roll_back(state, error)

    def accept(self, state: BoardState) -> None:
        """Note that the release serves; keep the one before it, and nothing older."""
        self._installer.accept(self._release.name)
        keep = [self._release.name, *([state.accepted] if state.accepted is not None else [])]
        self._installer.prune(keep, self._release.bundle.wheels, state)
        if self._layout.kind == "user" and not self._service.linger():
            self.notices.append(
                "the agent ends when the login's last session does: run `sudo loginctl enable-linger USER` on the board"
            )

    def _start_and_wait(self) -> float:
        before = self._service.ends()
        self._service.start()
        if self._layout.kind == "supervisor":
            if not self._service.cron(keep=True):
                self.notices.append("the board's crontab takes no line: after a reboot, provision it again")
            before = self._service.ends()  # the old agent's end was written down too
        else:
            before = 0  # systemd counts from this start
        return await_serving(self._target, lambda: self._service.ends() - before, self._serve_timeout_s)

    def _listens(self) -> bool:
        program = "import socket,sys; socket.create_connection(('127.0.0.1',int(sys.argv[1])),5)"
        command = [self._python, "-I", "-c", program, str(self._layout.port)]
        return self._session.run(command, check=False, quiet=True).status == 0

    def _roll_back(self, state: BoardState, error: BoardError) -> None:
        """The release before serves again, or nothing does; always raises."""
        said = self._service.log_tail()
        why = f"the new agent did not come up: {error.message}" + (f"; it said: {said}" if said else "")
        self._tell(f"{why}; going back")
        old = state.accepted
        if old is None or not state.releases.get(old):
            self._service.forget()
            raise BoardError(self._target.name, f"{why}; it is stopped, there is no release before it")
        for path, content in self._replaced.items():
            if content is not None:
                self._session.put(content, path, mode=0o644, sudo=self._layout.sudo)
        self._installer.switch(old)
        try:
            self._start_and_wait()
        except BoardError as second:
            raise BoardError(
                self._target.name, f"{why}; and the one before it ({old}) did not come up either: {second.message}"
            ) from error
        if old != self._release.name:
            self._installer.remove_release(self._release.name)
        raise BoardError(self._target.name, f"{why}; the one before it ({old}) serves again") from error
