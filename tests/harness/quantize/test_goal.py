"""Goals: which there are, what meets them, and which cannot be."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from harness.quantize.goal import Goal, Kind, goal_of


def test_a_goal_is_met_from_its_own_side_and_rounding_does_not_decide() -> None:
    tenth = sum([0.1] * 10)  # 0.9999…, which is meant as 1
    assert Goal(Kind.AGREEMENT, 1.0).met(tenth)
    assert not Goal(Kind.AGREEMENT, 1.0).met(0.999)
    lost = 100 * (0.9 - 0.8)  # 9.999…98 or 10.000…02, whichever way it rounds
    assert Goal(Kind.LOSS_POINTS, 10.0).met(lost)
    assert not Goal(Kind.LOSS_POINTS, 10.0).met(10.1)
    points, decibels = Goal(Kind.LOSS_POINTS, 1.0), Goal(Kind.SQNR_DB, 30.0)
    assert points.better(0.5) > points.better(0.6)
    assert decibels.better(31.0) > decibels.better(30.0)


def test_impossible_goals_are_refused() -> None:
    with pytest.raises(UserError, match=r"it is a share; give 0 … 1"):
        goal_of(None, 97, None)
    with pytest.raises(UserError, match="one target at a time"):
        goal_of(30, 0.9, None)
    with pytest.raises(UserError, match="not a number"):
        goal_of(float("nan"), None, None)
    assert goal_of(None, None, None) is None
