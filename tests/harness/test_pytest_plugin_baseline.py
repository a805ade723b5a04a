"""Baselines as a user meets them: a repository, a network that gets worse, pytest in a process of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.e2e.whole_run import Bench
from tests.warm.process import run_pytest

pytest_plugins = ["pytester"]

LAB = """\
targets:
  pi: {board: raspberry-pi-4, environment: cpu, via: emulated}
  here: {board: generic, environment: cpu, via: local}
"""
#: 160 samples cannot show one point (inconclusive), and int8 takes a quarter of the memory (pass).
GATES = """\
gates:
  accuracy: {non_inferior_by: 1 pt, source: [measured, emulated]}
  weights: {metric: learnable_memory_ratio, at_most: 0.5, source: [measured, emulated]}
"""


def git(folder: Path, *arguments: str) -> None:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT")}
    subprocess.run(["git", "-C", folder, *own, *arguments], env=plain, check=True, capture_output=True)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A repository with a job, a lab and three tests, committed on `trunk`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    bench = Bench(pytester.path)
    bench.write_lab(LAB)
    bench.write_job(GATES)
    pytester.makepyfile(
        """
        def test_gates(compare):
            assert compare("job.yaml").verdict.passed

        def test_no_regression(compare):
            compare("job.yaml").assert_no_regression()

        def test_own_words(compare):
            assert compare("job.yaml").against_baseline.regressions == ()
        """
    )
    git(pytester.path, "init", "--quiet", "--initial-branch", "trunk")
    commit(pytester.path)
    return pytester


def commit(folder: Path) -> None:
    git(folder, "add", "job.yaml", "tiny.onnx", "data.npz", "targets.yaml")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "x")


def worse(model: Path) -> None:
    network = onnx.load(model)
    (weights,) = [one for one in network.graph.initializer if one.name == "w2"]
    values = numpy_helper.to_array(weights)
    noise = np.random.default_rng(5).standard_normal(values.shape).astype(np.float32) * 0.08
    weights.CopyFrom(numpy_helper.from_array(values + noise, "w2"))
    onnx.save(network, model)


def said(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines + result.errlines)


def test_a_name_that_means_nothing_is_one_line_and_exit_4(suite: pytest.Pytester) -> None:
    result = run_pytest(suite, "--quantrig-baseline", "tronk")
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said(result)
    assert "no baseline 'tronk': write last, a run's id or a branch; nothing is recorded yet" in said(result)
    assert "Traceback" not in said(result)


@pytest.mark.slow
def test_a_network_that_gets_worse_fails_until_it_is_accepted(suite: pytest.Pytester) -> None:
    first = run_pytest(suite, "--targets", "pi", "-rs", "--quantrig-baseline", "trunk")
    first.assert_outcomes(passed=2, skipped=1, warnings=1)  # git knows the branch, nothing is recorded on it yet
    first.stdout.fnmatch_lines(
        [
            "*QuantrigWarning: tiny on pi: gate accuracy is inconclusive: *samples needed*",
            "gates: 1 inconclusive, 1 passed",
            "baseline 'trunk': 1 comparison without one",
            "SKIPPED*no good run of tiny on pi under 'trunk'",
        ]
    )

    worse(suite.path / "tiny.onnx")
    commit(suite.path)
    second = run_pytest(suite, "--targets", "pi", "--quantrig-baseline", "trunk", "--junitxml", "lab.xml")
    second.assert_outcomes(passed=1, failed=2, warnings=1)
    second.stdout.fnmatch_lines(
        [
            "E*AssertionError: tiny on pi: 1 of 3 figures is worse than in run *-tiny-* of trunk *",
            "E*Quantized accuracy_top1: 100.00 % → *on the same 160 samples * lost, 0 won*",
            "E*since then the model changed: float network*",
            "E*assert 1 figure beside the baseline:*",
            "tiny on pi: inconclusive: accuracy:*",
            "baseline 'trunk': 1 worse, *",
        ]
    )
    assert "result.py" not in said(second)  # the line of the test, not one of ours
    case = next(ET.parse(suite.path / "lab.xml").getroot().iter("testcase"))
    told = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
    assert (told["verdict"], told["gate.accuracy"], told["gate.weights"]) == ("inconclusive", "inconclusive", "pass")
    assert told["Quantized.accuracy_top1.standing"] == "worse"
    assert float(told["Quantized.accuracy_top1.change_high"]) < float(told["Quantized.accuracy_top1.change_low"]) + 1
    assert float(told["Quantized.accuracy_top1.change_high"]) < -0.005
    assert told["baseline"] < told["run_id"]

    # a run without a baseline accepts what is there now
    run_pytest(suite, "--targets", "pi", "-k", "gates").assert_outcomes(passed=1, deselected=2, warnings=1)
    accepted = run_pytest(suite, "--targets", "pi", "--quantrig-baseline", "trunk", "-k", "no_regression")
    accepted.assert_outcomes(passed=1, deselected=2, warnings=1)


@pytest.mark.slow
def test_a_slower_measured_network_and_what_is_undecided_are_told_by_workers_too(suite: pytest.Pytester) -> None:
    run_pytest(suite, "--targets", "here", "-k", "gates").assert_outcomes(passed=1, deselected=2, warnings=1)
    with sqlite3.connect(suite.path / "reports/pytest/quantrig.db") as database:  # as if it had been twice as fast
        database.execute(
            "update figures set value = value / 2, ci_low = ci_low / 2, ci_high = ci_high / 2 "
            "where metric = 'latency_p50_ms' and network = 'Quantized'"
        )
        (run_id,) = database.execute("select run_id from runs").fetchone()
    database.close()
    result = run_pytest(suite, "--targets", "here", "-n", "2", "--quantrig-baseline", run_id, "--quantrig-strict")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E*tiny on here: 1 of * figures is worse than in run *",
            "E*Quantized latency_p50_ms: *5 % may be lost*",
            "E*since then nothing that is recorded changed*",
            "1 comparison on 1 board*",
            f"baseline '{run_id}': 1 worse, *",
        ]
    )
    result.stdout.fnmatch_lines(["E*where False = <here: inconclusive: *>.passed"])
