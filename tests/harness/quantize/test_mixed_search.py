"""Layers whose gains are equal within noise: only among those may something else than the gain decide."""

from __future__ import annotations

from harness.quantize.mixed_search import ties
from harness.quantize.sensitivity import LayerCost


def cost(name: str, gain_db: float, error_db: float | None) -> LayerCost:
    return LayerCost(name, "Conv", (name,), gain_db, error_db, 30.0, None, None, None, None, (), "")


def test_ties_are_within_the_error_of_the_groups_first() -> None:
    ranking = [
        cost("a", 5.0, 0.3),
        cost("b", 4.7, 0.4),
        cost("c", 4.45, 0.1),
        cost("d", 4.4, None),
        cost("e", 4.29, None),
    ]
    # a and b: 0.3 apart, error 0.5; c: 0.55 from a, error 0.32; d: 0.05 from c, at least 0.1; e: 0.16 from c, 0.1.
    assert [[one.layer for one in group] for group in ties(ranking)] == [["a", "b"], ["c", "d"], ["e"]]
