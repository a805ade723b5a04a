"""A release check of the digits network on every chosen board, as ordinary pytest tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.judge.figure import Network, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.judge.comparison import Comparison

#: Relative to this file.
JOB = "../digits/job.yaml"

#: How much accuracy int8 may cost before a release needs a signature, as a fraction.
ACCURACY_MARGIN = 0.01


def test_int8_stays_within_a_point_of_float(compare: Callable[[str], Comparison]) -> None:
    """On each chosen target; the boards are asked once, however many tests look at the answer."""
    comparison = compare(JOB)
    floating = comparison.value("accuracy_top1", Network.FLOAT)
    quantized = comparison.value("accuracy_top1", Network.QUANTIZED)

    assert floating is not None
    assert quantized is not None
    assert floating - quantized <= ACCURACY_MARGIN


@pytest.mark.board(environment="cpu")
def test_int8_is_not_slower_where_time_is_measured(compare: Callable[[str], Comparison]) -> None:
    """On boards with cpu rules only; fails when the whole 95 % interval of the speed-up lies below 1."""
    comparison = compare(JOB)
    if comparison.target.source is not Source.MEASURED:
        pytest.skip(f"{comparison.target.name} is emulated: a stand-in never reports a time")
    speedup = comparison.figure("speedup", Network.RATIO)

    assert speedup is not None
    assert speedup.value is not None
    upper = speedup.ci_high if speedup.ci_high is not None else speedup.value
    assert upper >= 1.0, f"int8 runs at {speedup.value:.2f}x the speed of float"
