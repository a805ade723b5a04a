"""`via: qemu` for real: a tree from packages, agents in it, their limits, their end, and what they compute."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from filelock import FileLock

from agents.limits import remove_leftovers
from harness.demo.cross_isa import digits_cases
from harness.errors import Crashed
from harness.targets.check import check_targets
from harness.targets.connect import connect
from harness.targets.cross_isa import IsaCase
from harness.targets.qemu.provision import provision
from harness.targets.qemu.tree import newest_tree
from harness.targets.qemu.user_mode import guest_python
from harness.targets.target import Target
from harness.targets.values import SessionChoice
from tests.agents.conftest import filled_bytes

MakeTarget = Callable[..., Target]
ROOT = Path(__file__).parents[3]
X86 = shutil.which("qemu-x86_64-static")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="needs qemu-user-static"),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get"),
]


def quiet(phase: str, done: float, total: float | None) -> None:
    """Nobody watches."""


@pytest.fixture(scope="session")
def tree_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One tree for all tests, on all workers of pytest-xdist; made by the command, as a user makes it."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "qemu-cache"
    with FileLock(home.with_suffix(".lock")):
        if not (home / "quantrig" / "qemu" / "current").exists():
            home.mkdir(exist_ok=True)
            lab = home / "targets.yaml"
            lab.write_text("targets: {rpi: {board: raspberry-pi-4, environment: cpu, via: qemu}}\n")
            done = subprocess.run(
                [sys.executable, "-m", "harness", "targets", "provision", "rpi", "--lab", lab],
                env=os.environ | {"XDG_CACHE_HOME": str(home)}, capture_output=True, text=True, check=False, cwd=ROOT,
            )  # fmt: skip
            if done.returncode and "could not fetch" in done.stderr:
                pytest.skip(f"no package mirror: {done.stderr.splitlines()[-1]}")
            assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def board(
    tree_home: Path, make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> Callable[[str], Target]:
    """`board("raspberry-pi-4")`: a target whose tree is there."""
    (cache_home / "quantrig").mkdir(parents=True)
    (cache_home / "quantrig" / "qemu").symlink_to(tree_home / "quantrig" / "qemu")
    return lambda kind: make_target("qemu", name=kind, board=kind)


def run_guest(target: Target, code: str) -> subprocess.CompletedProcess[str]:
    with guest_python(target) as python:
        return subprocess.run(
            [*python.command, "-c", code], env=dict(python.environment), capture_output=True, text=True, check=False
        )


def test_a_tree_is_arms_and_lists_what_it_was_made_of(board: Callable[[str], Target]) -> None:
    board("raspberry-pi-4")
    tree = newest_tree()
    assert tree is not None
    header = tree.python.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", header, 18) == (183,)  # EM_AARCH64, ELF for the Arm 64-bit Architecture
    archives = list(tree.path.parents[1].glob("apt/archives/*.deb"))
    hashes = subprocess.run(["sha256sum", *archives], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in hashes.splitlines()} == {one.sha256 for one in tree.manifest.packages}
    assert {"libc6", "libstdc++6"} <= {one.name for one in tree.manifest.packages}
    assert tree.manifest.onnxruntime == dict(pin.split("==") for pin in tree.manifest.pins)["onnxruntime"]


def test_a_second_time_nothing_is_done(board: Callable[[str], Target]) -> None:
    board("raspberry-pi-4")
    phases: list[str] = []
    _, made = provision("rpi", progress=lambda phase, *_: phases.append(phase))
    assert not made
    assert phases == []


@pytest.mark.usefixtures("tree_home")
def test_provisioning_that_was_killed_goes_on_where_it_was(cache_home: Path) -> None:
    lab = cache_home.parent / "targets.yaml"
    lab.write_text("targets: {rpi: {board: raspberry-pi-4, environment: cpu, via: qemu}}\n")
    command = [sys.executable, "-m", "harness", "targets", "provision", "rpi", "--lab", str(lab)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.strip())
        if line.strip() == "rpi: wheels":
            process.kill()
    process.wait()
    assert said[-1] == "rpi: wheels"
    home = cache_home / "quantrig" / "qemu"
    assert not (home / "current").exists()
    before = {path: path.stat().st_ino for path in (home / "apt" / "archives").glob("*.deb")}
    assert len(before) > 20
    tree, made = provision("rpi", progress=quiet)
    assert made
    assert {path: path.stat().st_ino for path in (home / "apt" / "archives").glob("*.deb")} == before
    assert [path.name for path in (home / "trees").iterdir()] == [tree.manifest.identity]


@pytest.mark.parametrize(("kind", "title"), [("raspberry-pi-4", "Cortex-A72"), ("raspberry-pi-5", "Cortex-A76")])
def test_the_agent_knows_where_it_is(board: Callable[[str], Target], tmp_path: Path, kind: str, title: str) -> None:
    target = board(kind)
    with connect(target, work_dir=tmp_path) as agent:
        info = agent.describe()
    assert (info.architecture, info.board, info.emulated) == ("aarch64", kind, True)
    assert info.cpu_model.startswith(f"{title} (QEMU ")
    assert kind in info.model
    # What the emulated kernel itself tells programs: HWCAP_ASIMDDP is bit 20 of AT_HWCAP, 16 (Linux' asm/hwcap.h)
    done = run_guest(target, "import ctypes; f = ctypes.CDLL(None).getauxval; f.restype = ctypes.c_ulong; print(f(16))")
    assert bool(int(done.stdout) >> 20 & 1) == ("asimddp" in info.cpu_features) == (kind == "raspberry-pi-5")


HOST = """
import sys, pathlib, threading
from harness.targets.connect import connect
from harness.targets.target import Target, Via
from harness.targets.values import SessionChoice
import hashlib
target = Target("rpi", "raspberry-pi-4", "cpu", Via("qemu"), pathlib.Path())
model = pathlib.Path(sys.argv[1]); digest = hashlib.sha256(model.read_bytes()).hexdigest()
with connect(target, work_dir=pathlib.Path(sys.argv[2])) as agent:
    agent.ship(model, digest, None)
    agent.prepare(digest, options=SessionChoice())
    print("ready", flush=True)
    threading.Event().wait()
"""


def test_agent_and_child_end_with_a_host_that_is_killed(
    board: Callable[[str], Target], matmul_model: Callable[..., Path], tmp_path: Path
) -> None:
    board("raspberry-pi-4")
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(matmul_model()), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        started = psutil.Process(host.pid).children(recursive=True)
        assert len(started) == 2  # the agent and the network's process
        assert {process.name() for process in started} == {"qemu-aarch64-static"}
    finally:
        host.kill()
        host.wait()
    gone, alive = psutil.wait_procs(started, timeout=60)
    for process in alive:
        process.kill()
    assert len(gone) == 2


START_TICKS = """
import os, sys
sys.path.insert(0, os.environ["PYTHONPATH"].split(":")[0])
from agents.limits import _start_ticks
print(os.getpid(), _start_ticks(os.getpid()), flush=True)
sys.stdin.read()
"""


def test_an_agent_under_qemu_knows_when_it_started(board: Callable[[str], Target], tmp_path: Path) -> None:
    """QEMU makes up /proc/PID/stat for who asks for its own: its groups were taken for those of a dead agent."""
    with guest_python(board("raspberry-pi-4")) as python:
        guest = subprocess.Popen(
            [*python.command, "-c", START_TICKS], env=dict(python.environment), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert guest.stdout is not None
        pid, ticks = guest.stdout.readline().split()
        real = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # as this host's kernel tells it
        assert ticks == real
        (tmp_path / f"quantrig-{pid}-{ticks}-1").mkdir()
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.glob("quantrig-*")] == [f"quantrig-{pid}-{ticks}-1"]
        guest.communicate()
        remove_leftovers(tmp_path)
        assert not list(tmp_path.glob("quantrig-*"))


def test_the_memory_limit_of_a_network_holds_under_qemu(board: Callable[[str], Target], tmp_path: Path) -> None:
    """By the agent's control group, and that alone: QEMU 7.2 spins when an allocation fails at a limit from outside."""
    model = tmp_path / "filled.onnx"
    model.write_bytes(filled_bytes())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    with connect(board("raspberry-pi-4"), work_dir=tmp_path) as agent:
        if not agent.describe().policy.memory_limit_kind.startswith("cgroup"):
            pytest.skip("no writable memory controller here")
        agent.ship(model, digest)
        network = agent.prepare(digest, options=SessionChoice()).network_id
        with pytest.raises(Crashed, match="killed by its memory limit of 2048 MB"):
            list(agent.infer(network, [{"shape": np.array([1 << 15, 1 << 15])}]))  # 4 GiB
        again = agent.prepare(digest, options=SessionChoice()).network_id  # its agent lives
        (got,) = agent.infer(again, [{"shape": np.array([10, 10])}])
        assert got["y"] == 100


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with an x86 host")
def test_the_gate_between_instruction_sets(board: Callable[[str], Target], tmp_path: Path) -> None:
    cases = digits_cases()
    for health in check_targets(
        [board("raspberry-pi-4"), board("raspberry-pi-5")], work_dir=tmp_path, cases=lambda: cases
    ):
        assert health.problem is None
        assert health.canary == "exact"
        assert health.cross_isa is not None
        assert health.cross_isa["U8S8"] == 0
        assert health.cross_isa["S8S8"] <= np.abs(cases[1].expected).max() / 127
        # the same sums in another order: not even float is equal by chance alone
        assert 0 < health.cross_isa["float"] <= 1e-4
        assert "U8S8 bit-exact" in health.remarks[0]


def test_a_board_that_computes_something_else_is_unfit(board: Callable[[str], Target], tmp_path: Path) -> None:
    case = digits_cases(1)[0]
    other = IsaCase(case.name, case.model, case.inputs, case.expected + np.float32(1e-3), case.tolerance)
    (health,) = check_targets([board("raspberry-pi-4")], work_dir=tmp_path, cases=lambda: [other])
    assert not health.fit
    assert health.problem is not None
    assert health.problem.startswith("it computes something else than this host (U8S8 within 0.001")


ON_HASWELL = """
import sys, numpy as np, onnx
from harness.quantize.runtime import open_session
x = np.load(sys.argv[3])
for precise in (False, True):
    session = open_session(onnx.load(sys.argv[1]), "digits", threads=1, precise_x86_int8=precise)
    np.save(f"{sys.argv[2]}-{precise}.npy", session.run(None, {session.get_inputs()[0].name: x})[0])
"""


@pytest.mark.skipif(X86 is None or platform.machine() != "x86_64", reason="needs qemu-x86_64-static on x86_64")
def test_x86_without_vnni_departs_and_the_precise_kernels_return(tmp_path: Path) -> None:
    """Against the processor of a board: what a stand-in would publish without the option, and what it does with it."""
    assert X86 is not None
    case = digits_cases(1)[0]
    model = tmp_path / "u8s8.onnx"
    model.write_bytes(case.model)
    images = tmp_path / "x.npy"
    np.save(images, np.concatenate([next(iter(one.values())) for one in case.inputs]))
    subprocess.run(
        [X86, "-cpu", "Haswell", sys.executable, "-c", ON_HASWELL, str(model), str(tmp_path / "y"), str(images)],
        check=True, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    usual, precise = (np.load(tmp_path / f"y-{name}.npy") for name in (False, True))
    assert np.abs(usual - case.expected).max() > 1
    assert np.array_equal(precise, case.expected)
