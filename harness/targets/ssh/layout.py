"""Where things lie on a board, and who starts the agent there: decided from what the board reports.

FOLDER/quantrig.json   whose this folder is; what unprovisioning looks for before it removes anything
FOLDER/wheels/         of the last release, so that an upgrade sends only what changed
FOLDER/releases/ID/    one environment a release; release.json is written last
FOLDER/current         link to the release that the service starts
FOLDER/accepted        the last release that was seen to serve: what a rollback goes back to
FOLDER/tls/            certificates, readable by the login (or root) only
FOLDER/data/           uploads, unless systemd keeps them for a user of its own
FOLDER/run/            log, lock and settings of the supervisor
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.targets.addresses import Address
from harness.targets.qemu_system.guest import AGENT_PORT

if TYPE_CHECKING:
    from harness.targets.ssh.report import BoardReport
    from harness.targets.target import ServiceKind, Target

UNIT = "quantrig-agent.service"
#: The first with LoadCredential=, by which a user that exists only while the agent runs can read its key (its NEWS).
OLDEST_SYSTEMD = 247
#: What ProtectHome and PrivateTmp of our unit hide from it.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 (refused)
SYSTEM_FOLDER = "/opt/quantrig-agent"
USER_FOLDER = ".local/share/quantrig-agent"


@dataclass(frozen=True, slots=True)
class Layout:
    """One agent's place on one board.

    Args:
        folder: absolute.
        kind: who starts it.
        sudo: words before every command that changes something; empty where the login may do it itself.
        unit: path of the systemd unit; None for the supervisor.
        listen: as `quantrig-agent serve --listen`.
        encrypted: mutual TLS; else only the board itself can connect (a tunnel, a test).
        port: of `listen`.
    """

    folder: str
    kind: ServiceKind
    sudo: tuple[str, ...]
    unit: str | None
    listen: str
    encrypted: bool
    port: int

    def at(self, *parts: str) -> str:
        """A path below the folder."""
        return "/".join((self.folder, *parts))

    @property
    def agent(self) -> str:
        """The agent's command, of whatever release is current."""
        return self.at("current", "venv", "bin", "quantrig-agent")


def choose_layout(target: Target, report: BoardReport) -> Layout:
    """Decide folder and service for a board.

    Raises:
        UserError: `via` is no address the agent could listen on, or `service` asks for what the board lacks.
    """
    ssh = target.ssh
    assert ssh is not None  # a session is open
    if target.via.address is None:
        raise UserError(
            f"{target.name}: `via: {target.via.kind}` is on this machine; to install an agent on the board write "
            f'via: {{address: "{ssh.host}:50443", tls: lab}}'
        )
    address = Address.parse(target.name, target.via.address, tls=target.via.tls)
    if address.path is not None:
        raise UserError(f"{target.name}: a unix socket is not on another machine; write HOST:PORT in `address`")
    wildcard = "[::]" if ":" in address.host else "0.0.0.0"  # noqa: S104 (mutual TLS, or the agent itself refuses)
    if target.via.machine is not None:
        # QEMU forwards a port of this machine's loopback to the board's own.
        listen, port = f"{wildcard}:{AGENT_PORT}", AGENT_PORT
    else:
        listen, port = f"{'127.0.0.1' if address.is_local else wildcard}:{address.port}", address.port
    kind, sudo = _service(target, ssh.service, report)
    of_system = kind != "user" and (report.uid == 0 or bool(sudo))
    default = SYSTEM_FOLDER if of_system else f"{report.home.rstrip('/')}/{USER_FOLDER}"
    units = {"system": "/etc/systemd/system", "user": f"{report.home.rstrip('/')}/.config/systemd/user"}
    return Layout(
        folder=ssh.folder or default,
        kind=kind,
        sudo=sudo,
        unit=f"{units[kind]}/{UNIT}" if kind in units else None,
        listen=listen,
        encrypted=address.tls is not None,
        port=port,
    )


def _service(target: Target, asked: ServiceKind | None, report: BoardReport) -> tuple[ServiceKind, tuple[str, ...]]:
    modern = report.systemd is not None and report.systemd >= OLDEST_SYSTEMD
    hidden = report.python is not None and report.python.executable.startswith(HIDDEN)
    if asked == "supervisor" or (asked is None and hidden and report.uid == 0):
        return "supervisor", ()
    if asked == "user" or (asked is None and report.uid != 0 and (hidden or not (modern and report.sudo))):
        if report.user_systemd:
            return "user", ()
        if asked == "user":
            raise UserError(
                f"{target.name}: the login has no systemd of its own on the board; write `service: supervisor` in `ssh`"
            )
        return "supervisor", ()
    if not modern:
        if asked is None:
            return "supervisor", ()
        found = f"systemd {report.systemd}" if report.systemd is not None else "no systemd"
        raise UserError(
            f"{target.name}: `service: system` needs systemd {OLDEST_SYSTEMD} or newer, the board has {found}; "
            "write `service: supervisor` in `ssh`"
        )
    if hidden and report.python is not None:
        raise UserError(
            f"{target.name}: {report.python.executable} is hidden from a service of the system (ProtectHome, "
            "PrivateTmp); install a Python elsewhere, or write `service: user` in `ssh`"
        )
    if report.uid != 0 and not report.sudo:
        user = (target.ssh.user if target.ssh is not None else None) or "USER"
        raise UserError(
            f"{target.name}: `service: system` needs root and `sudo -n` was refused on the board; put "
            f"'{user} ALL=(root) NOPASSWD: ALL' into /etc/sudoers.d/quantrig there, or write `service: user` in `ssh`"
        )
    return "system", () if report.uid == 0 else ("sudo", "-n", "--")
