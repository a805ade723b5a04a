"""Channels: a plug-in of an installed package carries an agent's port here; JTAG says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Unreachable, UserError
from harness.targets.channels import ChannelRequest
from harness.targets.jtag import jtag, missing
from harness.targets.lab import parse_lab
from tests.agents.conftest import ROOT, AgentProcess

#: A package's channel: it yields an address it is told, and notes when it is taken down.
PLUGIN = """
from contextlib import contextmanager
from pathlib import Path

@contextmanager
def open_channel(request):
    yield request.options["to"]
    (request.base / "closed").write_text(request.target)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    started = AgentProcess(tmp_path / "data")
    yield started
    started.stop()


def test_a_packages_channel_carries_an_agent(agent: AgentProcess, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    (packages / "lab_channel-1.0.dist-info").mkdir(parents=True)
    (packages / "lab_channel.py").write_text(PLUGIN)
    info = packages / "lab_channel-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-channel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantrig.channels]\npipe = lab_channel:open_channel\n")
    (tmp_path / "targets.yaml").write_text(
        "targets:\n"
        f"  near: {{board: generic, via: {{channel: pipe, options: {{to: '{agent.address}'}}}}}}\n"
        "  far: {board: generic, via: {channel: pipe, options: {to: '192.0.2.1:50443'}}}\n"
        "  typo: {board: generic, via: {channel: pipes}}\n"
        "  board: {board: zcu102, via: {channel: jtag}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "harness", "targets", "check"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 3, done.stderr
    assert lines["near"].split()[1] == "yes"
    assert (tmp_path / "closed").exists()
    assert "is beyond this machine" in lines["far"] or "not on this machine" in lines["far"]
    assert "no channel 'pipes' is installed; did you mean 'pipe'?" in lines["typo"]
    assert "JTAG needs" in lines["board"]


def test_jtag_says_what_is_missing_and_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    usb = tmp_path / "usb"
    assert len(missing(usb)) == 4
    (tmp_path / "xsdb").write_text("#!/bin/sh\n")
    (tmp_path / "xsdb").chmod(0o755)
    assert not [need for need in missing(usb) if "debug server" in need]
    (usb / "1-1").mkdir(parents=True)
    (usb / "1-1" / "idVendor").write_text("0403\n")
    assert missing(usb) == [
        "a bitstream with a JTAG-to-AXI bridge",
        "a package that moves networks through it, channel `jtag`",
    ]
    with pytest.raises(Unreachable, match=r"JTAG needs a .*or use the board's Ethernet: via: \{address") as caught:
        jtag(ChannelRequest("zcu", "zcu102", {}, tmp_path, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_channel_in_the_lab_file() -> None:
    text = "targets: {a: {board: zcu102, via: {channel: jtag, options: {cable: 210249, speed: fast}}}}"
    target = parse_lab(text, Path("/lab/t.yaml")).targets["a"]
    assert (target.via.kind, target.via.channel, target.via.address, target.timed) == ("channel", "jtag", None, True)
    assert target.via.options == {"cable": "210249", "speed": "fast"}
    with pytest.raises(UserError, match=r"t\.yaml:1"):
        parse_lab("targets: {a: {board: zcu102, via: {channel: ''}}}", Path("t.yaml"))
