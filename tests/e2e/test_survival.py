from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.whole_run import Agent, Bench, descendants, wait_for


def count(bench: Bench, query: str) -> int:
    """One number from the database while the run writes it; 0 before the table exists."""
    try:
        with sqlite3.connect(f"file:{bench.store}?mode=ro", uri=True) as database:
            found: int = database.execute(query).fetchone()[0]
            return found
    except sqlite3.OperationalError:
        return 0


def blocks_of(bench: Bench, target: str) -> int:
    return count(
        bench, f"select count(*) from blocks join run_targets t on t.id = blocks.target_id where t.name = '{target}'"
    )


def two_targets(bench: Bench, address: str) -> None:
    bench.write_lab(
        "targets:\n"
        "  jetson: {board: jetson-orin-nano, environment: gpu, via: emulated}\n"
        f"  far: {{board: generic, environment: cpu, via: {{address: '{address}'}}}}\n"
    )


def test_a_killed_agent_costs_its_own_rows_only_and_resume_completes_them(
    bench: Bench, agents: Callable[..., Agent]
) -> None:
    agent = agents("board")
    two_targets(bench, agent.address)
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    wait_for(lambda: blocks_of(bench, "far") >= 3, "the first timed blocks")
    agent.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert bench.target("far")["status"] == "crashed"
    assert bench.target("jetson")["status"] == "done"
    crashed = [line for line in (bench.out / "comparison.csv").read_text().splitlines() if ",far," in line]
    assert crashed
    assert all("crashed" in line for line in crashed)
    assert "resume" in errors
    kept = blocks_of(bench, "far")
    before = bench.target("jetson")

    agents("board", agent.port)
    done = bench.quantrig("resume", bench.run_id()[:15], "--json")
    record = json.loads(done.stdout)
    assert [one["status"] for one in record["targets"]] == ["done", "done"]
    assert bench.target("jetson") == before  # untouched
    assert blocks_of(bench, "far") >= kept - 1  # at most half a pair was given up
    pairs = [block["pair"] for block in bench.target("far")["blocks"]]
    assert sorted(pairs) == sorted(2 * list(range(max(pairs) + 1)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_keeps_finished_blocks_and_can_be_resumed(bench: Bench, number: int) -> None:
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out", "--targets", "here")
    wait_for(lambda: blocks_of(bench, "here") >= 3, "the first timed blocks")
    family = descendants(process.pid)
    assert family
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "resume" in errors.splitlines()[-1]
    wait_for(lambda: not any(one.is_running() for one in family), "the agents to be gone")
    kept = blocks_of(bench, "here")
    assert kept >= 3
    bench.quantrig("resume", bench.run_id())
    assert bench.target("here")["status"] == "done"
    assert len(bench.target("here")["blocks"]) >= kept - 1


def test_a_killed_host_leaves_no_process_and_loses_at_most_the_block_in_flight(bench: Bench) -> None:
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out", "--targets", "here")
    wait_for(lambda: blocks_of(bench, "here") >= 4, "the first timed blocks")
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(one.is_running() for one in family), "the agents to be gone")
    with sqlite3.connect(bench.store) as database:
        first = database.execute("select pair, network, latency_ns from blocks where pair = 0 order by id").fetchall()
        chunks = database.execute("select id, sha256 from outputs order by id").fetchall()
    assert len(first) == 2
    bench.quantrig("resume", bench.run_id())
    with sqlite3.connect(bench.store) as database:
        again = database.execute("select pair, network, latency_ns from blocks where pair = 0 order by id").fetchall()
        assert again == first  # not measured twice
        assert database.execute("select id, sha256 from outputs order by id").fetchall() == chunks  # not inferred twice


def test_an_unreachable_target_does_not_stop_the_others(bench: Bench) -> None:
    two_targets(bench, "127.0.0.1:1")
    done = bench.run(code=3)
    assert bench.target("far")["status"] == "unreachable"
    assert bench.target("jetson")["status"] == "done"
    error = bench.target("far")["error"]
    assert "127.0.0.1:1" in error
    assert "\n" not in error
    assert "far" in done.stdout


def test_a_full_disk_on_the_board_is_one_line(bench: Bench, agents: Callable[..., Agent]) -> None:
    full = bench.folder / "tiny-disk"
    full.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(full)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system of a few kilobytes")
    try:
        agent = agents("tiny-disk/agent")
        two_targets(bench, agent.address)
        bench.run("--targets", "far", code=3)
        error = bench.target("far")["error"]
        assert "disk" in error or "space" in error
        assert "\n" not in error
        agent.close()
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_network_that_says_nan_is_named_with_its_sample(bench: Bench) -> None:
    with np.load(bench.folder / "data.npz") as arrays:
        x, labels = arrays["x"].copy(), arrays["labels"]
    x[150] = 3e38  # finite, but the convolution's sum is not
    np.savez(bench.folder / "data.npz", x=x, labels=labels)
    bench.write_job("quantized: tiny.onnx\n")
    bench.run("--targets", "jetson", "--split", "all", code=3)
    assert bench.target("jetson")["status"] == "bad-result"
    assert "150" in bench.target("jetson")["error"]


def test_a_changed_network_cannot_be_resumed(bench: Bench) -> None:
    two_targets(bench, "127.0.0.1:1")
    bench.run(code=3)
    bench.model.write_bytes(bench.model.read_bytes() + b"\x00")
    done = bench.quantrig("resume", bench.run_id(), code=2)
    assert "changed since" in done.stderr


def test_another_int8_network_cannot_be_mixed_into_a_run(bench: Bench, agents: Callable[..., Agent]) -> None:
    for environment in ("cpu", "fpga"):
        arguments = ("tiny.onnx", "--data", "data.npz", "--environment", environment, "-o", f"{environment}.onnx")
        bench.quantrig("quantize", *arguments)
    own = bench.folder / "own.int8.onnx"
    own.write_bytes((bench.folder / "cpu.onnx").read_bytes())
    bench.write_job("quantized: own.int8.onnx\n")
    agent = agents("board")
    agent.kill()
    two_targets(bench, agent.address)
    bench.run(code=3)
    own.write_bytes((bench.folder / "fpga.onnx").read_bytes())
    agents("board", agent.port)
    done = bench.quantrig("resume", bench.run_id(), code=2)
    assert "int8 network" in done.stderr
    own.write_bytes((bench.folder / "cpu.onnx").read_bytes())
    bench.quantrig("resume", bench.run_id())
    assert bench.target("far")["status"] == "done"


def test_a_port_in_use_is_one_line(tmp_path: Path, agents: Callable[..., Agent]) -> None:
    agent = agents("first")
    done = subprocess.run(
        [sys.executable, "-m", "agents", "serve", "--listen", agent.address, "--data", str(tmp_path / "second")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert agent.address in done.stderr
