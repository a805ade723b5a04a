"""The service's files, read by systemd's own tools where they are; and which service a board gets."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.targets.board_settings import Settings
from harness.targets.ssh.layout import Layout, choose_layout
from harness.targets.ssh.report import BoardPython, BoardReport
from harness.targets.ssh.units import service_files
from harness.targets.target import ServiceKind, Ssh, Target, Via

REPORT = BoardReport(
    machine="aarch64", kernel="6.6", os="Debian", tegra="", uid=1000, home="/home/lab", clock_unix_s=0, systemd=252,
    user_systemd=True, sudo=True, crontab=True, groups=("video", "render"), pythons=(),
)  # fmt: skip
#: Where `uv python install` puts one.
AT_HOME = BoardPython(
    "/home/lab/.local/share/uv/python/cpython-3.10/bin/python3.10", (3, 10, 14), "aarch64", 64, (2, 31), True, True
)


def target(
    board: str = "generic", address: str = "rpi5.lab:50443", tls: Path | None = Path("tls"), **ssh: str
) -> Target:
    login = Ssh("rpi5.lab", **ssh)  # type: ignore[arg-type]
    return Target("rpi5", board, "cpu", Via("address", address, tls), Path("/lab"), ssh=login)


def written(one: Target, report: BoardReport = REPORT) -> tuple[Layout, str]:
    layout = choose_layout(one, report)
    (text,) = service_files(one, layout, report).values()
    return layout, text


@pytest.mark.parametrize(
    ("changes", "kind", "sudo", "folder"),
    [
        ({"uid": 0, "home": "/root"}, "system", (), "/opt/quantrig-agent"),
        ({}, "system", ("sudo", "-n", "--"), "/opt/quantrig-agent"),
        ({"sudo": False}, "user", (), "/home/lab/.local/share/quantrig-agent"),
        ({"sudo": False, "user_systemd": False}, "supervisor", (), "/home/lab/.local/share/quantrig-agent"),
        ({"systemd": None, "user_systemd": False}, "supervisor", (), "/home/lab/.local/share/quantrig-agent"),
        ({"systemd": 245, "uid": 0, "home": "/root"}, "supervisor", (), "/opt/quantrig-agent"),  # no LoadCredential
        ({"systemd": 245}, "user", (), "/home/lab/.local/share/quantrig-agent"),
        # a unit of the system sees no home: its agent would not start
        ({"pythons": (AT_HOME,)}, "user", (), "/home/lab/.local/share/quantrig-agent"),
        ({"pythons": (AT_HOME,), "uid": 0, "home": "/root"}, "supervisor", (), "/opt/quantrig-agent"),
    ],
)
def test_the_service_is_the_best_that_the_board_allows(
    changes: dict[str, object], kind: ServiceKind, sudo: tuple[str, ...], folder: str
) -> None:
    layout = choose_layout(target(), dataclasses.replace(REPORT, **changes))  # type: ignore[arg-type]
    assert (layout.kind, layout.sudo, layout.folder) == (kind, sudo, folder)


@pytest.mark.parametrize(
    ("service", "changes", "words"),
    [
        ("system", {"sudo": False}, "`sudo -n` was refused on the board; put 'USER ALL=(root) NOPASSWD: ALL'"),
        ("system", {"systemd": 245}, "needs systemd 247 or newer, the board has systemd 245"),
        ("system", {"systemd": None}, "the board has no systemd"),
        ("system", {"pythons": (AT_HOME,)}, "bin/python3.10 is hidden from a service of the system (ProtectHome"),
        ("user", {"user_systemd": False}, "no systemd of its own"),
    ],
)
def test_a_service_the_board_cannot_give_is_one_line(service: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        choose_layout(target(service=service), dataclasses.replace(REPORT, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_it_listens_where_hosts_look_for_it() -> None:
    assert choose_layout(target(), REPORT).listen == "0.0.0.0:50443"
    assert choose_layout(target(address="[2001:db8::7]:50444"), REPORT).listen == "[::]:50444"
    assert choose_layout(target(address="127.0.0.1:50445", tls=None), REPORT).listen == "127.0.0.1:50445"  # a tunnel
    with pytest.raises(UserError, match="a unix socket is not on another machine"):
        choose_layout(target(address="unix:/run/agent", tls=None), REPORT)


@pytest.mark.parametrize("board", ["generic", "raspberry-pi-5", "jetson-orin-nano", "zcu104"])
def test_the_systems_unit_is_hardened_as_systemd_itself_judges(board: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    _, text = written(target(board))
    unit = tmp_path / "quantrig-agent.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "quantrig-agent.service" not in checked.stderr, checked.stderr  # an unknown or wrong line is named
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in judged.stderr:
        pytest.skip("systemd-analyze here cannot judge a file")
    assert judged.returncode == 0, judged.stdout.splitlines()[-1:]


def test_what_the_unit_must_say() -> None:
    layout, text = written(target("jetson-orin-nano"))
    lines = text.splitlines()
    for line in (
        "DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes",
        "CapabilityBoundingSet=", "Restart=always", "SupplementaryGroups=video render",
        "LoadCredential=agent-key.pem:/opt/quantrig-agent/tls/agent-key.pem",
    ):  # fmt: skip
        assert line in lines
    assert "PrivateDevices=yes" not in lines  # would hide the accelerator
    # Any of these lists what may be opened; ProtectClock implies one before systemd 253, and JetPack 6 has 249.
    assert not [line for line in lines if line.startswith(("ProtectClock=yes", "DeviceAllow=", "DevicePolicy="))]
    assert "PrivateDevices=yes" in written(target("generic"))[1].splitlines()
    assert layout.unit == "/etc/systemd/system/quantrig-agent.service"
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start == (
        "ExecStart=/opt/quantrig-agent/current/venv/bin/quantrig-agent serve --listen 0.0.0.0:50443 "
        "--board jetson-orin-nano --data /var/lib/quantrig-agent --tls ${CREDENTIALS_DIRECTORY}"
    )


@pytest.mark.parametrize("board", ["raspberry-pi-5", "jetson-orin-nano"])
def test_a_board_with_settings_gets_root_without_capabilities(board: str, tmp_path: Path) -> None:
    wishing = dataclasses.replace(target(board), settings=Settings(lock_clocks=True))
    _, text = written(wishing)
    lines = text.splitlines()
    assert "User=root" in lines
    for kept in ("CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes"):
        assert kept in lines
    assert "DynamicUser=yes" not in lines
    assert "ProtectKernelTunables=yes" not in lines
    jetson = board.startswith("jetson")
    assert ("ReadWritePaths=-/var/lib/nvpmodel" in lines) is jetson  # else nvpmodel cannot note its mode
    assert ("ReadOnlyPaths=/sys /proc/sys" in lines) is not jetson
    if shutil.which("systemd-analyze") is None:
        return
    unit = tmp_path / "quantrig-agent.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "quantrig-agent.service" not in checked.stderr, checked.stderr


def test_a_logins_own_unit_may_use_sudo_only_where_settings_are_asked_for() -> None:
    report = dataclasses.replace(REPORT, sudo=False)
    _, text = written(target(), report)
    assert "NoNewPrivileges=yes" in text.splitlines()
    _, text = written(dataclasses.replace(target(), settings=Settings(governor="performance")), report)
    implying = (
        "NoNewPrivileges",
        "RestrictNamespaces",
        "RestrictSUIDSGID",
        "SystemCallArchitectures",
        "LockPersonality",
    )
    assert not [line for line in text.splitlines() if line.startswith(implying)]
    assert "UMask=0077" in text.splitlines()


def test_a_folder_that_the_service_could_not_see_is_refused() -> None:
    with pytest.raises(UserError, match="is hidden from the service"):
        written(target(folder="/home/lab/agent"))


def test_a_logins_unit_and_the_supervisors_settings() -> None:
    layout, text = written(target(service="user"))
    assert layout.unit == "/home/lab/.config/systemd/user/quantrig-agent.service"
    assert "DynamicUser" not in text
    assert "NoNewPrivileges=yes" in text.splitlines()
    layout, text = written(target(service="supervisor", folder="/data/agent"))
    command = json.loads(text)["command"]
    assert command[0] == "/data/agent/current/venv/bin/quantrig-agent"
    assert command[-1] == "--exit-on-stdin-eof"
    assert command[command.index("--tls") + 1] == "/data/agent/tls"
