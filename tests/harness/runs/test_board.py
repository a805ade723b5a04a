"""What a run says of a processor's int8, told by a real agent that reads another machine's /proc/cpuinfo."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from harness.runs.board import arithmetic_note, must_not_saturate
from harness.targets.connect import connect
from harness.targets.target import Target, Via
from tests.agents.conftest import AgentProcess


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 host")
@pytest.mark.parametrize(("flags", "saturates"), [("avx avx2 fma", True), ("avx avx2 fma avx_vnni", False)])
def test_an_x86_that_saturates_is_told_of_and_what_was_done(tmp_path: Path, flags: str, *, saturates: bool) -> None:
    (tmp_path / "board" / "proc").mkdir(parents=True)
    (tmp_path / "board" / "proc" / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n")
    agent = AgentProcess(tmp_path / "data", "--board-root", str(tmp_path / "board"))
    try:
        with connect(Target("a", "generic", "cpu", Via("address", agent.address), tmp_path), work_dir=tmp_path) as host:
            info = host.describe()
    finally:
        agent.kill()
    assert ("measured as it is, nothing was done" in arithmetic_note(info, "cpu")) == saturates
    assert arithmetic_note(info, "gpu") == ""
    stand_in = dataclasses.replace(info, emulated=True)
    assert must_not_saturate(stand_in) == saturates
    assert ("precise kernels" in arithmetic_note(stand_in, "gpu")) == saturates
