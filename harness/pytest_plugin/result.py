"""What `compare(job)` returns: a comparison that knows the gates' strictness and the baseline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import pytest

from harness.errors import UserError
from harness.history.baseline import AgainstBaseline, compare_with, keep
from harness.judge.comparison import Comparison
from harness.judge.target_verdict import TargetVerdict
from harness.pytest_plugin.options import Suite
from harness.pytest_plugin.words import against_lines, unclear_lines
from harness.store import Store

#: Set on a test whose failure has told of the baseline already.
TOLD: pytest.StashKey[bool] = pytest.StashKey()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What one worker knows of runs and baselines, for all its tests.

    Args:
        suite: of this pytest run.
        store: its database.
        kept: ids of runs that were made ready to be baselines.
        found: comparisons with the baseline by the usual rules, by run and target.
    """

    suite: Suite
    store: Store
    kept: set[str] = field(default_factory=set)
    found: dict[tuple[str, str], AgainstBaseline] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Baseline:
    """How one test asks for the baseline.

    Args:
        ledger: of its worker.
        warn: how to tell of what is undecided.
        item: the test.
    """

    ledger: Ledger
    warn: Callable[[str], None]
    item: pytest.Item

    def keep(self, run: Comparison) -> None:
        """Make a run one that later ones can be compared with.

        Raises:
            UserError: the disk is full.
        """
        ledger, record = self.ledger, run.record
        if record.run_id not in ledger.kept:
            folder = ledger.store.run(record.run_id).out
            keep(ledger.store, record, folder, root=ledger.suite.root, session=ledger.suite.session)
            ledger.kept.add(record.run_id)

    def against(self, run: Comparison) -> AgainstBaseline:
        """The comparison with it by the usual rules, made once.

        Raises:
            UserError: its files are damaged.
        """
        key = (run.record.run_id, run.target.name)
        if key not in self.ledger.found:
            self.ledger.found[key] = self.ask(run)
        return self.ledger.found[key]

    def ask(
        self,
        run: Comparison,
        metrics: Collection[str] | None = None,
        within: Mapping[str, float] | None = None,
        less_is_better: Collection[str] = (),
    ) -> AgainstBaseline:
        """The comparison with it by rules of one's own.

        Raises:
            UserError: a metric that the baseline does not have, or its files are damaged.
        """
        suite, target = self.ledger.suite, run.target.name
        if not suite.baseline:
            why = "no --quantrig-baseline: nothing to compare with; this run is recorded and can be one"
            return AgainstBaseline(target, "", None, why)
        return compare_with(
            self.ledger.store, suite.baseline, run.record, target, root=suite.root, session=suite.session,
            metrics=metrics, within=within, less_is_better=less_is_better,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class BoardComparison(Comparison):
    """Float against int8 on a test's target, with its gates and its baseline.

    Args:
        strict: of `--quantrig-strict`.
        baseline: where `--quantrig-baseline` is looked up.
    """

    strict: bool = False
    baseline: Baseline | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """As pytest prints it beside a failed assertion."""
        return f"<{self.record.job_name} on {self.target.name}: run {self.record.run_id}>"

    @property
    def verdict(self) -> TargetVerdict:
        """What came of the job's gates; strict: an inconclusive gate has not passed."""
        return replace(Comparison(self.target, self.figures, self.record).verdict, strict=self.strict)

    @property
    def against_baseline(self) -> AgainstBaseline:
        """Every figure beside the baseline's; without `changes` where there is no baseline."""
        if self.baseline is None:
            return AgainstBaseline(self.target.name, "", None, "no baseline was asked for")
        return self.baseline.against(self)

    def assert_no_regression(
        self,
        *,
        metrics: Collection[str] | None = None,
        within: Mapping[str, float] | None = None,
        less_is_better: Collection[str] = (),
    ) -> None:
        """Fail where a figure is worse than the baseline's for certain, by more than may be lost.

        What is unclear warns, and fails with `--quantrig-strict`. Without a baseline the test is skipped.

        Args:
            metrics: only these; None: times, memory, energy, sqnr_db and the job's own metrics, of Quantized and Ratio.
            within: metric → what may be lost of it: a share (0.05), of fractions a difference (0.005: half a point).
            less_is_better: own metrics that fall as a network gets better.

        Raises:
            AssertionError: which board, which figure, by how much, since which run.
        """
        __tracebackhide__ = True
        if self.baseline is None:
            pytest.skip(self.against_baseline.why)
        job, fault = self.record.job_name, ""
        try:
            usual = metrics is None and within is None and not less_is_better
            found = self.against_baseline if usual else self.baseline.ask(self, metrics, within, less_is_better)
        except UserError as error:
            fault = str(error)
        if fault:  # outside of the handler, which would print the error twice
            pytest.fail(fault, pytrace=False)
        if found.baseline is None:
            if found.asked and self.strict:
                pytest.fail(f"{self.target.name}: {found.why}", pytrace=False)
            pytest.skip(found.why)
        strictly = self.strict and found.unclear
        if found.regressions or strictly:
            self.baseline.item.stash[TOLD] = True
            raise AssertionError("\n".join(against_lines(job, found)))
        for line in unclear_lines(job, found):
            self.baseline.warn(line)
