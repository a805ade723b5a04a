"""Boards of the emulated lab, broken on purpose: each rung of the ladder mends what it is for, and a run goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.recovery import FAULTS, Fault, broken_and_mended
from harness.cli.board_lab import _entry
from harness.errors import BoardError
from harness.targets.power.values import Power
from harness.targets.qemu_system.board import QemuBoard
from harness.targets.quarantine import quarantined
from harness.targets.ssh.session import open_session
from harness.targets.target import Ssh, Target
from tests.e2e.whole_run import CLASSES, Bench, labels_of
from tests.labs.emulated import need_lab, thorough

pytestmark = [pytest.mark.slow]
#: These also run without QUANTRIG_QEMU_SYSTEM=1, in continuous integration too: the shortest ladder, and the one that
#: judges by the console, skips, switches power and watches a boot. The others take 20 to 120 s each.
ALWAYS = {"link_down", "kernel_panics"}
HIDDEN = 45_000
#: What each fault's ladder must look like; the benchmark says which step mends, the reasons stand in the documentation.
LADDERS = {
    "link_down": [("reconnect", "done")],
    "agent_killed": [("reconnect", "done")],
    "agent_hangs": [("reconnect", "failed"), ("restart agent", "done"), ("reconnect", "done")],
    "supervisor_broken": [
        ("reconnect", "failed"),
        ("restart agent", "failed"),
        ("reboot", "done"),
        ("watch console", "done"),
        ("reconnect", "done"),
    ],
    "kernel_panics": [
        ("reconnect", "skipped"),
        ("restart agent", "skipped"),
        ("reboot", "skipped"),
        ("power cycle", "done"),
        ("watch console", "done"),
        ("reconnect", "done"),
    ],
    "board_hangs": [
        ("reconnect", "failed"),
        ("restart agent", "failed"),
        ("reboot", "skipped"),
        ("power cycle", "done"),
        ("watch console", "done"),
        ("reconnect", "done"),
    ],
}


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks, logs and quarantines of a test stay below its own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def board() -> Iterator[QemuBoard]:
    need_lab()
    with QemuBoard(name="rescued") as one:
        yield one


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.cause.__name__, marks=() if fault.cause.__name__ in ALWAYS else thorough)
        for fault in FAULTS
    ],
)
def test_each_rung_mends_what_it_is_for(board: QemuBoard, fault: Fault, tmp_path: Path) -> None:
    target = board.target
    if fault.cause.__name__ == "agent_hangs":  # with the lab's own key, which needs no entry
        target = dataclasses.replace(target, ssh=Ssh("127.0.0.1", port=board.ssh.port))
    rescued = broken_and_mended(board, target, fault.cause, tmp_path)
    climbed = [(step.name, step.outcome) for step in rescued.steps]
    if fault.cause.__name__ == "agent_killed" and climbed != LADDERS["agent_killed"]:
        # A busy machine starts an agent more slowly than the first step waits: the next one mends it then.
        assert climbed == LADDERS["agent_hangs"], rescued.steps
        return
    assert climbed == LADDERS[fault.cause.__name__], rescued.steps
    assert rescued.mended_by == fault.mended_by
    assert quarantined(board.target) is None


@thorough
def test_a_board_that_never_comes_back_is_set_aside(board: QemuBoard, tmp_path: Path) -> None:
    assert board.target.console is not None
    dead = dataclasses.replace(
        board.target,
        ssh=None,
        power=Power(on="true", off="true", wait_s=0.1),
        console=dataclasses.replace(board.target.console, boot_timeout_s=3.0),
    )
    with pytest.raises(BoardError, match=r"not recovered within .*power cycle: done, watch console: failed"):
        broken_and_mended(board, dead, lambda one: one.fault.hang(), tmp_path)
    note = quarantined(dead)
    assert note is not None
    assert "the agent stopped answering" in note.reason


def large_network(path: Path) -> None:
    """35 MB of weights and next to no work, so that its upload takes seconds and nothing else does."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.1, name)

    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["h"], name="fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="fc2", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [weight("w1", HIDDEN, 192), weight("b1", HIDDEN), weight("w2", CLASSES, HIDDEN), weight("b2", CLASSES)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def large(bench: Bench) -> Bench:
    """A bench whose network takes seconds to send."""
    large_network(bench.model)
    x = np.random.default_rng(1).standard_normal((60, 3, 8, 8)).astype(np.float32)
    np.savez(bench.folder / "data.npz", x=x, labels=labels_of(bench.model, x))
    return bench


def await_upload(target: Target) -> int:
    """Wait until part of an upload is on the board for certain; how many bytes."""
    look = "until cat /var/lib/quantrig/marks/* 2>/dev/null; do sleep 0.1; done"
    with open_session(target) as session:
        return int(session.run(["sh", "-c", look], quiet=True, timeout_s=200.0).out.split()[0])


@thorough
def test_an_upload_goes_on_after_a_power_cut(board: QemuBoard, large: Bench) -> None:
    large.write_lab("targets:\n" + _entry(board.target))
    process = large.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    marked = await_upload(board.target)
    board.power.off()
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors + said
    target = large.target(board.target.name)
    assert target["status"] == "done"
    assert "power cycle" in [step["name"] for step in target["recovery"] if step["outcome"] == "done"]
    (shipment,) = (one for one in target["shipments"] if one["size_bytes"] > 30 << 20)
    assert 0 < shipment["sent_bytes"] <= shipment["size_bytes"] - marked
    (note,) = (note for note in target["notes"] if note.startswith("the board was lost during the run"))
    assert "recovered by power cycle" in note
    assert "What had to be mended" in (large.out / "report.html").read_text()


@thorough
def test_a_run_goes_on_without_a_board_that_never_comes_back(board: QemuBoard, large: Bench) -> None:
    assert board.target.console is not None
    dead = dataclasses.replace(
        board.target, ssh=None, power=None, console=dataclasses.replace(board.target.console, boot_timeout_s=3.0)
    )
    power = "    power: {on: 'true', off: 'true', wait_s: 0.1}\n"
    other = "  here: {board: generic, environment: cpu, via: emulated}\n"
    large.write_lab("targets:\n" + _entry(dead) + power + other)
    process = large.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    await_upload(board.target)
    board.fault.hang()
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 3, errors + said
    assert large.target("here")["status"] == "done"
    lost = large.target(board.target.name)
    assert lost["status"] in {"crashed", "timed-out"}
    assert [step["name"] for step in lost["recovery"]][-1] == "quarantine"
    listed = json.loads(large.quantrig("targets", "list", "--json").stdout)
    assert [bool(one["quarantine"]) for one in listed if one["name"] == board.target.name] == [True]
    assert "released" in large.quantrig("targets", "release", board.target.name).stdout
