"""A run whose target asks for a state of the board: set, on record, given back, also when the host is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agents.settings_boards import SettableBoard, linux
from tests.e2e.test_survival import blocks_of
from tests.e2e.whole_run import Agent, Bench, wait_for


@pytest.fixture
def board(tmp_path: Path) -> SettableBoard:
    return linux(tmp_path / "board")


def stripped(board: SettableBoard) -> dict[str, str]:
    return {name: text.strip() for name, text in board.state().items()}


@pytest.mark.slow
def test_set_for_the_timing_given_back_when_the_host_is_killed_and_set_again(
    bench: Bench, board: SettableBoard, agents: Callable[..., Agent]
) -> None:
    before = stripped(board)
    agent = agents("data", options=("--board-root", str(board.root)))
    bench.write_lab(
        f"targets:\n  far:\n    board: generic\n    environment: cpu\n    via: {{address: '{agent.address}'}}\n"
        "    settings: {lock_clocks: true, governor: performance}\n"
    )
    process = bench.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    wait_for(lambda: blocks_of(bench, "far") >= 1, "the first timed block")
    during = stripped(board)
    assert during["sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq"] == "2400000"
    assert during["sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"] == "performance"
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: stripped(board) == before, "the board as it was")
    bench.quantrig("resume", bench.run_id())
    assert stripped(board) == before
    target = bench.target("far")
    assert target["status"] == "done"
    kept = {
        one["name"]: (one["asked"], one["before"], one["during"], one["after"], one["problem"])
        for one in target["settings"]
    }
    assert kept == {
        "lock_clocks": ("yes", "no", "yes", "no", ""),
        "governor": ("performance", "powersave", "performance", "powersave", ""),
    }
    assert not [note for note in target["notes"] if "not as asked" in note or "given back" in note]
    row = "".join(f"<td>{cell}</td>" for cell in ("performance", "powersave", "performance", "powersave"))
    assert f'<th scope="row">governor</th>{row}' in (bench.out / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            "{power_mode: MAXN}",
            "line 5: far: a generic has no `power_mode`, it can be asked for lock_clocks and governor",
        ),
        ("{}", "`settings` asks for nothing"),
        ("{governor: 'x; reboot'}", "governor"),
        ("{governor: performance, lock_clock: true}", "lock_clock"),
    ],
)
def test_what_cannot_be_is_one_line_at_load(bench: Bench, settings: str, problem: str) -> None:
    bench.write_lab(f"targets:\n  far:\n    board: generic\n    via: local\n    settings: {settings}\n")
    said = bench.quantrig("targets", "list", code=2).stderr
    assert len(said.strip().splitlines()) == 1
    assert problem.removeprefix("line 5: ") in said
    assert "targets.yaml:5" in said
