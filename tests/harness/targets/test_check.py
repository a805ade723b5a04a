"""`check_targets`: every board asked at once, and the canary that tells what its int8 arithmetic does."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.protocol import agent_pb2 as pb
from harness._version import __version__
from harness.cli.health import health_line
from harness.targets.board_settings import Settings
from harness.targets.canary import Canary, CanaryVerdict, canary, judge
from harness.targets.check import check_targets
from harness.targets.connect import REACH_TIMEOUT_S
from harness.targets.health import Known
from harness.targets.spawn import spawned_agent
from harness.targets.target import Target
from harness.targets.values import BoardInfo, PolicyInfo, RuntimeInfo
from tests.agents.conftest import AgentProcess
from tests.agents.settings_boards import jetson

MakeTarget = Callable[..., Target]
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


def pairwise_saturated(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """a @ b as `vpmaddubsw` and a 32-bit sum compute it: neighbouring products added in 16 bits, saturating."""
    products = a.astype(np.int64)[:, :, None] * b.astype(np.int64)[None, :, :]
    pairs = products.reshape(a.shape[0], -1, 2, b.shape[1]).sum(axis=2)
    return np.asarray(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1))


def initializers(reference: Canary) -> dict[str, Any]:
    graph = onnx.load_from_string(reference.model).graph
    return {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}


def test_reference_agrees_with_the_onnx_reference_evaluator() -> None:
    reference = canary()
    onnx.checker.check_model(onnx.load_from_string(reference.model), full_check=True)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(reference.model))
    y, z = evaluator.run(["y", "z"], reference.inputs)
    np.testing.assert_array_equal(y, reference.exact["y"])
    np.testing.assert_array_equal(z, reference.exact["z"])


def test_this_machine_with_the_precise_option_is_exact() -> None:
    """ONNX Runtime's own switch against saturation must satisfy the canary on any x86, with or without VNNI."""
    reference = canary()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(reference.model, options, providers=["CPUExecutionProvider"])
    y, z = session.run(["y", "z"], reference.inputs)
    assert judge({"y": y, "z": z}, reference) is CanaryVerdict.EXACT


def test_16_bit_pair_sums_are_recognized() -> None:
    reference = canary()
    y = pairwise_saturated(reference.inputs["a"], initializers(reference)["b"])
    assert (y != reference.exact["y"]).any()
    seen = {"y": y.astype(np.int32), "z": reference.exact["z"].astype(np.int32)}
    assert judge(seen, reference) is CanaryVerdict.SATURATES


ON_ANOTHER_CPU = """
import onnxruntime
from harness.targets.canary import canary, judge
reference = canary()
for precise in ("0", "1"):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", precise)
    session = onnxruntime.InferenceSession(reference.model, options, providers=["CPUExecutionProvider"])
    print(judge(dict(zip("yz", session.run(["y", "z"], reference.inputs))), reference).value)
"""


@pytest.mark.skipif(QEMU is None or platform.machine() != "x86_64", reason="needs qemu-user for x86_64 on x86_64")
def test_a_real_processor_without_vnni_is_found_out() -> None:
    """ONNX Runtime itself on an emulated Haswell (AVX2, no VNNI), as it is and with its precise option."""
    assert QEMU is not None
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell", sys.executable, "-c", ON_ANOTHER_CPU], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["saturates", "exact"]


@given(st.sampled_from(["y", "z"]), st.integers(0, 31), st.integers(-(2**20), 2**20).filter(bool))
def test_any_other_difference_is_told_apart(name: str, where: int, by: int) -> None:
    reference = canary()
    seen: dict[str, Any] = {key: value.astype(np.int32) for key, value in reference.exact.items()}
    seen[name].reshape(-1)[where] += by
    assert judge(seen, reference) is CanaryVerdict.DIFFERS


def test_canary_is_the_same_file_every_time() -> None:
    assert canary().model == canary().model
    assert len(canary().model) < 4096


def test_several_targets_at_once(make_target: MakeTarget, tmp_path: Path) -> None:
    targets = [
        make_target("local", name="here"),
        make_target("emulated", name="nano", board="jetson-orin-nano"),
        make_target("address", name="gone", address="127.0.0.1:1"),
        make_target("qemu", name="later"),
    ]
    heard: list[str] = []
    begun = time.monotonic()
    here, nano, gone, later = check_targets(targets, work_dir=tmp_path, on_result=lambda h: heard.append(h.name))
    assert time.monotonic() - begun < 120
    assert sorted(heard) == ["gone", "here", "later", "nano"]
    assert here.fit
    assert here.reachable
    assert here.emulated is False
    assert here.canary in ("exact", "saturates")
    assert here.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert here.round_trip_ms is not None
    assert 0 < here.round_trip_ms < 10_000
    assert here.storage_free_bytes is not None
    assert nano.emulated is True
    assert nano.fit
    assert (gone.reachable, gone.fit) == (False, False)
    assert gone.problem is not None
    assert gone.problem.startswith("nothing answers at 127.0.0.1:1")
    assert later.problem is not None
    assert "`via: qemu`" in later.problem
    json.dumps([h.as_json() for h in (here, nano, gone, later)], allow_nan=False)


def test_wrong_board_in_the_lab_file_is_a_warning(make_target: MakeTarget, tmp_path: Path) -> None:
    with spawned_agent("real", "generic", emulated=False, work_dir=tmp_path, stop=threading.Event()) as (_, address):
        (health,) = check_targets([make_target("address", address=address, board="zcu102")], work_dir=tmp_path)
    assert health.fit
    assert any("'generic'" in warning for warning in health.warnings)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def orin(tmp_path: Path) -> Iterator[AgentProcess]:
    """A Jetson's agent over a tree of its files."""
    board = jetson(tmp_path / "board")
    board.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    board.put("sys/class/thermal/thermal_zone0/temp", "57125\n")
    board.put("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")
    board.put("sys/class/thermal/thermal_zone1/temp", "61000\n")
    agent = AgentProcess(tmp_path / "data", "--board", "jetson-orin-nano", "--board-root", str(board.root))
    yield agent
    agent.process.send_signal(signal.SIGCONT)
    agent.kill()


def test_the_state_of_a_board_is_told(make_target: MakeTarget, orin: AgentProcess, tmp_path: Path) -> None:
    target = make_target("address", name="orin", address=orin.address, board="jetson-orin-nano")
    (health,) = check_targets([target], work_dir=tmp_path)
    assert health.fit
    assert (health.clocks_locked, health.power_mode, health.governor) == (False, "15W", "schedutil")
    assert (health.temperature_c, health.temperature_zone) == (61.0, "gpu-thermal")
    assert health.settable == ("power_mode", "governor", "lock_clocks")
    line = health_line(health, 6)
    assert line.startswith("orin    yes  ")
    for word in ("free", "15W", "61 °C", "exact" if health.canary == "exact" else "saturates", "onnxruntime"):
        assert word in line
    assert "\n" not in line


def test_boards_that_are_dead_or_hang_hold_nobody_up(
    make_target: MakeTarget, orin: AgentProcess, black_hole: str, tmp_path: Path
) -> None:
    """More of them than are started here at once: each is given up after eight seconds, and so are all together.

    Two rounds of them would take twice what one of them takes.
    """
    dead = [make_target("address", name=f"dead-{number}", address=black_hole) for number in range(20)]
    hung = make_target("address", name="hung", address=orin.address, board="jetson-orin-nano")
    here = make_target("local", name="here")
    heard: list[str] = []
    orin.stub.Describe(pb.DescribeRequest(), timeout=60)
    orin.process.send_signal(signal.SIGSTOP)  # its connections stay up and say nothing more
    began = time.monotonic()
    found = check_targets([*dead, hung, here], work_dir=tmp_path, on_result=lambda one: heard.append(one.name))
    assert time.monotonic() - began < 1.75 * max(one.seconds or 0 for one in found)
    here_s = next(one.seconds for one in found if one.name == "here")
    assert heard[0] == "here" or (here_s or 0) > REACH_TIMEOUT_S - 1  # else it waited for the dead
    assert [one.name for one in found if one.fit] == ["here"]
    assert [one.name for one in found] == [one.name for one in (*dead, hung, here)]
    assert all("no agent answers" in (one.problem or "") for one in found if not one.fit)
    assert health_line(found[3]).startswith("dead-3  no   ")


def test_a_check_that_takes_too_long_is_ended(make_target: MakeTarget, orin: AgentProcess, tmp_path: Path) -> None:
    target = make_target("address", name="orin", address=orin.address, board="jetson-orin-nano")
    (late,) = check_targets([target], work_dir=tmp_path, limit_s=0.0)
    assert not late.fit
    assert late.problem is not None
    assert "it hangs: not checked within 0 s" in late.problem


def test_stopping_does_not_wait_for_the_dead(make_target: MakeTarget, black_hole: str, tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    (health,) = check_targets([make_target("address", address=black_hole)], work_dir=tmp_path, stop=stop)
    assert time.monotonic() - began < REACH_TIMEOUT_S - 1
    assert not health.fit


def info(**changes: object) -> BoardInfo:
    """A sound board's description."""
    policy = PolicyInfo(False, 1, 1, 1, "rlimit", 1.0, 1.0, 1)
    sound = BoardInfo(
        __version__, 1, "generic", False, "", "", "", "", "", "x86_64", "3.11", "", 1, (), 1 << 34, 1 << 33, None, 0,
        1 << 34, (RuntimeInfo("onnxruntime", "1.31.1", ("CPUExecutionProvider",), ""),), (), policy,
        {"settable": "governor, lock_clocks"},
    )  # fmt: skip
    return replace(sound, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "settings", "problem", "warning"),
    [
        ({}, None, None, None),
        ({"agent_version": "0.0.9"}, None, None, "version 0.0.9"),
        ({"storage_free_bytes": 1 << 20}, None, "its storage is full (1 MiB free): remove files", None),
        ({"storage_free_bytes": 200 << 20}, None, None, "only 200 MiB of storage"),
        ({"memory_available_bytes": 1 << 20}, None, "its memory is full", None),
        ({"runtimes": ()}, None, "no runtime can be used on the board (none installed)", None),
        ({}, Settings(lock_clocks=True), None, None),
        ({"details": {}}, Settings(lock_clocks=True), None, "too old for `settings`"),
        ({"details": {"settable": "none"}}, Settings(governor="performance"), None, "the board has no governor"),
        (
            {"details": {"settable": "none"}},
            Settings(governor="performance", required=True),
            "its settings are required and cannot be set: the board has no governor",
            None,
        ),
        ({"details": {"settable": "none", "settings_left": "power_mode is not"}}, None, None, "left it changed"),
    ],
)
def test_verdicts(
    make_target: MakeTarget,
    changes: dict[str, object],
    settings: Settings | None,
    problem: str | None,
    warning: str | None,
) -> None:
    target = replace(make_target("address", address="127.0.0.1:1"), settings=settings)
    health = Known(target, info(**changes), canary=CanaryVerdict.EXACT).health(None, 1.0)
    assert (health.problem or "").startswith(problem or "")
    assert health.fit is (problem is None)
    assert [True for one in health.warnings if warning and warning in one] == ([True] if warning else [])
    if problem is not None:
        assert problem in health_line(health)


def test_no_targets() -> None:
    assert check_targets([]) == []


@pytest.mark.parametrize("field", ["fit", "problem", "canary", "name"])
def test_json_has_the_fields_scripts_read(make_target: MakeTarget, tmp_path: Path, field: str) -> None:
    (health,) = check_targets([make_target("qemu")], work_dir=tmp_path)
    assert field in health.as_json()
