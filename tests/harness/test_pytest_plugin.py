"""The plug-in as a user meets it: pytest in a process of its own, real agents, a network of a few kilobytes."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree as ET

import psutil
import pytest

from harness import pytest_plugin
from harness.runs.profile import PROFILES
from harness.targets.boards import Environment
from tests.e2e.whole_run import Bench, descendants, wait_for
from tests.warm.process import run_pytest

pytest_plugins = ["pytester"]

LAB = """\
targets:
  here: {board: generic, environment: cpu, via: local, tags: [fast]}
  pi: {board: raspberry-pi-4, environment: cpu, via: emulated, tags: [fast, dotprod]}
  jetson: {board: jetson-orin-nano, environment: gpu, via: emulated}
  gone: {board: generic, environment: cpu, via: {address: "127.0.0.1:9"}, tags: [broken]}
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a job and a lab; agents keep their data apart from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    monkeypatch.setenv("QUANTRIG_STORE", str(pytester.path / "must-not-exist.db"))
    Bench(pytester.path).write_lab(LAB)
    return pytester


@pytest.fixture
def bare(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project that has nothing to do with boards."""
    return pytester


def runs(suite: pytest.Pytester, folder: str = "reports/pytest") -> list[tuple[str, str]]:
    with sqlite3.connect(suite.path / folder / "quantrig.db") as database:
        return list(database.execute("select job_name, status from runs order by started, run_id"))


def said(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines + result.errlines)


def usage_error(result: pytest.RunResult) -> str:
    """The one line of an exit 4."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said(result)
    assert "Traceback" not in said(result)
    assert "INTERNALERROR" not in said(result)
    lines = [line for line in said(result).splitlines() if line.startswith("ERROR")]
    assert len(lines) == 1, said(result)
    return lines[0]


ASKS = "def test_it(target):\n    print('ran on', target.name)\n"

# -- which targets ----------------------------------------------------------------------------------------------------


def test_a_test_runs_once_for_each_chosen_target(suite: pytest.Pytester) -> None:
    suite.makepyfile(ASKS)
    everywhere = run_pytest(suite, "-v")
    everywhere.assert_outcomes(passed=4)
    everywhere.stdout.fnmatch_lines([f"*::test_it?{name}? PASSED*" for name in ("here", "pi", "jetson", "gone")])
    some = run_pytest(suite, "-v", "--targets", " jetson, pi,")
    some.assert_outcomes(passed=2)
    assert [m for line in some.outlines for m in re.findall(r"test_it\[(\w+)\] PASSED", line)] == ["jetson", "pi"]


def test_parameters_and_classes_of_a_test_go_together_with_targets(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("margin", [1, 2])
        class TestBoth:
            def test_in_class(self, compare, target, margin):
                assert callable(compare) and margin in (1, 2)

        @pytest.mark.parametrize("target", ["pi"], indirect=True)
        def test_own_choice(compare, target):
            assert target.environment == "cpu"

        @pytest.mark.parametrize("target", ["pie"], indirect=True)
        def test_wrong_choice(target):
            pass
        """
    )
    result = run_pytest(suite, "--targets", "pi,jetson", "-v")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*::TestBoth::test_in_class?pi-1? PASSED*", "*no target 'pie'*did you mean*pi*"])
    assert "Traceback" not in said(result)


def test_what_a_project_calls_target_itself_stays_its_own(bare: pytest.Pytester) -> None:
    bare.makepyfile(
        """
        import pytest

        @pytest.fixture
        def target():
            return 42

        def test_fixture(target):
            assert target == 42

        @pytest.mark.board("nrf52")
        @pytest.mark.parametrize("target", [1, 2])
        def test_parameter(target):
            assert target in (1, 2)

        @pytest.mark.parametrize(("lab", "target"), [(1, 2)])
        def test_both(lab, target):
            assert (lab, target) == (1, 2)
        """
    )
    bare.makefile(".yaml", targets="- this is\n- another tool's\n")
    bare.runpytest_subprocess("-W", "error").assert_outcomes(passed=4)


def test_the_board_marker_filters_by_environment_and_tags(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.board(environment="cpu", tags=["fast"])
        def test_fast(target): ...

        @pytest.mark.board(tags=["fast", "dotprod"])
        def test_dotprod(target): ...

        @pytest.mark.board(environment="gpu")
        class TestGpu:
            def test_any(self, target): ...

            @pytest.mark.board(tags=["fast"])
            def test_none(self, target): ...
        """
    )
    result = run_pytest(suite, "-v", "-rs")
    passed = {m for line in result.outlines for m in re.findall(r"(test_\w+\[[\w-]+\]) PASSED", line)}
    assert passed == {"test_fast[here]", "test_fast[pi]", "test_dotprod[pi]", "test_any[jetson]"}
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no chosen target has the environment and tags*"])


@pytest.mark.parametrize(
    ("marker", "what"),
    [
        ("'cpu'", "does not know 'cpu'"),
        ("enviroment='cpu'", "does not know enviroment"),
        ("environment='arm'", "environment 'arm' is none of gpu, cpu, fpga, host"),
        ("tags='dotprod'", "tags 'dotprod' is no list of words"),
    ],
)
def test_a_marker_that_says_something_else_is_a_usage_error(suite: pytest.Pytester, marker: str, what: str) -> None:
    suite.makepyfile(f"import pytest\n\n@pytest.mark.board({marker})\n{ASKS}")
    line = usage_error(run_pytest(suite))
    assert what in line
    assert "::test_it" in line


def test_without_a_lab_tests_are_skipped_with_the_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "def test_a(compare): ...\n\ndef test_b(lab): ...\n\ndef test_c(target): ...\n\ndef test_d(): ...\n"
    )
    (suite.path / "targets.yaml").unlink()
    result = run_pytest(suite, "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*no lab: give --lab targets.yaml*"])


# -- usage errors -----------------------------------------------------------------------------------------------------


def test_wrong_options_are_one_line_and_exit_4(suite: pytest.Pytester) -> None:
    suite.makepyfile(ASKS)
    assert "no target 'pie'" in usage_error(run_pytest(suite, "--targets", "here,pie"))
    assert "names no target" in usage_error(run_pytest(suite, "--targets", ","))
    assert "nowhere.yaml" in usage_error(run_pytest(suite, "--lab", "nowhere.yaml"))
    assert "invalid choice: 'slow'" in said(run_pytest(suite, "--quantrig-profile", "slow"))
    (suite.path / "bad.yaml").write_text("targets:\n  a: {board: generic, environment: cpu, via: lokal}\n")
    assert "bad.yaml:2" in usage_error(run_pytest(suite, "--lab", "bad.yaml"))
    (suite.path / "targets.yaml").unlink()
    assert "--lab" in usage_error(run_pytest(suite, "--targets", "here"))


@pytest.mark.parametrize("text", ["targets: [\n", "- a\n", "targets:\n  a: {board: no-such-board, via: local}\n", "\0"])
def test_a_broken_lab_in_the_root_folder_is_one_line(suite: pytest.Pytester, text: str) -> None:
    suite.makepyfile(ASKS + "\ndef test_other(): ...\n")
    (suite.path / "targets.yaml").write_text(text)
    assert "targets.yaml" in usage_error(run_pytest(suite))


def test_under_xdist_wrong_options_are_still_one_line(suite: pytest.Pytester) -> None:
    suite.makepyfile(f"import pytest\n\n@pytest.mark.board('cpu')\n{ASKS}")
    assert "no target 'pie'" in usage_error(run_pytest(suite, "-n", "1", "--targets", "pie"))
    result = run_pytest(suite, "-n", "1")
    result.assert_outcomes(errors=1)
    assert "board marker does not know 'cpu'" in said(result)
    assert "Traceback" not in said(result)


def test_lists_in_the_plug_in_are_those_of_the_rooms() -> None:
    """The plug-in repeats them because importing the rooms would slow every pytest run."""
    assert set(pytest_plugin.PROFILES) == set(PROFILES)
    assert set(pytest_plugin.ENVIRONMENTS) == set(get_args(Environment))


# -- a project without boards -----------------------------------------------------------------------------------------


def test_a_project_without_boards_pays_nothing(bare: pytest.Pytester) -> None:
    bare.makepyfile(
        """
        import sys

        def test_nothing_heavy():
            heavy = {"numpy", "onnx", "onnxruntime", "pandas", "grpc", "pydantic", "sqlalchemy", "filelock"}
            ours = {name for name in sys.modules if name.startswith("harness.")}
            assert not heavy & set(sys.modules)
            assert all(name.startswith(("harness._version", "harness.pytest_plugin")) for name in ours)
        """
    )
    bare.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:xdist").assert_outcomes(passed=1)


def test_help_and_markers_show_what_there_is(bare: pytest.Pytester) -> None:
    shown = said(bare.runpytest_subprocess("--help"))
    for option in (
        "--lab=FILE",
        "--targets=A,B",
        "--quantrig-out=DIR",
        "--quantrig-profile={quick,standard,release}",
        "--quantrig-strict",
    ):
        assert option in shown
    assert "@pytest.mark.board(environment=None, tags=())" in said(bare.runpytest_subprocess("--markers"))


# -- compare ----------------------------------------------------------------------------------------------------------

TWO = """\
def test_accuracy(compare):
    result = compare("job.yaml")
    assert result.value("accuracy_top1", "Floating-Point") == 1.0

def test_memory(compare):
    assert compare("job.yaml").value("learnable_memory_ratio") < 0.5
"""


def test_one_run_serves_all_tests_of_a_pytest_run_and_the_next_one_runs_again(suite: pytest.Pytester) -> None:
    suite.makepyfile(TWO)
    for times in (1, 2):
        run_pytest(suite, "--targets", "pi", "--quantrig-out", "out").assert_outcomes(passed=2)
        assert runs(suite, "out") == [("tiny", "done")] * times
    assert not (suite.path / "reports").exists()
    assert not (suite.path / "must-not-exist.db").exists()


def test_jobs_that_differ_only_in_where_their_data_lie_are_not_mixed_up(suite: pytest.Pytester) -> None:
    other = suite.mkdir("other")
    bench = Bench(other)
    bench.data(60)
    suite.makepyfile(
        """
        def test_both(compare):
            first, second = compare("job.yaml"), compare("other/job.yaml")
            assert (first.record.samples, second.record.samples) == (160, 20)
        """
    )
    run_pytest(suite, "--targets", "pi").assert_outcomes(passed=1)


def test_figures_become_properties_of_the_test(suite: pytest.Pytester) -> None:
    (suite.path / "second.yaml").write_text((suite.path / "job.yaml").read_text().replace("name: tiny", "name: again"))
    suite.makepyfile(
        """
        def test_it(compare):
            compare("job.yaml"), compare("job.yaml"), compare("second.yaml")
        """
    )
    run_pytest(suite, "--targets", "jetson", "--junitxml", "lab.xml").assert_outcomes(passed=1)
    (case,) = ET.parse(suite.path / "lab.xml").getroot().iter("testcase")
    listed = [(one.get("name"), one.get("value")) for one in case.iter("property")]
    properties = dict(listed)
    assert len(listed) == len(properties)  # the same job twice is told once
    assert properties["Floating-Point.accuracy_top1"] == "1"
    assert 0.9 < float(properties["Quantized.accuracy_top1"] or 0) <= 1
    assert properties["Quantized.accuracy_top1.source"] == "emulated"
    assert properties["again.Quantized.accuracy_top1"] == properties["Quantized.accuracy_top1"]
    assert "Quantized.latency_p50_ms" not in properties  # a stand-in has no time


def test_a_failed_board_fails_its_own_tests_with_one_line(suite: pytest.Pytester) -> None:
    suite.makepyfile(TWO)
    result = run_pytest(suite, "--targets", "gone,pi", "-v", "--tb=short")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*test_accuracy?gone? FAILED*"])
    lines = [line for line in result.outlines if line.startswith("gone: unreachable: nothing answers")]
    assert len(lines) == 2
    assert "pytest_plugin" not in said(result)
    assert runs(suite) == [("tiny", "failed"), ("tiny", "done")]  # and it was asked once


@pytest.mark.parametrize(
    ("job", "text", "what"),
    [
        ("missing.yaml", None, "missing.yaml"),
        ("bad.yaml", "model: [\n", "bad.yaml"),
        ("bad.yaml", "model: tiny.onnx\ndata: {source: data.npz}\nmetrics: [acuracy_top1]\n", "accuracy_top1"),
        ("bad.yaml", "model: tiny.onnx\ndata: {source: data.npz}\nmetrics: ['gone:gone']\n", "module not found"),
        ("bad.yaml", "model: data.npz\ndata: {source: data.npz}\n", "data.npz"),
    ],
)
def test_a_bad_job_is_one_line(suite: pytest.Pytester, job: str, text: str | None, what: str) -> None:
    if text is not None:
        (suite.path / job).write_text(text)
    suite.makepyfile(f"def test_it(compare):\n    compare('{job}')\n\ndef test_other(): ...\n")
    result = run_pytest(suite, "--targets", "pi")
    result.assert_outcomes(passed=1, failed=1)
    assert len([line for line in result.outlines if line.startswith("pi: ") and what in line]) == 1, said(result)
    assert "INTERNALERROR" not in said(result)
    assert "Traceback" not in said(result)
    assert "pytest_plugin" not in said(result)


# -- several workers --------------------------------------------------------------------------------------------------


def folders(suite: pytest.Pytester) -> list[Path]:
    return [path.parent for path in (suite.path / "reports" / "pytest").glob("*/run.json")]


def blocks_in(folder: Path) -> list[tuple[float, float]]:
    """(start, end) of every timed block by the board's clock, s."""
    (target,) = json.loads((folder / "run.json").read_text())["targets"]
    return [(one["started_unix_s"], one["started_unix_s"] + one["duration_s"]) for one in target["blocks"]]


def board_time(folder: Path) -> tuple[float, float]:
    """From the first outputs that a board returned to the end of its last block, s."""
    written = [path.stat().st_mtime for path in (folder / "outputs").rglob("*.npz")]
    blocks = blocks_in(folder)
    assert blocks
    return min(written), max(end for _, end in blocks)


@pytest.mark.slow
def test_two_workers_never_use_one_board_at_once_and_share_what_was_run(suite: pytest.Pytester) -> None:
    (suite.path / "second.yaml").write_text((suite.path / "job.yaml").read_text().replace("name: tiny", "name: again"))
    # the first half goes to one worker, the second half to the other: both boards' jobs are asked for at once
    suite.makepyfile(
        """
        import pathlib

        def ask(compare, job, worker_id):
            run_id = compare(job).record.run_id
            with open("asked.txt", "a") as file:
                file.write(f"{worker_id} {run_id}\\n")

        def test_1(compare, worker_id): ask(compare, "job.yaml", worker_id)
        def test_2(compare, worker_id): ask(compare, "second.yaml", worker_id)
        def test_3(compare, worker_id): ask(compare, "second.yaml", worker_id)
        def test_4(compare, worker_id): ask(compare, "job.yaml", worker_id)
        """
    )
    run_pytest(suite, "-n", "2", "--targets", "here").assert_outcomes(passed=4)

    asked = [line.split() for line in (suite.path / "asked.txt").read_text().splitlines()]
    assert len({worker for worker, _ in asked}) == 2
    assert len({run for _, run in asked}) == 2
    assert sorted(runs(suite)) == [("again", "done"), ("tiny", "done")]  # four tests, two workers, two runs
    first, second = sorted(board_time(folder) for folder in folders(suite))
    assert first[1] <= second[0]


@pytest.mark.slow
def test_timed_blocks_of_two_boards_on_one_machine_never_overlap(suite: pytest.Pytester) -> None:
    (suite.path / "targets.yaml").write_text(
        "targets:\n"
        "  left: {board: generic, environment: cpu, via: local}\n"
        "  right: {board: generic, environment: cpu, via: local}\n"
    )
    suite.makepyfile("def test_it(compare):\n    compare('job.yaml')\n")
    run_pytest(suite, "-n", "2").assert_outcomes(passed=2)
    found = folders(suite)
    assert len(found) == 2
    assert all(blocks_in(folder) for folder in found)
    blocks = sorted(block for folder in found for block in blocks_in(folder))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(blocks))


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "1"), marks=pytest.mark.slow)])
def test_ctrl_c_ends_pytest_and_leaves_no_agent(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite.makepyfile(TWO)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--targets", "here", *workers],
        cwd=suite.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: bool(agents_of(process.pid)), "an agent")
        family = descendants(process.pid)
        # as a terminal does: to the whole group; the agents are in sessions of their own
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == pytest.ExitCode.INTERRUPTED, output
        # With workers it is who hears the signal first that says so: the worker writes it with a hyphen.
        assert re.search("keyboard-?interrupt", output, re.IGNORECASE), output
        assert "failed" not in output
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def agents_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in descendants(pid):
        try:
            if "agents" in process.cmdline() and "serve" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_reports_go_below_the_root_folder(suite: pytest.Pytester) -> None:
    folder = suite.mkpydir("inner")
    (Path(folder) / "test_inner.py").write_text("def test_it(compare):\n    compare('../job.yaml')\n")
    run_pytest(suite, "inner", "--targets", "pi", "--rootdir", ".").assert_outcomes(passed=1)
    (page,) = (suite.path / "reports" / "pytest").glob("tiny-pi-*/report.html")
    assert page.stat().st_size > 0
