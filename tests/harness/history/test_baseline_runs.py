"""Which run a name means, and how a run stands beside it: a real store, rows as runs leave them, known truth."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.history.baseline import check_asked, compare_with, find_baseline, keep
from harness.judge.baseline import Standing
from harness.judge.evaluate import Evaluation, MetricResult
from harness.judge.metrics import Rows
from harness.judge.samples import write_samples
from harness.judge.statistics import wilson
from harness.record.figure import Figure, Network, Source
from harness.record.networks import SamplesRecord
from harness.record.run import Revision, RunRecord
from harness.record.target import TargetRecord
from harness.store import Store, open_store
from harness.store.baselines import Baselines

MAIN = Revision("a" * 40, "main", dirty=False)


@dataclass
class Suite:
    """Runs made on the spot, one a minute."""

    store: Store
    root: Path
    minutes: Iterator[int] = field(default_factory=itertools.count)

    def run(
        self,
        session: str = "",
        revision: Revision | None = MAIN,
        *,
        job: str = "net",
        status: str = "done",
        figures: tuple[Figure, ...] = (),
        right: np.ndarray[Any, Any] | None = None,
        kernel: str = "6.1",
    ) -> RunRecord:
        number = next(self.minutes)
        run_id, started = f"run-{number:02}", f"2026-01-01T00:{number:02}:00+00:00"
        folder = self.root / job
        target = TargetRecord("pi", "generic", "cpu", "local", Source.MEASURED, status, description={"os": kernel})
        if right is not None:
            low, high = (wilson(int(right.sum()), len(right)).low, wilson(int(right.sum()), len(right)).high)
            figures += (figure("accuracy_top1", float(right.mean()), low, high, "fraction"),)
            rows = Rows({"value": right.astype(np.float64)})
            kept = MetricResult("accuracy_top1", "fraction", float(right.mean()), None, rows)
            ids = tuple(f"s{i}" for i in range(len(right)))
            path, digest = write_samples(folder, "pi", Evaluation(Network.QUANTIZED, ids, (kept,), None), None)
            target = replace(target, samples=(SamplesRecord(Network.QUANTIZED, path, digest, ("accuracy_top1",)),))
        request = {"revision": None if revision is None else asdict(revision)}
        self.store.create_run(run_id, job_name=job, started=started, out=folder, model_digest="0" * 64, request=request)
        self.store.save_target(run_id, target)
        self.store.save_figures(run_id, figures)
        record = RunRecord(
            run_id, job, {}, "0" * 64, "quick", "validation", 10, 10, started, started, {}, (target,), figures
        )  # fmt: skip
        keep(self.store, record, folder, root=self.root, session=session)
        return record

    def found(self, asked: str, session: str = "mine") -> str:
        candidate, why = find_baseline(self.store, asked, "net", "pi", session)
        return candidate.run_id if candidate is not None else why

    def against(self, asked: str, record: RunRecord, **rules: Any) -> dict[str, tuple[Standing, str]]:  # noqa: ANN401
        found = compare_with(self.store, asked, record, "pi", root=self.root, session="mine", **rules)
        return {change.metric: (change.standing, change.note) for change in found.changes}


def figure(metric: str, value: float, low: float, high: float, unit: str = "ms") -> Figure:
    return Figure(
        "pi", "generic", "cpu", Network.QUANTIZED, "", metric, value, unit, Source.MEASURED, low, high, 10
    )  # fmt: skip


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    store = open_store(str(tmp_path / "runs.db"))
    yield Suite(store, tmp_path)
    store.close()


# -- which run --------------------------------------------------------------------------------------------------------


def test_the_newest_good_run_of_this_job_on_this_target(suite: Suite) -> None:
    assert "no good run of net on pi" in suite.found("last")
    first = suite.run("a")
    second = suite.run("b", None)
    suite.run("c", job="other")
    suite.run("d", status="failed")
    suite.run("mine")
    assert suite.found("last") == second.run_id
    assert suite.found("main") == first.run_id
    assert suite.found("last", session="b") == "run-04"


def test_a_run_that_a_test_failed_on_is_passed_over_unless_it_is_named(suite: Suite) -> None:
    good, bad = suite.run("a"), suite.run("b")
    Baselines(suite.store).failed_on(bad.run_id, "test_x.py::test_it")
    assert suite.found("last") == suite.found("main") == good.run_id
    assert suite.found(bad.run_id) == bad.run_id
    Baselines(suite.store).failed_on(good.run_id, "test_x.py::test_it")
    assert "(passed over: 2 that tests failed on)" in suite.found("main")


def test_a_branch_takes_no_uncommitted_changes_last_does(suite: Suite) -> None:
    clean = suite.run("a")
    edited = suite.run("b", replace(MAIN, dirty=True))
    other = suite.run("c", Revision("b" * 40, "feature/x", dirty=False))
    assert suite.found("main") == clean.run_id
    assert suite.found("feature/x") == other.run_id
    assert suite.found("last") == other.run_id
    assert suite.found("feature") == "no good run of net on pi under 'feature'"
    assert edited.run_id not in {suite.found("main"), suite.found("last")}


def test_a_pytest_run_is_named_by_the_beginning_of_its_id(suite: Suite) -> None:
    wanted = suite.run("0123456789abcdef")
    suite.run("fedcba9876543210")
    assert suite.found("0123456789ab") == wanted.run_id
    assert "no good run" in suite.found("0123")


def test_a_name_that_can_mean_nothing_is_refused_with_what_there_is(suite: Suite) -> None:
    with pytest.raises(UserError, match="nothing is recorded yet"):
        check_asked(suite.store, "mian", known_branch=False)
    run = suite.run("0123456789abcdef")
    with pytest.raises(UserError, match=r"no baseline 'mian'.*branches with runs: main"):
        check_asked(suite.store, "mian", known_branch=False)
    for good in ("last", "main", run.run_id, "01234567"):
        check_asked(suite.store, good, known_branch=False)
    check_asked(suite.store, "new-branch", known_branch=True)


def test_notes_of_many_workers_on_one_run_are_all_kept(suite: Suite) -> None:
    run = suite.run()
    tests = [f"test_{i}" for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda test: Baselines(suite.store).failed_on(run.run_id, test), tests))
    Baselines(suite.store).belongs_to(run.run_id, "s")
    (found,) = Baselines(suite.store).candidates()
    assert found.failed == tuple(sorted(tests))
    assert (found.session, found.revision) == ("s", MAIN)


# -- how it stands ----------------------------------------------------------------------------------------------------


def test_a_slower_board_is_worse_and_a_slower_other_machine_is_unclear(suite: Suite) -> None:
    suite.run("a", figures=(figure("latency_p50_ms", 1.0, 0.99, 1.01),))
    slower = (figure("latency_p50_ms", 1.2, 1.19, 1.21),)
    assert suite.against("last", suite.run("mine", figures=slower))["latency_p50_ms"][0] is Standing.WORSE
    standing, note = suite.against("last", suite.run("mine", figures=slower, kernel="6.6"))["latency_p50_ms"]
    assert standing is Standing.UNCLEAR
    assert "the machine changed: os 6.1 → 6.6" in note


def test_accuracy_is_paired_on_the_samples_although_the_next_run_replaced_the_folder(suite: Suite) -> None:
    right = np.ones(500)
    right[-100:] = 0
    suite.run("a", right=right)
    assert suite.against("last", suite.run("mine", right=right))["accuracy_top1"][0] is Standing.SAME
    worse = right.copy()
    worse[:8] = 0
    standing, note = suite.against("last", suite.run("mine", right=worse, kernel="6.6"))["accuracy_top1"]
    assert standing is Standing.WORSE  # whatever machine: the network lost them
    assert note == "on the same 500 samples 8 lost, 0 won"
    (kept,) = (suite.root / "kept" / "run-00").iterdir()
    assert len(hashlib.sha256(kept.read_bytes()).hexdigest()) == 64
    kept.unlink()
    standing, note = suite.against("last", suite.run("mine", right=worse))["accuracy_top1"]
    assert standing is Standing.UNCLEAR
    assert "the baseline's results sample by sample are not here" in note
    kept.write_bytes(b"something else")
    assert suite.against("last", suite.run("mine", right=worse))["accuracy_top1"][0] is Standing.UNCLEAR


def test_metrics_and_what_may_be_lost_can_be_named(suite: Suite) -> None:
    pair = [
        (figure("latency_p50_ms", at, at * 0.999, at * 1.001), figure("own", at, at * 0.999, at * 1.001, ""))
        for at in (1.0, 1.04)
    ]
    suite.run("a", figures=pair[0])
    now = suite.run("mine", figures=pair[1])
    assert suite.against("last", now) == {"latency_p50_ms": (Standing.SAME, "")}
    assert suite.against("last", now, within={"latency_p50_ms": 0.02})["latency_p50_ms"][0] is Standing.WORSE
    assert suite.against("last", now, metrics=["own"]) == {"own": (Standing.SAME, "")}
    lower = suite.against("last", now, metrics=["own"], within={"own": 0.01}, less_is_better=["own"])
    assert lower["own"][0] is Standing.WORSE
    with pytest.raises(UserError, match="has no latency_p5_ms; did you mean latency_p50_ms"):
        suite.against("last", now, metrics=["latency_p5_ms"])


def test_a_figure_that_is_gone_is_unclear(suite: Suite) -> None:
    suite.run("a", figures=(figure("energy_mj", 1.0, 0.99, 1.01, "mJ"),))
    assert suite.against("last", suite.run("mine"))["energy_mj"] == (Standing.UNCLEAR, "not there now")
