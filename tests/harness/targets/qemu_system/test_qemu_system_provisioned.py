"""What provisioning over SSH does otherwise on an emulated board: the forwarded port, its lab's keys, never timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.targets.lab import parse_lab
from harness.targets.qemu_system.guest import AGENT_PORT
from harness.targets.qemu_system.keys import make_keys
from harness.targets.ssh.keys import plan_keys
from harness.targets.ssh.layout import choose_layout
from harness.targets.ssh.report import BoardReport
from harness.targets.ssh.units import service_files
from harness.targets.target import Target

REPORT = BoardReport(
    machine="aarch64", kernel="6.1", os="", tegra="", uid=0, home="/root", clock_unix_s=0, systemd=None,
    user_systemd=False, sudo=True, crontab=True, groups=(), pythons=(),
)  # fmt: skip


def target_with(via: str, folder: Path) -> Target:
    text = f"targets:\n  pi: {{board: raspberry-pi-4, ssh: {{host: 127.0.0.1}}, via: {via}}}\n"
    return parse_lab(text, folder / "targets.yaml").targets["pi"]


@pytest.mark.parametrize(
    ("via", "listens", "emulated"),
    [
        ('{qemu: virt, address: "127.0.0.1:40123", tls: lab}', f"0.0.0.0:{AGENT_PORT}", True),
        ('{address: "10.0.0.7:40123", tls: lab}', "0.0.0.0:40123", False),
        ('{address: "127.0.0.1:40123", tls: lab}', "127.0.0.1:40123", False),
    ],
)
def test_where_the_agent_listens_and_what_it_may_time(
    tmp_path: Path, via: str, listens: str, *, emulated: bool
) -> None:
    target = target_with(via, tmp_path)
    layout = choose_layout(target, REPORT)
    assert (layout.listen, layout.port) == (listens, int(listens.rsplit(":", 1)[1]))
    (settings,) = service_files(target, layout, REPORT).values()
    assert ("--emulated" in json.loads(settings)["command"]) is emulated


def test_a_board_that_a_run_starts_itself_is_not_provisioned_over_ssh(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is on this machine"):
        choose_layout(target_with("{qemu: virt}", tmp_path), REPORT)


def test_its_certificate_comes_from_the_emulated_labs_own_authority(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    via = f'{{qemu: virt, address: "127.0.0.1:40123", tls: {keys.host_tls}}}'
    plan = plan_keys(target_with(via, tmp_path), None, (None, None, False))
    assert plan is not None
    assert plan.authority == keys.folder / "ca"
    assert (plan.make_authority, plan.make_host, plan.names) == (False, False, ("127.0.0.1",))
    with pytest.raises(UserError, match="give its folder with --ca"):
        plan_keys(target_with(via.replace("qemu: virt, ", ""), tmp_path), None, (None, None, False))
