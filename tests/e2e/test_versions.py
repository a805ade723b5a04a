"""A host of this version with agents of earlier ones: their own code, taken from the history of this repository."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness._version import __version__
from tests.e2e.whole_run import Agent, Bench

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits" / "job.yaml"
#: The last agent before settings could be held.
BEFORE_SETTINGS = "c1f50f92753d2fe8f723d70bf43321d06b7143bd"
#: One that differs by much more: without families of boards, their details, clocks, and who ran which node.
BEFORE_FAMILIES = "aab7cff78ddeeb8e9377ca395177da8c9f909533"
Earlier = Callable[..., Agent]


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Earlier]:
    """`earlier(commit)`: the agent of that commit, served; as version 0.0.9 and, where asked, another protocol."""
    started: list[Agent] = []

    def start(commit: str, protocol: int | None = None) -> Agent:
        folder = tmp_path / "earlier"
        archived = subprocess.run(["git", "archive", commit, "agents"], cwd=ROOT, capture_output=True, check=False)
        if archived.returncode != 0:
            pytest.skip(f"commit {commit[:7]} is not in this clone: fetch the whole history")
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
            archive.extractall(folder, filter="data")
        (folder / "agents" / "_version.py").write_text('__version__ = "0.0.9"\n')
        if protocol is not None:
            path = folder / "agents" / "protocol" / "__init__.py"
            text = path.read_text()
            assert "PROTOCOL_VERSION = 1\n" in text
            path.write_text(text.replace("\nPROTOCOL_VERSION = 1\n", f"\nPROTOCOL_VERSION = {protocol}\n"))
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder))
            patch.chdir(folder)
            agent = Agent(tmp_path / "data")
        started.append(agent)
        # The code of the earlier agent, and not the one that is installed here.
        assert f"{folder}" in Path(f"/proc/{agent.process.pid}/environ").read_text()
        return agent

    yield start
    for agent in started:
        agent.close()


def lab_of(agent: Agent, bench: Bench, more: str = "") -> None:
    bench.write_lab(
        f"targets:\n  far:\n    board: generic\n    environment: cpu\n    via: {{address: '{agent.address}'}}\n{more}"
    )


@pytest.mark.slow
def test_a_whole_digits_run_on_an_earlier_agent(bench: Bench, earlier: Earlier) -> None:
    lab_of(earlier(BEFORE_FAMILIES), bench, "    settings: {governor: performance}\n")
    bench.env["OMP_NUM_THREADS"] = "1"
    bench.quantrig("run", str(DIGITS), "--lab", "targets.yaml", "--profile", "quick", "--out", "out")
    target = bench.target("far")
    assert target["status"] == "done"
    assert target["description"]["agent_version"] == "0.0.9"
    assert [note for note in target["notes"] if f"its agent is version 0.0.9, this host {__version__}" in note]
    (setting,) = target["settings"]
    assert "agent 0.0.9 cannot set anything on the board: upgrade it" in setting["problem"]
    figures = {(one["network"], one["metric"]): one for one in bench.record()["figures"]}
    assert figures["Quantized", "accuracy_top1"]["value"] > 0.9
    assert figures["Quantized", "latency_p50_ms"]["source"] == "measured"


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (0, f"agent 0.0.9 speaks protocol 0, this quantrig {__version__} needs 1 or newer; upgrade the agent with"),
        (2, f"agent 0.0.9 speaks protocol 2, this quantrig {__version__} speaks 1; update quantrig on this host"),
    ],
)
def test_too_far_apart_is_one_sentence(bench: Bench, earlier: Earlier, protocol: int, words: str) -> None:
    lab_of(earlier(BEFORE_SETTINGS, protocol), bench)
    checked = bench.quantrig("targets", "check", code=3)
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("far")]
    assert words in line


def test_a_skew_that_works_is_named(bench: Bench, earlier: Earlier) -> None:
    lab_of(earlier(BEFORE_SETTINGS), bench)
    checked = bench.quantrig("targets", "check")
    assert f"far: its agent is version 0.0.9, this host {__version__}: install the same" in checked.stdout
    assert os.linesep.join(checked.stdout.splitlines()[:2]).count("0.0.9") == 1
