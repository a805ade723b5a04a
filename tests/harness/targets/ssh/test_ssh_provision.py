"""Whole provisionings of a 'board': this machine behind a real sshd, in a folder of its own, without systemd.

The agent is the real one, reached over mutual TLS; its upgrades are copies of its source with another version.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.sftp_server import SftpServer
from harness.errors import BoardError, UserError
from harness.targets.connect import connect
from harness.targets.lab import load_lab
from harness.targets.ssh.bundle import build_agent_wheel
from harness.targets.ssh.provision import Provisioned, Wishes, provision
from harness.targets.ssh.service import restart_agent
from harness.targets.ssh.unprovision import unprovision
from harness.targets.target import RuntimePackages, Target
from tests.harness.targets.ssh.conftest import broken_agent

ROOT = Path(__file__).parents[4]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
#: The agent's oldest Python where it can be had: looked for before HOME is the test's.
_OLD_PYTHONS = (*Path("~/.pyenv/versions").expanduser().glob("3.10.*/bin/python"), Path("/usr/bin/python3.10"))


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels are fetched once for all tests here."""
    cache = tmp_path_factory.getbasetemp() / "wheel-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture
def lab(sshd: SftpServer, tmp_path: Path, free_port: int, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A lab file with the board; its agent is ended whatever the test did."""
    key = sshd.key.with_name("host-key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {key}")
    path = tmp_path / "targets.yaml"
    old = next((one for one in _OLD_PYTHONS if one.is_file()), None)
    python = old if old is not None and "oldest" in request.node.name else sys.executable
    ssh = (
        f"host: 127.0.0.1, user: {sshd.user}, port: {sshd.port}, key: {sshd.key}, service: supervisor, "
        f"folder: {tmp_path}/board/agent, python: {python}"
    )
    path.write_text(
        f'targets:\n  bench:\n    board: generic\n    via: {{address: "127.0.0.1:{free_port}", tls: lab}}\n'
        f"    ssh: {{{ssh}}}\n"
    )
    yield path
    for process in agents_below(tmp_path / "board"):
        process.kill()


def agents_below(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def nothing_runs_below(folder: Path) -> bool:
    """A supervisor has let go of its lock a moment before it is gone."""
    left = [one for one in agents_below(folder) if one.status() != psutil.STATUS_ZOMBIE]
    _, alive = psutil.wait_procs(left, timeout=60)
    return not alive


def bench(lab: Path) -> Target:
    return load_lab(lab).targets["bench"]


def wheel(folder: Path, version: str) -> Path:
    """The agent's wheel under another version."""
    source = folder / f"source-{version}" / "agents"
    if not source.is_dir():
        shutil.copytree(ROOT / "agents", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
        (source / "_version.py").write_text(f'"""Version."""\n\n__version__ = "{version}"\n')
    return build_agent_wheel(source)


def version_that_serves(target: Target, folder: Path) -> str:
    with connect(target, work_dir=folder) as agent:
        return agent.describe().agent_version


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its time and size, but what a serving agent and Python write themselves."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if not {"data", "run", "__pycache__"} & set(path.relative_to(folder).parts) and not path.is_dir()
    }


def test_a_boards_life(lab: Path, tmp_path: Path) -> None:
    target = bench(lab)
    agent_folder = tmp_path / "board" / "agent"
    said: list[str] = []

    def make(version: str, *, dry_run: bool = False) -> Provisioned:
        wishes = Wishes(agent_wheel=wheel(tmp_path, version), dry_run=dry_run)
        return provision(target, wishes, log=tmp_path / "log", tell=said.append)

    # --dry-run: every step, nothing done
    planned = make("0.9.1", dry_run=True)
    assert planned.changed
    assert [step for step in planned.steps if "install release 0.9.1-" in step]
    assert not (tmp_path / "board").exists()
    assert not Path(os.environ["XDG_CONFIG_HOME"]).exists()

    # from nothing to serving over mutual TLS
    first = make("0.9.1")
    assert first.steps == planned.steps
    assert first.serving_s is not None
    assert version_that_serves(target, tmp_path) == "0.9.1"

    # a second time: nothing
    before = snapshot(agent_folder)
    again = make("0.9.1")
    assert not again.changed
    assert snapshot(agent_folder) == before

    # an upgrade in place sends what is new only
    said.clear()
    assert make("0.9.2").changed
    assert [line for line in said if line.startswith("send ")] == [
        line for line in said if "0.9.2-py3-none-any" in line
    ]
    assert version_that_serves(target, tmp_path) == "0.9.2"

    # an agent that does not come up: the one before serves again, in bounded time
    began = time.monotonic()
    with pytest.raises(BoardError) as caught:
        provision(target, Wishes(agent_wheel=broken_agent(tmp_path, "0.9.3")), log=tmp_path / "log")
    assert time.monotonic() - began < 120
    assert "did not come up: it ended 2 times; it said: AssertionError: broken on purpose" in str(caught.value)
    assert re.search(r"; the one before it \(0\.9\.2-\w+\) serves again$", str(caught.value))
    assert version_that_serves(target, tmp_path) == "0.9.2"
    assert not [path for path in (agent_folder / "releases").iterdir() if path.name.startswith("0.9.3")]

    # what the recovery of a run uses
    pid = int((agent_folder / "run" / "agent.pid").read_text())
    assert "restarted the agent" in restart_agent(target)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert version_that_serves(target, tmp_path) == "0.9.2"

    # nothing of it is left, and what was beside it is
    (tmp_path / "board" / "mine").write_text("kept")
    assert unprovision(target, dry_run=True).removed == (str(agent_folder),)
    assert agent_folder.is_dir()
    unprovision(target)
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["mine"]
    assert nothing_runs_below(tmp_path / "board")
    assert unprovision(target).removed == ()


def quantrig(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "QUANTRIG_STORE": str(folder / "store.db")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=170, env=env)


def test_killed_midway_then_again_then_the_digits_job_runs_there(lab: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "harness", "targets", "provision", "bench"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "install release" in line:
                process.send_signal(signal.SIGKILL)
                break
    releases = list((tmp_path / "board" / "agent" / "releases").iterdir())
    assert not [path for path in releases if (path / "release.json").exists()]

    done = quantrig("targets", "provision", "bench", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["changed"]
    assert not [step for step in result["steps"] if step.startswith(("send", "issue"))]  # that was done already
    checked = quantrig("targets", "check", "--json", folder=tmp_path)
    assert json.loads(checked.stdout)[0]["fit"], checked.stdout

    job = ROOT / "examples" / "digits" / "job.yaml"
    ran = quantrig(
        "run", str(job), "--lab", str(lab), "--targets", "bench", "--profile", "quick", "--out", "out", folder=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = {(row["network"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["Quantized", "accuracy_top1"]["value"]) > 0.9
    assert rows["Quantized", "latency_p50_ms"]["source"] == "measured"
    assert quantrig("targets", "unprovision", "bench", folder=tmp_path).returncode == 0
    assert not (tmp_path / "board").exists()


def test_what_is_not_ours_is_not_touched(lab: Path, tmp_path: Path) -> None:
    folder = tmp_path / "board" / "agent"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something that is not ours"):
        provision(bench(lab), Wishes(agent_wheel=wheel(tmp_path, "0.9.1")))
    with pytest.raises(UserError, match="not touched"):
        unprovision(bench(lab))
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_runtime_that_cannot_be_loaded_is_no_agent_on_the_oldest_python(lab: Path, tmp_path: Path) -> None:
    """The wheel a user brings installs, and does not fit the board: what a wrong CUDA looks like."""
    target = bench(lab)
    fitting = provision(target, Wishes(agent_wheel=wheel(tmp_path, "0.9.1")))
    broken = tmp_path / "onnxruntime_gpu-1.23.0-py3-none-any.whl"
    with zipfile.ZipFile(broken, "w") as archive:
        info = "onnxruntime_gpu-1.23.0.dist-info"
        archive.writestr("onnxruntime/__init__.py", "raise ImportError('libcudart.so.12: cannot open shared object')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.23.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    own = dataclasses.replace(target, packages=RuntimePackages(wheel=broken, system_site_packages=True))
    with pytest.raises(
        BoardError, match=r"it can run no network \(.*libcudart.*the one before it \(0\.9\.1-\w+\) serves"
    ):
        provision(own, Wishes(agent_wheel=wheel(tmp_path, "0.9.1")))
    assert not provision(target, Wishes(agent_wheel=wheel(tmp_path, "0.9.1"))).changed
    with connect(target, work_dir=tmp_path) as agent:
        assert [one.name for one in agent.describe().runtimes if one.version] == ["onnxruntime"]
    assert fitting.release == (tmp_path / "board" / "agent" / "accepted").read_text().strip()


def test_a_first_agent_that_does_not_come_up_is_stopped(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="broken on purpose; it is stopped, there is no release before it"):
        provision(bench(lab), Wishes(agent_wheel=broken_agent(tmp_path, "0.9.3")))
    assert nothing_runs_below(tmp_path / "board")
    with pytest.raises(BoardError):
        version_that_serves(bench(lab), tmp_path)
