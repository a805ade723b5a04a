"""`quantrig nightly`, `history` and `compare` as a user, cron and systemd start them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.demo import JOB
from harness.errors import ExitCode, UserError
from tests.warm import process as warm

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "packaging" / "systemd"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "harness", *words]


def quantrig(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return warm.quantrig(*words, cwd=cwd, env=environ(cwd))


def environ(cwd: Path) -> dict[str, str]:
    return os.environ | {"QUANTRIG_STORE": str(cwd / "store.db"), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def write_plan(folder: Path, more: str = "", jobs: str = "") -> Path:
    (folder / "targets.yaml").write_text(
        "targets:\n"
        "  pi: {board: raspberry-pi-4, environment: cpu, via: emulated}\n"
        '  gone: {board: generic, environment: cpu, via: {address: "127.0.0.1:9"}}\n'
    )
    plan = folder / "plan.yaml"
    plan.write_text(f"name: lab\nprofile: quick\n{more}\njobs:\n{jobs or f'  - {{job: {JOB}, targets: [pi]}}'}\n")
    return plan


@pytest.mark.slow
def test_nights_are_quiet_until_something_happens_and_go_on_after_a_signal(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    began = subprocess.Popen(
        command("nightly", str(plan)), cwd=tmp_path, env=environ(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = wait_for_log(tmp_path / "nightly", began)
    began.send_signal(signal.SIGSTOP)  # else it may be over before the other one asks
    busy = quantrig("nightly", str(plan), cwd=tmp_path)
    assert busy.returncode == 2
    assert busy.stderr.startswith("error: a night of 'lab' is still running")
    began.send_signal(signal.SIGTERM)
    began.send_signal(signal.SIGCONT)
    out, err = began.communicate(timeout=120)
    assert began.returncode == 130, (out, err)
    assert err == f"error: interrupted; `quantrig nightly --resume {plan}` goes on from here\n"

    resumed = quantrig("nightly", str(plan), "--resume", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    night = json.loads(resumed.stdout)
    assert [entry["outcome"] for entry in night["entries"]] == ["done"]
    assert Path(night["folder"]) == log.parent
    assert (log.parent / "digits" / "report.html").exists()
    again = quantrig("nightly", str(plan), "--resume", cwd=tmp_path)
    assert again.returncode == 2
    assert "is complete; leave --resume out" in again.stderr

    second = quantrig("nightly", str(plan), cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")  # nothing new: cron sends no mail

    history = json.loads(quantrig("history", "--json", cwd=tmp_path).stdout)
    accuracy = next(one for one in history["series"] if one["metric"] == "accuracy_top1")
    assert len(accuracy["points"]) == 2
    runs = [point["run_id"] for point in accuracy["points"]]
    compared = quantrig("compare", *runs, cwd=tmp_path)
    assert compared.returncode == 0
    assert "0 of " in compared.stdout.splitlines()[0]
    assert "pi: nothing that is recorded differs" in compared.stdout


def wait_for_log(folder: Path, process: subprocess.Popen[str]) -> Path:
    """The log of the night that began, once its first job did."""
    while process.poll() is None:
        for log in folder.glob("*/night.log"):
            if "begins" in log.read_text():
                return log
        try:  # a wait that ends early when the process does
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_a_job_and_a_board_that_fail_stop_neither_the_others_nor_the_night(tmp_path: Path) -> None:
    jobs = f"  - missing.yaml\n  - {{job: {JOB}, targets: [gone, pi]}}"
    plan = write_plan(tmp_path, jobs=jobs)
    night = quantrig("nightly", str(plan), cwd=tmp_path)
    assert night.returncode == 2  # bad input outranks the failed board
    assert "missing.yaml: no such file" in night.stdout
    assert "digits on gone: " in night.stdout
    content = json.loads(next((tmp_path / "nightly").glob("*/night.json")).read_text())
    assert [entry["outcome"] for entry in content["entries"]] == ["failed", "done"]
    assert list(content["entries"][1]["statuses"]) == ["gone"]
    assert content["series"] > 0
    assert content["exit_code"] == 2


@pytest.mark.slow
def test_a_gate_that_fails_is_said_and_an_undecided_one_stands_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "gated.yaml").write_text(
        f"name: gated\nmodel: {ROOT / 'harness' / 'demo' / 'digits.onnx'}\n"
        "data: {source: 'harness.demo.digits:held_out', calibration: 100}\n"
        "gates:\n"
        "  learnable_memory_ratio: {at_most: 0.1, source: [emulated]}\n"  # int8 is a quarter of float32
        "  accuracy: {non_inferior_by: 2 pt, source: [emulated]}\n"
        "  speedup: {at_least: 1}\n"  # a stand-in has no time
    )
    plan = write_plan(tmp_path, jobs="  - {job: gated.yaml, targets: [pi]}")
    night = quantrig("nightly", str(plan), cwd=tmp_path)
    assert night.returncode == 1, night.stderr
    told, where = night.stdout.splitlines()
    assert told.startswith("gated / pi: gate learnable_memory_ratio failed: learnable memory ratio at most 0.1")
    page = Path(where.removeprefix("the night's page: "))
    assert "Nothing new in 6 series; 1 gate failed, 1 gate inconclusive." in page.read_text()
    entry = json.loads((page.parent / "night.json").read_text())["entries"][0]
    assert [(gate["gate"], gate["outcome"]) for gate in entry["gates"]] == [
        ("learnable_memory_ratio", "fail"),
        ("speedup", "inconclusive"),
    ]


def test_a_night_without_time_runs_nothing_and_fails_only_where_that_is_asked(tmp_path: Path) -> None:
    from harness.history.night import run_night
    from harness.history.plan import load_night_plan
    from harness.store import open_store

    plan = write_plan(tmp_path, "budget: 0.001")
    (tmp_path / "nightly").mkdir()
    store = open_store(str(tmp_path / "store.db"))
    with FileLock(tmp_path / "nightly" / ".night.lock"), pytest.raises(UserError, match="is still running"):
        run_night(load_night_plan(plan), store)
    night = quantrig("nightly", str(plan), cwd=tmp_path)
    assert night.returncode == 0, night.stderr
    assert night.stdout.startswith("digits: not run, out of time\n")
    strict = load_night_plan(write_plan(tmp_path, "budget: 0.001\nfail_on: inconclusive"))
    assert run_night(strict, store).code is ExitCode.INCONCLUSIVE
    store.close()


@pytest.mark.parametrize(
    ("more", "jobs", "words"),
    [
        ("budget: soon", "", "plan.yaml:3: budget: 'soon' is no duration; write 6 h, 90 min or seconds"),
        ('until: "25:00"', "", "plan.yaml:3: until: '25:00' is no time of day"),
        ("profile_: x", "", "plan.yaml:3: unknown field 'profile_'; did you mean 'profile'?"),
        ("", "  - {job: a.yaml, targets: [pii]}", "plan.yaml:5: no target 'pii'"),
        ("", "  - {job: a.yaml, profile: slow}", "plan.yaml:5: unknown profile 'slow'"),
        ("fail_on: never", "", "plan.yaml:3: fail_on"),
        (
            "metrics: [fps, latency_p50]",
            "",
            "metrics: 'latency_p50' is no row of comparison.csv; did you mean 'latency_p50_ms'?",
        ),
    ],
)
def test_a_wrong_plan_is_told_with_its_line(tmp_path: Path, more: str, jobs: str, words: str) -> None:
    from harness.history.plan import load_night_plan

    with pytest.raises(UserError) as caught:
        load_night_plan(write_plan(tmp_path, more, jobs))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deadlines_of_a_plan(tmp_path: Path) -> None:
    from datetime import datetime, timedelta

    from harness.history.plan import load_night_plan

    plan = load_night_plan(write_plan(tmp_path, 'until: "06:00"\nbudget: 2 h'))
    evening = datetime(2026, 1, 10, 23, 0).astimezone()
    assert plan.deadline(evening) == evening + timedelta(hours=2)
    morning = datetime(2026, 1, 10, 5, 0).astimezone()
    assert plan.deadline(morning) == morning + timedelta(hours=1)
    late = load_night_plan(write_plan(tmp_path, 'until: "06:00"'))
    assert late.deadline(evening) == evening + timedelta(hours=7)


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    for words, message in (
        (("history", "ack", "7"), "error: no alarm has the number 7; `quantrig history` lists them\n"),
        (("compare", "a", "b"), "error: no run has the id 'a'; `quantrig runs` lists them\n"),
    ):
        told = quantrig(*words, cwd=tmp_path)
        assert (told.returncode, told.stderr) == (2, message)
    empty = quantrig("history", cwd=tmp_path)
    assert (empty.returncode, empty.stdout[:14]) == (0, "no series yet:")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    for name in ("quantrig-nightly.service", "quantrig-nightly.timer"):
        shutil.copy(UNITS / name, tmp_path)
    words: list[Any] = ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
