"""A lab's suite: every network on every board, its gates, and what became worse since the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.record.figure import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.pytest_plugin.result import BoardComparison
    from harness.targets.target import Target

    Compare = Callable[[str], BoardComparison]

#: Job files beside this one; their gates say what a release must show.
NETWORKS = ("digits", "gru", "linear", "perceptron")

every_network = pytest.mark.parametrize("network", NETWORKS)


@every_network
def test_gates(compare: Compare, network: str) -> None:
    """The gates of the job, on each board."""
    assert compare(f"{network}.yaml").verdict.passed


@every_network
def test_no_regression(compare: Compare, network: str) -> None:
    """Nothing is worse than in the run that --quantrig-baseline names; skipped without one."""
    compare(f"{network}.yaml").assert_no_regression(within={"accuracy_top1": 0.01})


@pytest.mark.board(environment="cpu")
def test_digits_is_faster_in_int8(compare: Compare, target: Target) -> None:
    """One more thing of one network on boards of one kind, where time is really measured."""
    if not target.timed:
        pytest.skip(f"{target.name} is emulated: a stand-in has no time of its own")
    speedup = compare("digits.yaml").figure("speedup", Network.RATIO)
    assert speedup is not None
    assert speedup.ci_high is None or speedup.ci_high >= 1
