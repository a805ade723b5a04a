"""Numbers as readers see them, and text that cannot do harm."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.text import (
    MINUS,
    elapsed,
    instant,
    interval_text,
    percent,
    plain,
    points,
    significant,
    size,
    value_text,
)


@given(st.text())
def test_plain_is_one_printable_line_and_settles(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert "\n" not in shown
    assert len(shown) == len(text)
    assert plain(shown) == shown
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in shown)


def test_plain_keeps_what_people_write() -> None:
    assert plain("Müller 测试 µs ≤ 5 °C — ok") == "Müller 测试 µs ≤ 5 °C — ok"


@given(st.floats(1e-4, 1e8))
def test_three_significant_digits_are_three(value: float) -> None:
    assert float(significant(value).replace(",", "")) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (999.6, "1,000"),
        (1234.5, "1,234"),
        (1e-7, f"1.00e{MINUS}07"),
        (-0.5, f"{MINUS}0.500"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_significant_survives_what_is_no_number() -> None:
    assert significant(math.nan) == "nan"
    assert significant(math.inf) == "inf"


def test_units() -> None:
    assert percent(0.975) == "97.50 %"
    assert points(-0.0025) == "−0.25 pt"  # noqa: RUF001
    assert points(0.0025) == "+0.25 pt"
    assert points(-0.00001) == "0.00 pt"
    assert size(2_900_244) == "2.90 MB"
    assert size(733_908) == "734 kB"
    assert size(512) == "512 B"
    assert value_text(None, "ms") == "–"  # noqa: RUF001
    assert value_text(1.85, "x") == "1.85×"  # noqa: RUF001
    assert value_text(134184, "bytes") == "134,184 bytes"
    assert value_text(0.5, "", "mse_delta") == "+0.500"
    assert interval_text(-0.011, 0.005, "fraction", "accuracy_top1_delta") == "[−1.10, +0.50]"  # noqa: RUF001
    assert interval_text(None, None, "ms") == ""


def test_times() -> None:
    assert instant("2026-07-14T12:15:00+02:00") == "2026-07-14 10:15:00 UTC"
    assert instant("no time") == "no time"
    assert elapsed("2026-07-14T10:00:00+00:00", "2026-07-14T10:01:12+00:00") == "1 min 12 s"
    assert elapsed("2026-07-14T10:00:00+00:00", None) == "–"  # noqa: RUF001
