"""What others learn of a test: JUnit properties, sections of failed tests, the summary, which runs tests failed on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from harness.pytest_plugin.options import suite_of

if TYPE_CHECKING:
    from harness.history.baseline import AgainstBaseline
    from harness.pytest_plugin.options import Suite
    from harness.pytest_plugin.result import BoardComparison

_RESULTS: pytest.StashKey[list[BoardComparison]] = pytest.StashKey()
#: Attribute of a test's report under which its runs travel from a worker of xdist.
_TRAVELS = "quantrig_runs"


def record(item: pytest.Item, result: BoardComparison) -> None:
    """Every figure, gate and change as a property of the test; those of a second job carry its name in front.

    Raises:
        UserError: the baseline's files are damaged.
    """
    results = item.stash.setdefault(_RESULTS, [])
    if any(one.record.run_id == result.record.run_id for one in results):
        return
    prefix = f"{result.record.job_name}." if results else ""
    results.append(result)

    def tell(name: str, value: str) -> None:
        item.user_properties.append((f"{prefix}{name}", value))

    for figure in result:
        if figure.value is not None:
            tell(f"{figure.network.value}.{figure.metric}", f"{figure.value:.9g}")
            tell(f"{figure.network.value}.{figure.metric}.source", figure.source.value)
    tell("run_id", result.record.run_id)
    verdict = result.verdict
    if verdict.outcome is not None:
        tell("verdict", verdict.outcome.value)
    for gate in verdict.results:
        tell(f"gate.{gate.gate}", gate.outcome.value)
    against = result.against_baseline
    if against.baseline is not None:
        tell("baseline", against.baseline.run_id)
    for change in against.changes:
        name = f"{change.network.value}.{change.metric}"
        tell(f"{name}.standing", change.standing.value)
        if change.change is not None:
            tell(f"{name}.change", f"{change.change:.9g}")
        if change.interval is not None:
            tell(f"{name}.change_low", f"{change.interval[0]:.9g}")
            tell(f"{name}.change_high", f"{change.interval[1]:.9g}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failed test's gates and changes, and let no run that a test failed on become a baseline."""
    report = yield
    results = item.stash.get(_RESULTS, [])
    if call.when != "call" or not results:
        return report
    setattr(report, _TRAVELS, [_traveller(result, suite_of(item.config)) for result in results])
    if report.failed and not (call.excinfo is not None and call.excinfo.errisinstance(KeyboardInterrupt)):
        lines = _lines(item, results)
        if lines:
            report.sections.append(("quantrig", "\n".join(lines)))
        _spoil(item, results)
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """`assert result.against_baseline.regressions == ()` names the board, the figure and by how much."""
    loaded = sys.modules.get("harness.judge.baseline")
    if op != "==" or loaded is None:
        return None
    for side in (left, right):
        if isinstance(side, tuple | list) and side and all(isinstance(one, loaded.Change) for one in side):
            from harness.pytest_plugin.words import changes_lines

            return [f"{_counted(len(side), 'figure')} beside the baseline:", *changes_lines(side)]
    return None


def _lines(item: pytest.Item, results: list[BoardComparison]) -> list[str]:
    from harness.pytest_plugin.result import TOLD
    from harness.pytest_plugin.words import against_lines, gates_lines

    lines: list[str] = []
    for result in results:
        lines += gates_lines(result)
        against = result.against_baseline
        if (against.regressions or against.unclear) and not item.stash.get(TOLD, False):
            lines += against_lines(result.record.job_name, against)
    return lines


def _spoil(item: pytest.Item, results: list[BoardComparison]) -> None:
    from harness.pytest_plugin.comparing import ledger_of
    from harness.store.baselines import Baselines

    for result in results:
        Baselines(ledger_of(item.config).store).failed_on(result.record.run_id, item.nodeid)


def _traveller(result: BoardComparison, suite: Suite) -> dict[str, Any]:
    """What the summary needs, in plain values that xdist can carry."""
    against: AgainstBaseline = result.against_baseline
    return {
        "run": f"{result.record.run_id} {result.target.name}",
        "target": result.target.name,
        "gates": [gate.outcome.value for gate in result.verdict.results],
        "asked": against.asked,
        "found": against.baseline is not None,
        "standings": [change.standing.value for change in against.changes],
        "session": suite.session,
        "root": str(suite.root),
    }


@dataclass(eq=False)  # pytest keeps its plug-ins in sets
class Summary:
    """Gathers what tests compared, from all workers, for the end of the terminal's output."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the runs of a finished test; many tests look at one run."""
        for one in getattr(report, _TRAVELS, ()):
            self.runs[one["run"]] = one

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say in a few words what boards, gates and baselines said."""
        if not self.runs:
            return
        terminalreporter.section("quantrig")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """The summary."""
        found = list(self.runs.values())
        boards = len({one["target"] for one in found})
        first = found[0]
        comparisons = _counted(len(found), "comparison")
        lines = [f"{comparisons} on {_counted(boards, 'board')}; reports: {first['root']}"]
        gates = Counter(outcome for one in found for outcome in one["gates"])
        if gates:
            words = (("fail", "failed"), ("inconclusive", "inconclusive"), ("pass", "passed"))
            lines.append("gates: " + ", ".join(f"{gates[key]} {word}" for key, word in words if gates[key]))
        if first["asked"]:
            standings = Counter(standing for one in found for standing in one["standings"])
            parts = [f"{standings[word]} {word}" for word in ("worse", "unclear", "same", "better") if standings[word]]
            without = sum(not one["found"] for one in found)
            parts += [f"{_counted(without, 'comparison')} without one"] if without else []
            lines.append(f"baseline '{first['asked']}': {', '.join(parts) or 'no figures'}")
        lines.append(f"recorded as pytest run {first['session'][:12]}")
        return lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
