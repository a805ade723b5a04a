"""Start, stop and look at the agent's service on a board; restart it, or the whole board, when a run needs that."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, Offline, UserError
from harness.targets.ssh.layout import UNIT, Layout, choose_layout
from harness.targets.ssh.report import BoardReport, choose_python, parse_report, probe_script
from harness.targets.ssh.session import CommandFailed, Session, open_session

if TYPE_CHECKING:
    from harness.targets.target import Target

#: The agent ends within seconds; a hung one is killed by its supervisor after 15 s, by systemd after 20 s.
STOP_TIMEOUT_S = 45.0
#: In the folder when lingering was our doing, so that it ends with the agent.
_LINGERING = "lingering"


class Service:
    """The agent's service on one board.

    Args:
        session: open.
        layout: of the board.
        python: the board's own interpreter, which the supervisor runs under.
    """

    def __init__(self, session: Session, layout: Layout, python: str) -> None:
        self._session = session
        self._layout = layout
        self._python = python

    def start(self) -> None:
        """Start it, or start it anew; and with every boot of the board."""
        if self._layout.kind == "supervisor":
            self._supervisor("stop")
            self._supervisor("start")
            return
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--quiet", UNIT)
        self._systemctl("reset-failed", UNIT, check=False)
        self._systemctl("restart", UNIT)

    def stop(self) -> None:
        """End it; returns when it has ended. Nothing to stop is good too."""
        if self._layout.kind == "supervisor":
            self._supervisor("stop")
        else:
            self._systemctl("stop", UNIT, check=False)

    def forget(self) -> None:
        """Stop it and take it out of the board's boot."""
        if self._layout.kind == "supervisor":
            self._supervisor("stop")
            self.cron(keep=False)
        else:
            self._systemctl("disable", "--now", "--quiet", UNIT, check=False)
            if self._layout.kind == "user":
                script = '[ ! -f "$1" ] || loginctl disable-linger "$(id -un)"'
                self._session.run(["sh", "-c", script, "sh", self._layout.at(_LINGERING)], check=False, quiet=True)

    def running(self) -> bool:
        """Whether the service is up, the agent in it perhaps not yet."""
        if self._layout.kind == "supervisor":
            return not self._supervise("status", check=False)
        return self._systemctl("is-active", "--quiet", UNIT, check=False) == 0

    def ends(self) -> int:
        """How often its agent has ended by itself so far; only differences mean something."""
        if self._layout.kind == "supervisor":
            command = ["grep", "-c", "the agent ended with status", self._layout.at("run", "agent.log")]
        else:
            scope = ["--user"] if self._layout.kind == "user" else []
            command = ["systemctl", *scope, "show", "-p", "NRestarts", "--value", UNIT]
        said = self._session.run(command, check=False, quiet=True).out.strip()
        return int(said) if said.isdigit() else 0

    def log_tail(self) -> str:
        """The last thing the agent said, one line; "" when it said nothing."""
        if self._layout.kind == "supervisor":
            command = ["tail", "-n", "20", self._layout.at("run", "agent.log")]
        else:
            scope = ["--user"] if self._layout.kind == "user" else []
            command = [*self._layout.sudo, "journalctl", *scope, "-u", UNIT, "-n", "20", "--no-pager", "-o", "cat"]
        said = self._session.run(command, check=False, quiet=True).out.splitlines()
        ours = [line for line in said if "quantrig-agent: " in line or "Error" in line]
        return (ours or said or [""])[-1].strip()

    def cron(self, *, keep: bool) -> bool:
        """With the supervisor: one line `@reboot` in the login's crontab, ours only.

        Returns:
            False where there is a `crontab` that takes no line: busybox has one on boards without cron.
        """
        folder = shlex.quote(self._layout.folder)
        mark = f"# quantrig-agent {self._layout.folder}"
        line = f"@reboot {shlex.quote(self._python)} -I {folder}/run/supervise.py {folder} start {mark}"
        script = (
            'command -v crontab >/dev/null 2>&1 || exit 0; old="$(crontab -l 2>/dev/null)"; '
            'new="$(printf "%s\\n" "$old" | grep -vF -- "$1")"; [ -z "$2" ] || new="$(printf "%s\\n%s" "$new" "$2")"; '
            '[ "$old" = "$new" ] || printf "%s\\n" "$new" | crontab -'
        )
        command = ["sh", "-c", script, "sh", mark, line if keep else ""]
        return self._session.run(command, check=False, quiet=True).status == 0

    def linger(self) -> bool:
        """Let a login's systemd live without a session, and note it where it did not before; whether it does now."""
        script = (
            'user="$(id -un)"; [ "$(loginctl show-user "$user" -p Linger --value 2>/dev/null)" = yes ] && exit 0; '
            'loginctl enable-linger "$user" && : >"$1"'
        )
        command = ["sh", "-c", script, "sh", self._layout.at(_LINGERING)]
        return self._session.run(command, check=False, quiet=True).status == 0

    def _supervisor(self, action: str) -> None:
        if self._supervise(action, check=False):
            raise BoardError(
                self._session.target,
                f"the supervisor on the board did not {action}; see {self._layout.at('run')} there",
            )

    def _supervise(self, action: str, *, check: bool) -> int:
        script = self._layout.at("run", "supervise.py")
        if action != "start":  # nothing there: nothing to stop
            present = self._session.run(["test", "-f", script], check=False, quiet=True)
            if present.status:
                return 0 if action == "stop" else 1
        command = [self._python, "-I", script, self._layout.folder, action]
        return self._session.run(command, timeout_s=STOP_TIMEOUT_S, check=check).status

    def _systemctl(self, *words: str, check: bool = True) -> int:
        scope = ["--user"] if self._layout.kind == "user" else []
        command = [*self._layout.sudo, "systemctl", *scope, *words]
        return self._session.run(command, timeout_s=STOP_TIMEOUT_S, check=check).status


def read_report(session: Session, python: str | None) -> BoardReport:
    """Ask a board what it is.

    Args:
        session: open.
        python: the interpreter that targets.yaml names; None: all that may do.

    Raises:
        UserError: its login has no POSIX shell.
    """
    said = session.run(["sh", "-s"], stdin=probe_script(python).encode(), quiet=True, check=False)
    try:
        return parse_report(said.out)
    except ValueError as error:
        raise UserError(
            f"{session.target}: the login's shell on the board answers nothing we understand ({said.last_words}); "
            "give the user a POSIX shell"
        ) from error


def restart_agent(target: Target, *, log: Path | None = None) -> str:
    """Restart a board's agent over SSH: one rung of recovery.

    Args:
        target: with `ssh:`.
        log: everything said is appended there.

    Returns:
        One line: what was restarted.

    Raises:
        UserError: no `ssh:`, or an agent that was not provisioned.
        BoardError: the board cannot be reached, or its service does not start.
    """
    with open_session(target, log=log) as session:
        report = read_report(session, target.ssh.python if target.ssh is not None else None)
        layout = choose_layout(target, report)
        there = session.run(["test", "-f", layout.at("quantrig.json")], check=False, quiet=True)
        if there.status:
            raise UserError(
                f"{target.name}: no agent of ours in {layout.folder} on the board; "
                f"quantrig targets provision {target.name}"
            )
        Service(session, layout, choose_python(target, report).executable).start()
        return f"restarted the agent in {layout.folder} ({layout.kind})"


def reboot_board(target: Target, *, log: Path | None = None) -> str:
    """Reboot a board over SSH: one rung of recovery. Returns once the board has accepted it.

    Raises:
        UserError: no `ssh:`.
        BoardError: it cannot be reached, or the login may not reboot it.
    """
    with open_session(target, log=log) as session:
        root = session.run(["id", "-u"], quiet=True).out.strip() == "0"
        try:
            # In a moment, so that the answer still comes through.
            script = 'reboot=$(command -v reboot || echo /sbin/reboot); (sleep 1; exec "$reboot") >/dev/null 2>&1 &'
            if not root:
                session.run(["sudo", "-n", "true"], quiet=True)
            session.run([*([] if root else ["sudo", "-n", "--"]), "sh", "-c", script], quiet=True)
        except CommandFailed as error:
            raise BoardError(
                target.name,
                f"the login may not reboot the board ({error.message}); allow it by sudo without a password, "
                "or log in as root",
            ) from error
        except Offline:
            pass  # it went at once
        return "the board was told to reboot"
