"""Whole runs on emulated boards: started by the run itself, an emulated ZCU102, and a bare one after provisioning."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from harness.targets.client import AgentClient
from harness.targets.lab import parse_lab
from harness.targets.qemu_system.board import QemuBoard
from harness.targets.qemu_system.recipe import Recipe
from harness.targets.qemu_system.use import reachable
from harness.targets.recovery_means import recovery_means
from tests.e2e.whole_run import Bench
from tests.labs.emulated import need_lab, served, thorough

pytestmark = [pytest.mark.slow]
TIMES = {"fps", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "load_ms", "speedup", "power_w", "energy_mj"}
ZCU102 = Recipe(machine="xlnx-zcu102", board="zcu102")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A job of a few kilobytes; images and snapshots are the user's own."""
    made = Bench(tmp_path)
    made.data(60)
    del made.env["XDG_CACHE_HOME"]
    if "XDG_CACHE_HOME" in os.environ:
        made.env["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
    yield made
    made.close()


def must_be_emulated(bench: Bench, name: str) -> None:
    """Published as emulated, without a time, and equal to what this host computes."""
    target = bench.target(name)
    assert (target["status"], target["source"]) == ("done", "emulated")
    assert target["description"]["architecture"] == "aarch64"
    assert target["blocks"] == []
    with (bench.out / "comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["target"] == name]
    assert {row["source"] for row in rows} == {"emulated"}
    assert {row["value"] for row in rows if row["metric"] in TIMES} == {""}
    assert any(row["metric"] == "accuracy_top1" and row["value"] for row in rows)
    x = np.load(bench.folder / "data.npz")["x"]
    (int8,) = (bench.out / "artifacts").glob("*cpu*.onnx")
    expected = np.asarray(onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])
    with np.load(bench.out / "outputs" / name / "quantized" / "00000.npz") as chunk:
        kept = chunk["arr_1"]
    for row in kept:  # its samples are some of these, in another order
        assert (expected == row).all(axis=1).any()


def test_a_run_starts_its_own_board(lab: None, bench: Bench) -> None:
    bench.write_lab("targets:\n  pi: {board: raspberry-pi-4, environment: cpu, via: {qemu: virt}}\n")
    bench.run()
    must_be_emulated(bench, "pi")
    settings = [loading["settings"] for loading in bench.target("pi")["loadings"]]
    assert [one["session.intra_op.allow_spinning"] for one in settings] == ["0", "0"]


@thorough
def test_a_board_that_a_run_starts_can_be_power_cycled(lab: None, tmp_path: Path) -> None:
    text = "targets:\n  pi: {board: raspberry-pi-4, environment: cpu, via: {qemu: virt}}\n"
    target = parse_lab(text, tmp_path / "targets.yaml").targets["pi"]
    boots: list[str] = []
    with reachable(target) as found:
        assert (found.name, found.base) == (target.name, target.base)
        served(found, tmp_path, lambda agent: boots.append(agent.describe().boot_id))
        means = recovery_means(found, work_dir=tmp_path)
        assert means.power_cycle is not None
        means.power_cycle()
        served(found, tmp_path, lambda agent: boots.append(agent.describe().boot_id))
    assert boots[0] != boots[1]


@thorough
def test_an_emulated_zcu102_has_its_own_console_card_network_and_clock(tmp_path: Path, bench: Bench) -> None:
    need_lab(ZCU102)
    bench.write_lab("targets:\n  zed: {board: zcu102, environment: cpu, via: {qemu: xlnx-zcu102}}\n")
    bench.run()
    must_be_emulated(bench, "zed")
    with QemuBoard(ZCU102, name="zed", cold=True) as board:
        served(board.target, tmp_path, AgentClient.describe)  # TLS: its clock is right, although no driver reads it
        said = board.console_log.read_text(errors="replace")
    for words in ("Machine model: ZynqMP ZCU102", "ttyPS0", "mmcblk0: ", "Cadence GEM", "login: "):
        assert words in said


@thorough
@pytest.mark.timeout(900)  # pip on an emulated processor: a minute on a quiet machine, four on a busy one
def test_a_bare_board_is_provisioned_runs_and_is_bare_again(bench: Bench) -> None:
    need_lab(Recipe(agent=False))
    up = subprocess.Popen(
        [sys.executable, "-m", "harness", "lab", "up", "--bare", "--json", "--out", "targets.yaml"],
        cwd=bench.folder, env=bench.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    bench.lab.unlink()
    try:
        assert up.stdout is not None
        assert json.loads(up.stdout.readline())["targets"] == ["qemu-1"]
        (checked,) = json.loads(bench.quantrig("targets", "check", "--json", code=3).stdout)
        assert "ended the connection at once; does an agent run there?" in checked["problem"]
        done = json.loads(bench.quantrig("targets", "provision", "qemu-1", "--json", timeout_s=600).stdout)
        assert (done["changed"], done["service"]) == (True, "supervisor")
        again = json.loads(bench.quantrig("targets", "provision", "qemu-1", "--json").stdout)
        assert again["changed"] is False
        bench.run()
        must_be_emulated(bench, "qemu-1")
        assert "/opt/quantrig-agent" in bench.quantrig("targets", "unprovision", "qemu-1").stdout
        (checked,) = json.loads(bench.quantrig("targets", "check", "--json", code=3).stdout)
        assert not checked["reachable"]
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
