"""Scales and elements of the drawings."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import svg


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(2, 9))
def test_a_scale_holds_its_values_with_few_round_ticks(values: list[float], at_most: int) -> None:
    scale = svg.nice_scale(values, at_most)
    slack = 1e-9 * max(1.0, abs(scale.low), abs(scale.high))
    assert scale.low <= min(values) + slack
    assert scale.high >= max(values) - slack
    assert 1 <= len(scale.ticks) <= at_most + 2
    for value in values:
        assert 0 < scale.at(value) < 100
    if len(scale.ticks) > 1:
        step = scale.ticks[1] - scale.ticks[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(mantissa - nice) for nice in (1, 2, 5, 10)) < 1e-3


def test_a_scale_stays_inside_its_bounds() -> None:
    scale = svg.nice_scale([0.93, 1.0], bounds=(0.0, 1.0))
    assert (scale.low, scale.high) == (0.92, 1.0)
    with pytest.raises(ValueError, match="needs a value"):
        svg.nice_scale([math.nan])


def test_drawings_are_xml_and_escape_everything() -> None:
    evil = '"><script>alert(1)</script>\x1b'
    parts = [svg.text(10, 5, evil, "label"), svg.dot(3, 4, 5, evil), svg.bar(1, 2, 3, 4, "box")]
    root = ET.fromstring(svg.drawing(50, evil, evil, "id", parts))
    assert [child.tag for child in root] == ["title", "desc", "text", "circle", "rect"]
    assert root.get("aria-labelledby") == "id-title id-desc"
    assert root[3].get("class") == plain_evil()
    assert root[2].text == plain_evil()


def plain_evil() -> str:
    return '"><script>alert(1)</script>\N{REPLACEMENT CHARACTER}'
