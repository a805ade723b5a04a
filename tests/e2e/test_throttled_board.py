"""A board that is too hot the whole run long: published as throttled, with its figures, and never silently."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.boards.conftest import Tree
from tests.agents.boards.test_jetson_board import FILES
from tests.e2e.whole_run import Agent, Bench, wait_for

pytestmark = pytest.mark.slow
HOT = {"sys/class/thermal/thermal_zone0/temp": "97000\n"}  # its passive trip is at 99 °C


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[Bench]:
    """A lab of one agent that reads a hot Jetson's files."""
    tree = Tree(tmp_path / "board")
    tree.put({**FILES, **HOT})
    options = ["--board", "jetson-orin-nano", "--board-root", str(tree.root)]
    agent = Agent(tmp_path / "agent", options=options)
    bench = Bench(tmp_path)
    bench.write_lab(f"targets:\n  nano: {{board: generic, environment: cpu, via: {{address: {agent.address}}}}}\n")
    yield bench
    bench.close()
    agent.close()


def test_a_hot_board_is_throttled_with_figures_and_counts(hot: Bench) -> None:
    done = hot.run("--budget", "4", code=3)
    target = hot.target("nano")
    pairs = {block["pair"] for block in target["blocks"]}
    assert target["status"] == "throttled"
    assert f"{len(pairs)} of {len(pairs)} pairs of blocks were rejected" in target["error"]
    assert all("97.0 °C" in " ".join(block["disturbed"]) for block in target["blocks"])
    assert any(note.startswith("timed by perf_counter") for note in target["notes"])
    assert {window["when"] for window in target["idle"]} == {"before", "after"}
    with (hot.out / "comparison.csv").open() as file:
        rows = {(row["network"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["Floating-Point", "fps"]["value"]) > 0
    assert "throttled" in rows["Floating-Point", "fps"]["note"]
    assert float(rows["Ratio", "speedup"]["value"]) > 0
    rejected = rows["Ratio", "pairs_rejected"]
    assert (float(rejected["value"]), int(rejected["n"])) == (len(pairs), len(pairs))
    assert "passive trip is 99 °C" in rejected["note"]
    assert "throttled" in done.stdout
    assert "resume" not in done.stderr  # nothing is missing


def test_ctrl_c_ends_a_rest_at_once_and_keeps_the_pairs(hot: Bench) -> None:
    run = hot.start("run", "job.yaml", "--profile", "quick", "--out", "out")
    lines: list[str] = []

    def said(what: str) -> bool:
        assert run.stderr is not None
        lines.append(run.stderr.readline())
        return what in lines[-1]

    wait_for(lambda: said("pair 5 rejected"), "a rest of eight seconds")
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    wait_for(lambda: said("interrupted"), "the end of the rest")
    assert time.monotonic() - began < 7.5  # and not the eight seconds of the rest
    assert run.wait(60) == 130
    assert "interrupted" in hot.quantrig("runs").stdout
