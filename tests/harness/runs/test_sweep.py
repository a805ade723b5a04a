from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.data import network_inputs
from harness.errors import UserError
from harness.job import Job, Sweep, job_from_mapping
from harness.runs.board import board_key
from harness.runs.sweep import check_batches, parse_list, swept, with_sweep
from harness.targets.lab import parse_lab
from tests.e2e.whole_run import tiny_network

LAB = """\
targets:
  pi: {board: raspberry-pi-5, environment: cpu, via: local, threads: 3}
  jetson: {board: jetson-orin-nano, environment: gpu, via: emulated}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    tiny_network(tmp_path / "tiny.onnx")
    return job_from_mapping({"model": "tiny.onnx", "data": {"source": "a.b:c"}}, tmp_path)


def test_every_timed_target_at_every_setting(tmp_path: Path) -> None:
    lab = parse_lab(LAB, tmp_path / "targets.yaml")
    made = swept(lab.targets.values(), Sweep(batch=(1, 4), threads=(1, 2)))
    assert [one.name for one in made] == [
        "pi [batch 1, 1 thread]",
        "pi [batch 1, 2 threads]",
        "pi [batch 4, 1 thread]",
        "pi [batch 4, 2 threads]",
        "jetson",  # a stand-in has no time to sweep
    ]
    assert [(one.batch, one.threads) for one in made[:4]] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    assert {one.entry_name for one in made} == {"pi", "jetson"}
    # one board is one lock, whatever its setting
    assert len({board_key(one, lab.path) for one in made[:4]}) == 1
    only = swept(lab.targets.values(), Sweep(batch=(8,)))
    assert (only[0].name, only[0].threads) == ("pi [batch 8]", 3)
    assert swept(lab.targets.values(), Sweep()) == tuple(lab.targets.values())


def test_the_command_line_goes_before_the_job(job: Job) -> None:
    own = replace(job, sweep=Sweep((2,), (1,)))
    assert with_sweep(own, None, None).sweep == Sweep((2,), (1,))
    assert with_sweep(own, "4, 1,4", None).sweep == Sweep((4, 1), (1,))
    read_back = job_from_mapping(own.as_json(), Path())
    assert read_back.sweep == own.sweep
    assert own.digest() == job.digest()  # another setting of the same job, not another job


@pytest.mark.parametrize("text", ["", "1,x", "0", "70000", "1,,2", "1.5"])
def test_a_list_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--batch") as caught:
        parse_list("--batch", text, 65_536)
    assert "\n" not in str(caught.value)


def test_a_network_with_a_fixed_batch_says_so(tmp_path: Path, job: Job) -> None:
    check_batches(replace(job, sweep=Sweep((1, 4))), network_inputs(job.model))
    tiny_network(tmp_path / "tiny.onnx", batch=1)
    fixed = network_inputs(job.model)
    check_batches(replace(job, sweep=Sweep((1,))), fixed)
    with pytest.raises(UserError, match=r"batch 4: tiny.onnx was exported for a fixed batch of 1; leave --batch out"):
        check_batches(replace(job, sweep=Sweep((1, 4))), fixed)
    tiny_network(tmp_path / "tiny.onnx")
    with pytest.raises(UserError, match="keeps state from sample to sample"):
        check_batches(replace(job, state={"h": "g"}, sweep=Sweep((2,))), network_inputs(job.model))
