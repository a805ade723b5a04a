"""Thresholds are written as figures are, and say exactly what was asked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.numbers import MINUS, TIMES, threshold_text, value_text


@pytest.mark.parametrize(
    ("value", "unit", "difference", "text"),
    [
        (1.2, "x", False, f"1.20{TIMES}"),
        (1.125, "x", False, f"1.125{TIMES}"),
        (20, "ms", False, "20.0 ms"),
        (12_345.678, "ms", False, "12,345.678 ms"),
        (0.01, "fraction", True, "1.00 pt"),
        (0.00125, "fraction", True, "0.125 pt"),
        (0.97, "fraction", False, "97.00 %"),
        (200e6, "bytes", False, "200 MB"),
        (100, "bytes", False, "100 B"),
        (50, "percent", False, "50.0 %"),
        (3, "pairs", False, "3 pairs"),
        (-0.0, "ms", False, "0 ms"),
        (-0.02, "fraction", True, f"{MINUS}2.00 pt"),
        (0.5, "", False, "0.500"),
    ],
)
def test_thresholds(value: float, unit: str, difference: bool, text: str) -> None:
    assert threshold_text(value, unit, difference=difference) == text


@given(st.floats(0.001, 1e6).map(lambda x: float(f"{x:.3g}")), st.sampled_from(["x", "ms", "mJ", "W", "dB", "1/s"]))
def test_a_figure_at_the_threshold_reads_as_the_threshold_does(value: float, unit: str) -> None:
    assert threshold_text(value, unit) == value_text(value, unit)


@given(st.floats(0.0001, 1e8), st.sampled_from(["x", "ms", "LSB"]))
def test_what_was_asked_is_said_exactly(value: float, unit: str) -> None:
    asked = float(f"{value:.7g}")
    (number,) = re.findall(r"[\d,.]+(?:e[-+]\d+)?", threshold_text(asked, unit))
    assert float(number.replace(",", "")) == pytest.approx(asked, rel=1e-9)
