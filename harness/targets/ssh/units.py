"""The agent's service on a board: a hardened systemd unit, a login's own unit, or the settings of our supervisor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.targets.boards import find_board
from harness.targets.ssh.layout import HIDDEN

if TYPE_CHECKING:
    from harness.targets.ssh.layout import Layout
    from harness.targets.ssh.report import BoardReport
    from harness.targets.target import Target

#: Processes and threads: the agent's 32 calls, a network's process with its runtime's threads, twice over.
_TASKS = 1024
#: The rest of memory stays for the board itself; the agent's own limit on each network is lower (docs/security.md).
_MEMORY = "90%"

#: For both kinds: what a service can give up without being root.
_COMMON = f"""NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
TasksMax={_TASKS}
MemoryMax={_MEMORY}
OOMPolicy=continue
"""

#: DynamicUser implies ProtectSystem=strict, PrivateTmp, RemoveIPC; they are written for who reads the unit.
#: Not set: ProtectControlGroups (the agent limits each network's memory with a group of its own, Delegate=),
#: MemoryDenyWriteExecute (CUDA and TensorRT write code), IPAddressDeny (the agent is reached over the network; the
#: networks' processes have no socket but the agent's). ProtectClock: see `_devices`; the clock is out of reach by the
#: capabilities and the system calls that the unit has not.
_SYSTEM = """DynamicUser=yes
StateDirectory=quantrig-agent
StateDirectoryMode=0700
Delegate=memory pids
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectHostname=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


#: Of `_COMMON`, what does not take the right to use sudo away: each of the others implies NoNewPrivileges for a user.
_KEEPS_SUDO = ("UMask=", "TasksMax=", "MemoryMax=", "OOMPolicy=")


def agent_command(target: Target, layout: Layout, *, data: str, tls: str) -> list[str]:
    """The agent's command line on the board.

    Args:
        target: whose board kind it is told.
        layout: of the board.
        data: folder of uploads.
        tls: folder of certificates, used where the address has TLS.
    """
    command = [layout.agent, "serve", "--listen", layout.listen, "--board", target.board, "--data", data]
    if target.via.machine is not None:
        command.append("--emulated")  # the agent itself refuses to time anything
    return [*command, "--tls", tls] if layout.encrypted else command


def service_files(target: Target, layout: Layout, report: BoardReport) -> dict[str, str]:
    """Text of every file that the service consists of, by its path on the board."""
    if layout.kind == "system":
        return {str(layout.unit): system_unit(target, layout, report)}
    if layout.kind == "user":
        return {str(layout.unit): user_unit(target, layout)}
    command = agent_command(target, layout, data=layout.at("data"), tls=layout.at("tls"))
    settings = {"command": [*command, "--exit-on-stdin-eof"]}
    return {layout.at("run", "supervisor.json"): json.dumps(settings, indent=1) + "\n"}


def system_unit(target: Target, layout: Layout, report: BoardReport) -> str:
    """A unit of the whole system: a user that exists only while it runs, and next to nothing to write on.

    Raises:
        UserError: the folder lies where such a user sees nothing.
    """
    if layout.folder.startswith(HIDDEN):
        raise UserError(
            f"{target.name}: {layout.folder} is hidden from the service (ProtectHome, PrivateTmp); "
            "choose a `folder` such as /opt/quantrig-agent, or write `service: user` in `ssh`"
        )
    command = agent_command(target, layout, data="/var/lib/quantrig-agent", tls="${CREDENTIALS_DIRECTORY}")
    credentials = "".join(
        f"LoadCredential={name}:{_literal(layout.at('tls', name))}\n"
        for name in (("ca.pem", "agent.pem", "agent-key.pem") if layout.encrypted else ())
    )
    groups = f"SupplementaryGroups={' '.join(report.groups)}\n" if report.groups else ""
    return (
        _head("Restart=always")
        + f"ExecStart={_line(command)}\n"
        + credentials
        + groups
        + _devices(target)
        + (_SYSTEM if target.settings is None else _for_settings(target))
        + _COMMON
        + "\n[Install]\nWantedBy=multi-user.target\n"
    )


def user_unit(target: Target, layout: Layout) -> str:
    """A unit of the login's own systemd, which may not hide anything from it."""
    command = agent_command(target, layout, data=layout.at("data"), tls=layout.at("tls"))
    common = _COMMON
    if target.settings is not None:  # its tools are started through sudo, by rules that the board's owner writes
        common = "".join(line for line in _COMMON.splitlines(keepends=True) if line.startswith(_KEEPS_SUDO))
    return _head("Restart=always") + f"ExecStart={_line(command)}\n{common}\n[Install]\nWantedBy=default.target\n"


def _for_settings(target: Target) -> str:
    """The same for a board whose settings a run may ask for: root, which owns those files, without any capability.

    Its tools check for root; nothing but the clocks' files (on a Jetson all of /sys, and nvpmodel's own state) can be
    written beside the agent's own folder.
    """
    kind = find_board(target.board)
    if kind is not None and kind.family == "jetson":
        writable = "ReadWritePaths=-/var/lib/nvpmodel\n"
    else:
        writable = "ReadOnlyPaths=/sys /proc/sys\nReadWritePaths=/sys/devices/system/cpu\n"
    lines = _SYSTEM.replace("DynamicUser=yes\n", "User=root\n")
    return lines.replace("ProtectKernelTunables=yes\n", f"ProtectKernelTunables=no\n{writable}")


def _devices(target: Target) -> str:
    """Accelerators' device nodes have many names, guarded by their groups; a board without one needs none.

    ProtectClock implies a device that is allowed, and before systemd 253 that forbids all others
    (systemd/systemd#18142): under JetPack 6 (systemd 249) the accelerator would be gone. So it stands where the devices
    are listed anyway.
    """
    kind = find_board(target.board)
    family = kind.family if kind is not None else ""
    if family == "generic":
        return "PrivateDevices=yes\nProtectClock=yes\n"
    if family == "raspberry-pi":
        return "DevicePolicy=closed\nDeviceAllow=/dev/vcio rw\nDeviceAllow=/dev/vchiq rw\nProtectClock=yes\n"
    return ""


def _head(restart: str) -> str:
    return (
        "# Written by `quantrig targets provision`, which writes it anew; put your changes into a drop-in.\n"
        "[Unit]\nDescription=quantrig agent: runs and measures neural networks\n"
        "After=network-online.target\nWants=network-online.target\nStartLimitIntervalSec=300\nStartLimitBurst=20\n"
        f"\n[Service]\nType=exec\n{restart}\nRestartSec=3\nTimeoutStopSec=20\n"
    )


def _line(command: list[str]) -> str:
    return " ".join(_quoted(word) for word in command)


def _quoted(word: str) -> str:
    """As systemd.service(5) reads it; our words hold no quotes or backslashes, `%` starts a specifier."""
    word = word.replace("%", "%%")
    return f'"{word}"' if " " in word else word


def _literal(path: str) -> str:
    return path.replace("%", "%%")
