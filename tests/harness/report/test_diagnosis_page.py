"""The page, the pictures and the table of a diagnosis, read back."""

from __future__ import annotations

import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from harness.emulation.diagnose.values import Diagnosis, Kind, LayerDifference
from harness.report.diagnosis_page import diagnosis_html, publish_diagnosis, render_diagnosis
from harness.report.diagnosis_svg import difference_file, difference_svg
from harness.report.text import MINUS, MISSING

HOSTILE = '<script>alert(1)</script>"/../x'


def layer(name: str, histogram: dict[int, int], own: int = 0, *kinds: str, unknown: str = "") -> LayerDifference:
    values = sum(histogram.values())
    differing = values - histogram.get(0, 0)
    total = sum(abs(lsb) * count for lsb, count in histogram.items())
    return LayerDifference(
        name, "Conv", f"{name}.quantized", values, differing, 1 if differing else 0,
        max(map(abs, histogram)), total / differing if differing else 0.0, own, histogram,
        (differing, 0, 0, 0), tuple(Kind(kind, f"text of {kind}") for kind in kinds), unknown,
    )  # fmt: skip


def diagnosis(*layers: LayerDifference) -> Diagnosis:
    return Diagnosis("bench", "fpga", "lowered: a DPU", "Q/DQ", 2, layers, 3, 10, ("one thing to know",))


FOUND = diagnosis(
    layer("first", {0: 100}),
    layer(HOSTILE, {0: 960, 1: 30, -2: 10}, 40, "rounding half-even", "bias -1"),
    layer("after", {0: 90, 16: 6, -1: 4}),
    layer("odd", {0: 99, 1: 1}, 1, unknown="nobody knows"),
)


def columns(one: LayerDifference) -> dict[str, tuple[float, str]]:
    """Hint → (height, class) of every column drawn."""
    drawn = {}
    for rect in ElementTree.fromstring(str(difference_svg(one))).iter("rect"):
        hint = rect.find("title")
        if hint is not None:
            drawn[str(hint.text)] = (float(rect.get("height", 0)), rect.get("class", ""))
    return drawn


def test_columns_stand_for_counts() -> None:
    drawn = columns(FOUND.layers[1])
    assert set(drawn) == {"0 LSB: 960", "+1 LSB: 30", f"{MINUS}2 LSB: 10", "channel 0: 40"}
    full = drawn["0 LSB: 960"][0]
    assert drawn["+1 LSB: 30"][0] == pytest.approx(full * math.log1p(30) / math.log1p(960), rel=1e-4)
    assert drawn["0 LSB: 960"][1] == "same"
    assert drawn["+1 LSB: 30"][1] == drawn["channel 0: 40"][1] == "off"


def test_what_lies_beyond_the_ends_is_said_to() -> None:
    assert "≥+16 LSB: 6" in columns(FOUND.layers[2])


def test_many_channels_are_drawn_in_groups_by_the_worst() -> None:
    many = LayerDifference("wide", "Conv", "t", 4000, 7, 1, 1, 1.0, 7, {0: 3993, 1: 7}, (0,) * 393 + (7,) + (0,) * 6)
    drawn = columns(many)
    assert drawn["channels 390 to 395, at most: 7"][1] == "off"
    text = str(difference_svg(many))
    assert "in 1 of 400 channels, drawn in groups of 6" in text


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []  # type: ignore[list-item]
        self.links += [found["href"]] if found.get("href") else []  # type: ignore[list-item]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_the_page_has_a_row_a_layer_and_runs_nothing() -> None:
    page = _Reader()
    page.feed(diagnosis_html(HOSTILE, [FOUND, diagnosis(layer("x", {0: 5}))]))
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    rows = [row for row in page.rows if row and row[0] not in {"Layer"}]
    assert len(rows) == 5
    assert rows[0][1:] == ["Conv", "100", "0", "0 of 2", "0", MISSING, "0", "equal"]
    assert rows[1][1:] == ["Conv", "1,000", "40", "1 of 2", "2", "1.25", "40", "rounding half-even or bias -1"]
    assert rows[2][-1] == "inherited"
    assert rows[3][-1] == "unknown: nobody knows"


def test_files_of_hostile_names_stay_in_their_folder(tmp_path: Path) -> None:
    paths = publish_diagnosis("job", [FOUND], tmp_path / "out")
    assert [path.name for path in paths[:2]] == ["diagnosis.html", "diagnosis.json"]
    assert len(paths) == 2 + 3
    for path in paths[2:]:
        assert path.resolve().parent == tmp_path / "out" / "diagnosis"
        assert ElementTree.parse(path).getroot().get("class") == "difference"
    (told,) = json.loads(paths[1].read_text(encoding="utf-8"))
    assert told["first_difference"] == HOSTILE
    assert told["layers"][1]["histogram"] == {"0": 960, "1": 30, "-2": 10}
    assert told["kinds"] == ["rounding half-even", "bias -1"]


def test_a_picture_of_its_own_carries_its_colours() -> None:
    assert "prefers-color-scheme" in difference_file(FOUND.layers[1])


def test_the_table_of_a_terminal_says_the_finding_first() -> None:
    screen = io.StringIO()
    render_diagnosis(FOUND, Console(file=screen, width=200))
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("bench: first difference in <script>")
    assert (
        "40 of 1,000 values on 1 of 2 samples, largest 2 LSB, mean 1.25 LSB; rounding half-even or bias -1" in lines[0]
    )
    assert any(line.split()[:3] == ["after", "Conv", "100"] and line.rstrip().endswith("inherited") for line in lines)
    assert "note: one thing to know" in lines


def test_no_difference_needs_no_table() -> None:
    screen = io.StringIO()
    exact = Diagnosis("bench", "cpu", "here", "there", 4, (layer("x", {0: 5}), layer("y", {0: 7})), 0, 9)
    render_diagnosis(exact, Console(file=screen, width=200))
    assert screen.getvalue().splitlines()[0] == "bench: no difference in 12 values of 2 layers, 4 samples"
    assert "verdict" not in screen.getvalue()
    only_outputs = Diagnosis("bench", "cpu", "here", "there", 4, (layer("x", {0: 5}),), 2, 9)
    assert only_outputs.summary.endswith("but 2 output values differ")
