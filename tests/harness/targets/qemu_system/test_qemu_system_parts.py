"""Parts of emulated boards, each against something that is not ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.errors import UserError
from harness.targets.lab import parse_lab
from harness.targets.power.control import open_power
from harness.targets.qemu_system import warden
from harness.targets.qemu_system.board import copy_sparse
from harness.targets.qemu_system.cpio import Entry, archive, folder, link, program
from harness.targets.qemu_system.devicetree import Node, flatten
from harness.targets.qemu_system.guest import AGENT_PORT, inittab
from harness.targets.qemu_system.hardware import Boot, arguments
from harness.targets.qemu_system.keys import make_keys
from harness.targets.qemu_system.modules import needed_modules
from harness.targets.qemu_system.recipe import MACHINES, Recipe
from harness.targets.qemu_system.tools import Tools, find_tools
from harness.targets.qemu_system.zcu102 import device_tree


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_ram_disk_is_a_cpio_archive(tmp_path: Path) -> None:
    entries = {
        "init": program(b"#!/bin/sh\n"),
        "a/b/odd": Entry(b"12345"),
        "etc": folder(0o700),
        "sh": link("busybox"),
    }
    subprocess.run(["cpio", "-id", "--quiet"], input=archive(entries), cwd=tmp_path, check=True)
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "init", os.X_OK)
    assert (tmp_path / "a/b/odd").read_bytes() == b"12345"
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o700
    assert os.readlink(tmp_path / "sh") == "busybox"


def test_equal_entries_make_equal_archives() -> None:
    one = {"b": Entry(b"1"), "a/c": Entry(b"2")}
    assert archive(one) == archive(dict(reversed(one.items())))
    assert archive(one) != archive(one | {"b": Entry(b"3")})


def kernel_module(depends: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-ccitt.ko\n")
    for name, depends in {
        "virtio_net": "net_failover,virtio,virtio_ring",
        "net_failover": "failover",
        "failover": "crc_ccitt",
        "virtio_ring": "virtio",
        "virtio": "",
        "virtio-rng": "virtio",
        "unused": "",
    }.items():
        (tmp_path / f"{name}.ko").write_bytes(kernel_module(depends))
    found = [path.name for path in needed_modules("t", tmp_path, ["virtio_net", "ext4", "virtio_rng"])]
    assert set(found) == {f"{n}.ko" for n in ("failover", "net_failover", "virtio", "virtio_ring", "virtio_net")} | {
        "virtio-rng.ko"
    }
    for earlier, later in (("failover", "net_failover"), ("virtio", "virtio_ring"), ("net_failover", "virtio_net")):
        assert found.index(f"{earlier}.ko") < found.index(f"{later}.ko")


def test_a_kernel_without_a_driver_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("")
    with pytest.raises(UserError, match=r"^t: the kernel in .* has no driver virtio_blk"):
        needed_modules("t", tmp_path, ["virtio_blk"])


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_are_what_ssh_takes_them_for(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", keys.folder / "ssh_host_key"], capture_output=True, text=True, check=True
    ).stdout
    assert keys.fingerprint in said.split()
    public = subprocess.run(["ssh-keygen", "-y", "-f", keys.login], capture_output=True, text=True, check=True).stdout
    assert keys.board_files()["authorized_keys"].decode().split()[:2] == public.split()[:2]
    assert keys.login.stat().st_mode & 0o077 == 0
    assert keys.folder.stat().st_mode & 0o077 == 0


def test_a_board_never_gets_the_labs_authority(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    sent = keys.board_files()
    assert {"tls/ca.pem", "tls/agent.pem", "tls/agent-key.pem"} < set(sent)
    assert not any("ca-key" in name or "host.pem" in name or name == "login" for name in sent)
    secret = (keys.folder / "ca/ca-key.pem").read_bytes()
    assert all(secret not in content for content in sent.values())


def test_keys_stay_the_same(tmp_path: Path) -> None:
    assert make_keys(tmp_path / "keys").fingerprint == make_keys(tmp_path / "keys").fingerprint


@pytest.mark.parametrize("machine", MACHINES)
def test_everything_listens_on_loopback_only(tmp_path: Path, machine: str) -> None:
    tools = Tools("qemu-system-aarch64", "qemu-img", "mke2fs", "7.2")
    words = arguments(
        tools, MACHINES[machine], Recipe(machine), Boot(tmp_path, tmp_path), name="b",
        folder=tmp_path, sockets=tmp_path, snapshot=None,
    )  # fmt: skip
    (network,) = [word for word in words if word.startswith("user,")]
    assert "restrict=on" in network
    assert all(part.startswith("hostfwd=tcp:127.0.0.1:") for part in network.split(",") if part.startswith("hostfwd"))
    assert f"-:{AGENT_PORT}" in network
    assert all("host=127.0.0.1" in word for word in words if word.startswith("socket,") and "path=" not in word)
    assert int(words[words.index("-m") + 1]) <= 1024


def test_a_bare_board_has_no_agent() -> None:
    assert "/agent" in inittab("ttyAMA0", agent=True)
    assert "/agent" not in inittab("ttyAMA0", agent=False)


@pytest.mark.skipif(shutil.which("dtc") is None, reason="the device tree compiler is not installed")
def test_the_device_tree_is_what_its_compiler_reads() -> None:
    tree = Node({"compatible": ["a,b", "c"], "cells": [1, 0xF08], "there": True}, {"cpu@0": Node({"name2": "é"})})
    read = subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts"], input=flatten(tree), capture_output=True, check=True
    ).stdout.decode()
    assert r'compatible = "a,b\0c";' in read
    assert "cells = <0x01 0xf08>;" in read
    assert "there;" in read
    assert "cpu@0 {" in read
    board = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=device_tree(3, seed=b"12345678"), capture_output=True, check=True
    )
    assert b"Error" not in board.stderr
    assert board.stdout.count(b'compatible = "arm,cortex-a53"') == 3
    assert b"rng-seed = <0x31323334 0x35363738>" in board.stdout


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(machine="xlnx-zcu102"), "a raspberry-pi-4 has a cortex-a72, and xlnx-zcu102 is made of cortex-a53"),
        (Recipe(machine="xlnx-zcu102", board="zcu102", processors=5), "1 to 4 processors, not 5"),
        (Recipe(machine="vrit"), "no QEMU machine 'vrit' here"),
        (Recipe(board="abacus"), "abacus"),
        (Recipe(memory_mb=4096), "256 to 1024 MiB of memory, not 4096"),
        (Recipe(processors=64), "1 to 8 processors, not 64"),
    ],
)
def test_what_cannot_be_emulated_is_refused_in_one_line(recipe: Recipe, words: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.check("pi")
    assert words in str(caught.value)
    assert str(caught.value).startswith("pi: ")
    assert "\n" not in str(caught.value)


def test_recipes_differ_where_boards_would() -> None:
    every = [
        Recipe(),
        Recipe("xlnx-zcu102"),
        Recipe(memory_mb=512),
        Recipe(agent=False),
        Recipe(board="raspberry-pi-5"),
        Recipe(processors=1),
    ]
    assert len({one.identity for one in every}) == len(every)
    assert Recipe().identity == Recipe().identity


def test_programs_that_lack_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        find_tools("pi")
    assert "apt-get install --no-install-recommends qemu-system-arm qemu-utils e2fsprogs" in str(caught.value)
    assert "\n" not in str(caught.value)


LAB = "targets:\n  pi: {{board: raspberry-pi-4, environment: cpu, via: {via}}}\n"


def test_a_machine_in_the_lab_file(tmp_path: Path) -> None:
    target = parse_lab(LAB.format(via="{qemu: virt}"), tmp_path / "targets.yaml").targets["pi"]
    assert (target.via.kind, target.via.machine, target.via.address) == ("qemu", "virt", None)
    assert not target.timed
    user_mode = parse_lab(LAB.format(via="qemu"), tmp_path / "targets.yaml").targets["pi"]
    assert (user_mode.via.kind, user_mode.via.machine) == ("qemu", None)


def test_a_machine_that_runs_already_is_never_timed(tmp_path: Path) -> None:
    via = '{qemu: virt, address: "127.0.0.1:40001", tls: lab}'
    target = parse_lab(LAB.format(via=via), tmp_path / "targets.yaml").targets["pi"]
    assert (target.via.kind, target.via.address) == ("qemu", "127.0.0.1:40001")
    assert target.via.tls is not None
    assert not target.timed


def test_power_of_a_board_that_only_runs_have_is_told_how_to_get(tmp_path: Path) -> None:
    target = parse_lab(LAB.format(via="{qemu: virt}"), tmp_path / "targets.yaml").targets["pi"]
    with pytest.raises(UserError, match=r"^pi: .*only while a run does.*lab up --machine virt --board raspberry-pi-4$"):
        open_power(target)


def test_lab_knows_the_machines_of_the_recipes() -> None:
    from harness.targets.lab_file import MACHINES as WRITTEN

    assert set(WRITTEN) == set(MACHINES)


@pytest.mark.parametrize(
    ("via", "words"),
    [
        ("{qemu: virtt}", "no QEMU machine 'virtt' here"),
        ('{qemu: virt, address: "10.0.0.7:4000"}', "beyond this machine and has no certificates"),
        ("{qemu: virt, port: 7}", "port"),
    ],
)
def test_a_wrong_machine_is_one_line(tmp_path: Path, via: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_lab(LAB.format(via=via), tmp_path / "targets.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_is_equal(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(3_000_001))
    copy_sparse(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


def guarded(tmp_path: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """A warden with `sleep` for an emulator, once that runs."""
    kept = tmp_path / "kept"
    kept.mkdir()
    script = f"echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/ready; exec sleep 600"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", warden.__file__, "--remove", str(kept), "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
    return process, psutil.Process(int((tmp_path / "ready").read_text()))


def test_the_end_of_the_host_ends_the_emulator(tmp_path: Path) -> None:
    process, child = guarded(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)
    assert not child.is_running()
    assert not (tmp_path / "kept").exists()


def test_a_killed_warden_takes_the_emulator_along(tmp_path: Path) -> None:
    process, child = guarded(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_an_emulator_that_ends_ends_its_warden(tmp_path: Path) -> None:
    process, child = guarded(tmp_path)
    child.kill()
    assert process.wait(60) == 128 + signal.SIGKILL
    assert not (tmp_path / "kept").exists()
