"""Pictures of dynamic ranges, read back from their SVG and text, and the page that holds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.errors import UserError
from harness.quantize.dynamic_range import DynamicRange, of_stats, of_values
from harness.quantize.observe import TensorStats
from harness.quantize.overview import LayerView, Overview
from harness.report.files import write_files
from harness.report.histogram_svg import histogram_svg, layer_svg, losses, number, power, shade, type_text
from harness.report.histogram_text import bars, strip
from harness.report.layer_page import layers_html
from harness.report.text import MINUS

#: 9 of these 11 lie in the window 2^3 … 2^-3; 16.25 saturates, .03125 becomes 0 (facts of the host arithmetic).
VALUES = np.array([0.03125, 0.125, 0.1875, 0.25, 0.5, 1, 2.1, -2.125, 4, 8.25, 16.25], np.float32)


@pytest.fixture
def found() -> DynamicRange:
    return of_values(VALUES, "Histogram", unsigned=False)


def columns(found: DynamicRange) -> dict[str, tuple[float, float, str]]:
    """Text of a column's hint → (left, height, class), as drawn."""
    root = ElementTree.fromstring(str(histogram_svg("Weights", found)))
    drawn = {}
    for rect in root.iter("rect"):
        hint = rect.find("title")
        if hint is not None:
            drawn[str(hint.text)] = (float(rect.get("x", 0)), float(rect.get("height", 0)), rect.get("class", ""))
    return drawn


def test_grey_are_the_bits_outside_the_window_and_heights_are_counts(found: DynamicRange) -> None:
    assert found.window == (3, -3)
    drawn = columns(found)
    assert set(drawn) == {f"{power(bit)}: {count:,}" for bit, count in found.counts.items()}
    for bit, count in found.counts.items():
        _, height, kind = drawn[f"{power(bit)}: {count:,}"]
        assert (kind == "grey") == (bit in (4, -5)), bit
        assert height == pytest.approx(82 * count / max(found.counts.values()), abs=0.01)
    # The highest bit is left.
    lefts = [drawn[f"{power(bit)}: {count:,}"][0] for bit, count in sorted(found.counts.items(), reverse=True)]
    assert lefts == sorted(lefts)


def test_the_bracket_and_the_markers_stand_where_the_numbers_say(found: DynamicRange) -> None:
    root = ElementTree.fromstring(str(histogram_svg("Weights", found)))
    paths = {path.get("class", ""): path.get("d", "") for path in root.iter("path") if "126" not in path.get("d", "")}
    wide = (320 - 10) / (4 + 5 + 1)  # bits 4 … -5
    begin, end = (float(x) for x in re.findall(r"[MH] ([\d.]+)", paths["bracket"]))
    assert [begin, end] == pytest.approx([10 + wide, 10 + 8 * wide], abs=0.1)
    marks = [
        (path.get("class"), float(path.get("d", "").split()[1]))
        for path in root.iter("path")
        if "mark" in path.get("class", "") and " 129" in path.get("d", "")
    ]
    # |x| = 2^l lies l of the way from the right end of bit 0's column to the left.
    expected = {"mark open": np.log2(2.125), "mark": np.log2(16.25)}
    assert {kind for kind, _ in marks} == set(expected)
    for kind, x in marks:
        assert x == pytest.approx(10 + (5 - expected[str(kind)]) * wide, abs=0.1)


def test_counts_are_told_and_what_is_not_counted_is_said(found: DynamicRange) -> None:
    scaled = VALUES / found.scale
    exact = np.abs(scaled - np.round(scaled)) == 0
    lost = int((~exact & (np.abs(scaled) >= 0.5) & (scaled < 127.5)).sum())
    assert losses(found) == (
        "overflow 1 (9.1 %)",
        "underflow 1 (9.1 %)",
        f"precision loss {lost} ({100 * lost / 11:.2g} %)",
    )
    activations = of_stats(TensorStats.empty(histograms=True).seeing(VALUES), "Histogram", unsigned=False)
    assert losses(activations)[2] == "precision loss not counted"
    text = "".join(ElementTree.fromstring(str(histogram_svg("A", activations))).itertext())
    assert "precision loss not counted" in text
    assert f"min {MINUS}2.125" in text
    assert "max 16.25" in text
    assert type_text(found) == "int8, 2³ … 2⁻³"


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5, np.float32),
        np.array([1e-38, 1e38], np.float32),  # 253 bits: the lowest columns are one
        np.array([1e-45], np.float32),
        np.array([-3.0], np.float32),
        np.linspace(0, 255, 1000, dtype=np.float32),
    ],
)
@pytest.mark.parametrize("scheme", ["MinMax", "Histogram"])
def test_any_range_can_be_drawn_inside_the_picture(values: np.ndarray, scheme: str) -> None:
    found = of_values(values, scheme)  # type: ignore[arg-type]
    root = ElementTree.fromstring(str(histogram_svg("x", found)))
    for rect in root.iter("rect"):
        assert float(rect.get("x", 0)) >= 9.9
        assert float(rect.get("x", 0)) + float(rect.get("width", 0)) <= 320.1
    drawn = sum(int(key.rsplit(" ", 1)[1].replace(",", "")) for key in columns(found))
    assert drawn == sum(found.counts.values())
    assert list(bars("x", found))
    assert len(strip(found)) <= 26
    assert ElementTree.fromstring(layer_svg("<a> & b", "Conv", {"Weights": found}).encode()).tag.endswith("svg")


def test_shades_rank_columns() -> None:
    assert [shade(count, 100) for count in (100, 51, 50, 21, 6, 2, 1)] == [1, 1, 2, 2, 3, 4, 5]
    assert power(-12) == "2⁻¹²"
    assert number(float("inf")) == "none"


def test_text_bars_are_as_long_as_counts(found: DynamicRange) -> None:
    lines = list(bars("Weights", found))
    assert lines[0] == f"Weights: int8, 2³ … 2⁻³, min {MINUS}2.125, max 16.25, zeros 0"
    drawn = {line.split()[0]: line for line in lines[1:-1]}
    assert len(drawn) == 10
    assert "░" in drawn["2⁴"]
    assert "░" not in drawn["2³"]
    assert drawn["2⁻³"].count("█") == 40  # .125 and .1875
    assert drawn["2⁰"].count("█") == 20
    assert strip(found) == "▄[▄▄█▄▄▄█] ▄"


class Names(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in {"script", "img", "link", "iframe"}
        assert not any(name.startswith("on") for name in found)
        self.links += [str(found["href"])] if "href" in found else []
        self.ids += [str(found["id"])] if "id" in found else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(ranges: Mapping[str, DynamicRange], name: str = "conv") -> str:
    view = LayerView(name, "Conv", 11, 1234, 44, True, ranges, 30.25, None, -0.5, 0.1, float("inf"))
    quiet = LayerView("flatten", "Flatten", 0, 0, 0, False, {})
    facts = {"int8_db": 31.0, "environment": "cpu", "method": "mse", "samples": 4}
    return layers_html(Overview(Path("net.onnx"), Path("q.onnx"), "cpu", "MinMax", 3, 4, (view, quiet), facts))


def test_the_page_has_every_figure_and_asks_nobody(found: DynamicRange) -> None:
    html = page({"Weights": found, "Activations": of_values(np.zeros(3, np.float32), "MinMax")})
    read = Names()
    read.feed(html)
    assert all(link.startswith("#") and link[1:] in read.ids for link in read.links)
    assert len(read.ids) == len(set(read.ids))
    assert not re.search(r"url\(|https?://|@import", html)
    words = " ".join(" ".join(read.text).split())
    for expected in (
        "1,234",
        f"{MINUS}2.125",
        "16.25",
        "int8, 2³ … 2⁻³",
        "30.2",
        f"{MINUS}0.50 ± 0.10",
        "no range is known",
        "31.00 dB",
    ):
        assert expected in words, expected


def test_names_from_files_are_text(found: DynamicRange) -> None:
    html = page({"Weights": found}, name='<script>alert("1")</script>\x1b[31m' + "x" * 300)
    assert "<script" not in html
    assert "\x1b" not in html
    read = Names()
    read.feed(html)
    assert any("…" in text for text in read.text)  # long names lose their middle in tables


def test_a_page_without_anything_still_stands() -> None:
    html = layers_html(Overview(Path("net.onnx"), None, "cpu", "MinMax", 0, 0, (), {}))
    assert "Not calibrated" in html


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    old = tmp_path / "a.svg"
    old.write_text("old")
    (tmp_path / "b.svg").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_files({tmp_path / "none" / ("x" * 300): "new", old: "new"})
    assert old.read_text() == "old"
    write_files({tmp_path / "deep" / "er" / "c.svg": "c", old: "new"})
    assert old.read_text() == "new"
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
