"""Series from kept figures, and two runs compared."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.history.analysis import series_of, series_of_plans
from harness.history.compare import compare_runs
from harness.history.night import conclude
from harness.judge.baseline import mover
from harness.judge.statistics import wilson
from harness.store import open_store
from harness.store.nights import Nights
from tests.harness.history.made_nights import accuracy, latency, make_night, make_plan_file
from tests.warm import process as warm


def test_mover_is_newcombes_interval_of_two_proportions() -> None:
    """Newcombe (Statistics in Medicine 17, 1998), table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339."""
    first, second = wilson(56, 70), wilson(48, 80)
    low, high = mover((48 / 80, second.low, second.high), (56 / 70, first.low, first.high))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_difference_of_two_latencies_is_covered_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        ends = []
        for truth in (1.0, 1.02):
            value = truth + rng.normal(scale=0.01)
            ends.append((value, value - 1.96 * 0.01, value + 1.96 * 0.01))
        low, high = mover(ends[0], ends[1])
        hits += low <= 0.02 <= high
    assert 0.935 <= hits / 2000 <= 0.965


def test_standard_errors_come_back_out_of_published_intervals(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s.db"))
    rows = [[latency("pi", 2.0 + i, 0.006), accuracy("pi", 0.97)] for i in range(3)]
    nights = [make_night(store, i, {"digits": row}, lambda _: {"machine.os": "x"}) for i, row in enumerate(rows)]
    series = {one.key.metric: one for one in series_of(Nights(store), nights)}
    assert series["latency_p50_ms"].errors == pytest.approx([0.006] * 3, rel=1e-4)
    assert series["latency_p50_ms"].values == pytest.approx([math.log(2.0 + i) for i in range(3)])
    assert [point.night for point in series["latency_p50_ms"].points] == [night.night_id for night in nights]
    assert series["accuracy_top1"].errors == [0.0] * 3  # every night asks the same samples
    assert series["accuracy_top1"].least_change == pytest.approx(0.5 / 400)
    assert [one.key.metric for one in series_of(Nights(store), nights, ("accuracy_top1",))] == ["accuracy_top1"]


def test_two_runs_are_compared_by_their_intervals_and_surroundings(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s.db"))
    clear, unclear = latency("pi", 2.0, 0.005), replace(latency("pi", 2.0, 0.005), metric="latency_p90_ms")
    make_night(store, 0, {"digits": [clear, unclear, latency("old", 1.0, 0.1)]}, lambda _: {"machine.os": "Linux 6.1"})
    slower = [latency("pi", 2.1, 0.005), replace(latency("pi", 2.01, 0.005), metric="latency_p90_ms")]
    make_night(store, 1, {"digits": slower}, lambda _: {"machine.os": "Linux 6.6"})
    ids = [run.run_id for run in reversed(store.runs())]
    found = compare_runs(Nights(store), ids[0], ids[1])
    assert {(row.metric, row.differs) for row in found.rows} == {("latency_p50_ms", True), ("latency_p90_ms", False)}
    change = next(row for row in found.rows if row.differs)
    assert change.change == pytest.approx(0.05)
    half = 2.093 * math.hypot(0.005, 0.005)
    assert change.interval == pytest.approx((math.expm1(math.log(1.05) - half), math.expm1(math.log(1.05) + half)))
    assert [str(one) for one in found.surroundings["pi"]] == ["os Linux 6.1 → Linux 6.6"]
    assert found.only_old == ("old",)


def test_a_record_that_this_version_cannot_read_ends_no_history(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = open_store(str(path))
    for number in range(2):
        make_night(store, number, {"job": [latency("pi", 1.0, 0.005)]}, lambda _: {})
    store.close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("delete from surroundings")  # as of runs that no night made: their records are asked
        changed = raw.execute(
            "update run_targets set details = json_set(details, '$.stopping', json('{\"later\": 1}')) where id = 1"
        )
        assert changed.rowcount == 1
    store = open_store(str(path))
    nights = Nights(store)
    (series,) = series_of(nights, None)
    assert len(series.points) == 2
    assert nights.unreadable == ((series.points[0].run_id, "pi"),)
    store.close()
    told = warm.quantrig("history", "--store", str(path), cwd=tmp_path, env=dict(os.environ))
    assert told.returncode == 0
    assert "latency_p50_ms" in told.stdout
    assert told.stderr.splitlines() == [
        f"1 record was skipped, which this version cannot read: run {series.points[0].run_id} on pi; "
        "another version of quantrig may read what these figures depended on"
    ]


def test_a_plan_is_shown_with_the_series_it_follows(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s.db"))
    rows = [latency("pi", 1.0, 0.005), accuracy("pi", 0.9), replace(latency("pi", 1.2, 0.005), metric="latency_p95_ms")]
    own = make_plan_file(tmp_path / "own", "metrics: [latency_p95_ms]\n")
    nights = Nights(store)
    made = [make_night(store, number, {"job": rows}, lambda _: {}) for number in range(2)]

    def names() -> list[str]:
        return [one.key.metric for one in series_of_plans(nights, nights.nights())]

    assert names() == ["accuracy_top1", "latency_p50_ms"]  # a night of an older version, which kept no metrics
    nights.save(conclude(own, nights, made[-1]).night)
    assert nights.nights()[0].details["metrics"] == ["latency_p95_ms"]
    assert names() == ["latency_p95_ms"]
    make_night(store, 2, {"job": rows}, lambda _: {}, plan="other")
    assert names() == ["accuracy_top1", "latency_p50_ms", "latency_p95_ms"]  # what any of the plans follows
    store.close()
    told = warm.quantrig(
        "history", "--plan", own.name, "--json", "--store", str(tmp_path / "s.db"), cwd=tmp_path, env=dict(os.environ)
    )
    assert [one["metric"] for one in json.loads(told.stdout)["series"]] == ["latency_p95_ms"]


def test_names_of_boards_are_not_folded(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s.db"))
    board = "orin-nano-rack-03-upper-shelf [batch 4, 2 threads]"
    figure = replace(accuracy(board, 0.9), metric="agreement_with_the_reference_of_all_labels")
    for number, value in enumerate((0.9, 0.5)):
        make_night(store, number, {"job": [replace(figure, value=value)]}, lambda _: {})
    runs = [run.run_id for run in store.runs()]
    store.close()
    around = os.environ | {"COLUMNS": "80", "QUANTRIG_STORE": str(tmp_path / "s.db")}
    compared = warm.quantrig("compare", *runs, "--all", cwd=tmp_path, env=around)
    history = warm.quantrig("history", cwd=tmp_path, env=around)
    assert (compared.returncode, history.returncode) == (0, 0), compared.stderr + history.stderr
    assert board in [line.strip() for line in compared.stdout.splitlines()]
    assert f"job / {board}" in [line.strip() for line in history.stdout.splitlines()]
