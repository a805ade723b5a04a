from __future__ import annotations

import csv
import time

import pytest

from tests.e2e.whole_run import Bench, tiny_network


def rows_of(bench: Bench) -> dict[tuple[str, str, str], dict[str, str]]:
    with (bench.out / "comparison.csv").open() as file:
        return {(row["target"], row["network"], row["metric"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_sweep_within_a_budget_is_one_row_group_a_setting(bench: Bench) -> None:
    began = time.monotonic()
    bench.run("--batch", "1,4", "--budget", "2", code=0)
    assert time.monotonic() - began < 240
    rows = rows_of(bench)
    settings = ("here [batch 1]", "here [batch 4]")
    assert {target for target, _, _ in rows} == {*settings, "jetson"}
    for name in settings:
        target = bench.target(name)
        assert target["status"] == "done"
        assert (target["entry"], target["stopping"]["budget_s"]) == ("here", 2.0)
        spent = sum(block["duration_s"] for block in target["blocks"]) + sum(
            one["warm_up_s"] for one in target["loadings"]
        )
        assert spent < 6.0
        assert {block["batch_size"] for block in target["blocks"]} == {int(name[-2])}
        assert len(target["blocks"]) >= 8  # two rounds at least
        speed = rows[name, "Ratio", "speedup"]
        assert "reached ±" in speed["note"] or "budget of 2 s bought" in speed["note"]
    one, four = (rows[name, "Floating-Point", "fps"] for name in settings)
    assert float(four["value"]) > float(one["value"])  # a network of microseconds gains by batches
    assert rows[settings[1], "Quantized", "accuracy_top1"]["n"] == "160"


def test_bad_settings_are_one_line(bench: Bench) -> None:
    assert "--budget 0.5: too short" in bench.run("--budget", "0.5", code=2).stderr
    tiny_network(bench.model, batch=1)
    assert "exported for a fixed batch of 1" in bench.run("--batch", "4", code=2).stderr
