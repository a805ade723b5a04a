"""The page: well-formed, self-contained, readable without colours and by a screen reader; hostile text stays text."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from harness.record.figure import Source
from harness.record.run import RunRecord
from harness.record.target import RecoveryStep
from harness.report.charts import accuracy_charts
from harness.report.charts_latency import latency_charts
from harness.report.flat import flatten
from harness.report.page import report_html

VOID = {"meta", "link", "br", "img", "hr", "input", "col"}


class Page(HTMLParser):
    """Collects elements and checks that every one is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return " ".join(" ".join(data.split()) for tag, data in self.texts if tag != "style")

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture(scope="module")
def html(run_record: RunRecord) -> str:
    return report_html(run_record)


@pytest.mark.parametrize("hostile", [False, True])
def test_nothing_is_asked_of_anyone(run_record: RunRecord, hostile_record: RunRecord, hostile: bool) -> None:
    html = report_html(hostile_record if hostile else run_record)
    page = Page(html)
    assert not page.tags() & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"}
    for _, attributes in page.elements:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "background", "xlink:href", "style"}
        assert not [name for name in attributes if name.startswith("on")]
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_hostile_text_is_shown_as_text(hostile_record: RunRecord, run_record: RunRecord) -> None:
    hostile, friendly = Page(report_html(hostile_record)), Page(report_html(run_record))
    assert hostile.tags() <= friendly.tags()
    text = hostile.text()
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", report_html(hostile_record))


def test_headings_language_and_title(html: str) -> None:
    page = Page(html)
    assert ("html", {"lang": "en"}) in page.elements
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert any(tag == "title" and "digits" in data for tag, data in page.texts)
    assert {"main", "header", "footer"} <= page.tags()


def test_every_table_header_has_a_scope_and_every_reference_an_id(html: str) -> None:
    page = Page(html)
    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in {"col", "row", "colgroup"} for attributes in headers)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for wanted in (attributes.get("aria-labelledby") or "").split():
            assert wanted in ids
    regions = [a.get("aria-label") for _, a in page.elements if a.get("role") == "region"]
    assert len(regions) == len(set(regions))


def test_every_drawing_has_a_name_a_description_and_its_numbers(html: str, run_record: RunRecord) -> None:
    page = Page(html)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 2  # accuracy, and latency of the one measured target
    assert all(attributes["role"] == "img" for attributes in drawings)
    (chart,) = accuracy_charts(run_record)
    assert [row[0] for row in chart.rows[::2]] == ["this-machine", "jetson-emulated", "zcu102-emulated"]
    for row in chart.rows:
        assert all(cell in page.text() for cell in row)


def test_marks_stand_where_the_values_are(run_record: RunRecord) -> None:
    (chart,) = accuracy_charts(run_record)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"', chart.drawing)]
    values = [f.value for f in run_record.figures if f.metric == "accuracy_top1" and f.network == "Floating-Point"]
    known = [value for value in values if value is not None]
    ticks = re.findall(r'<text x="([\d.]+)%" y="\d+" class="tick" text-anchor="middle">([\d.]+)<', chart.drawing)
    (x0, v0), (x1, v1) = (float(ticks[0][0]), float(ticks[0][1])), (float(ticks[-1][0]), float(ticks[-1][1]))
    expected = [x0 + (100 * value - v0) * (x1 - x0) / (v1 - v0) for value in known]
    assert dots == pytest.approx(expected, abs=0.01)


def test_latency_is_drawn_for_measured_targets_only(run_record: RunRecord) -> None:
    (chart,) = latency_charts("this-machine", run_record.targets[:1], 1)
    assert chart.drawing.count("block float") == 8
    assert latency_charts("jetson-emulated", run_record.targets[1:2], 2) == []


def test_the_order_and_the_plain_words(html: str) -> None:
    text = Page(html).text()
    order = ["3 of 4 targets finished", "Comparison", "Plots", "Targets", "Environment and provenance"]
    positions = [text.index(word) for word in order]
    assert positions == sorted(positions)
    assert "jetson-emulated, rpi-emulated, zcu102-emulated are emulated" in text
    assert "Times of zcu102-emulated are modelled" in text
    assert "An emulated network is not smaller" in text
    assert "softmax stays float: its output needs more than 8 bits" in text
    assert "already on the board, skipped" in text
    assert "QDQ arithmetic, not bit-exact" in text
    assert "AMD EPYC" in text
    assert text.count("method mse: best output SQNR") == 4  # where quantization is described, once a target


def test_every_row_of_a_target_says_how_its_numbers_came_to_be(html: str) -> None:
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th>(.*?)</tr>", html.partition('id="target-4"')[2])
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows}
    assert cells["fps"][:4] == ["5.62 1/s", "18.9 1/s", "", "modelled"]
    assert cells["conv_threads"][:4] == ["16", "64", "", "published"]
    assert cells["lut_percent"][:4] == ["93.2 %", "62.3 %", "", "published"]
    assert cells["accuracy_top1"][3] == "emulated"
    assert cells["speedup"][:3] == ["3.36×", "", "modelled"]  # noqa: RUF001


def test_a_compile_log_is_there_and_folded_away(html: str) -> None:
    page = Page(html)
    assert [a for tag, a in page.elements if tag == "details"].count({"class": "log"}) == 2
    assert "open" not in {name for tag, a in page.elements if tag == "details" for name in a}
    assert "1 Conv_0 Conv (HW)" in page.text()
    assert "2 Softmax_1 Softmax (SW) notice: in float" in page.text()


def test_programming_says_what_was_skipped(html: str) -> None:
    text = Page(html).text()
    assert "Quantized zcu102_int8 already loaded, skipped already loaded, skipped" in text
    assert "Floating-Point zcu102_single already loaded, skipped programmed" in text
    assert "boot-7" in text
    assert f"Lowered for zcu102-emulated, sha256 {'10' * 32}" in text


def test_what_had_to_be_mended_is_told_step_by_step(run_record: RunRecord) -> None:
    steps = (
        RecoveryStep("restart agent", 1_800_000_000.0, 0.0, "skipped", "its kernel has stopped: kernel <panic>"),
        RecoveryStep("power cycle", 1_800_000_000.0, 6.25, "done", "relay off and on"),
    )
    lost = dataclasses.replace(run_record.targets[0], recovery=steps)
    page = Page(report_html(dataclasses.replace(run_record, targets=(lost,))))
    assert "What had to be mended" in page.text()
    # date -u -d @1800000000 +%T: 08:00:00
    text = " ".join(page.text().split())
    assert "restart agent 08:00:00 \N{EN DASH} skipped its kernel has stopped: kernel <panic>" in text
    assert "power cycle 08:00:00 6.2 s done relay off and on" in text
    assert "What had to be mended" not in report_html(run_record)


def test_a_run_without_any_result_still_has_a_page(run_record: RunRecord) -> None:
    bare = tuple(
        dataclasses.replace(
            target,
            status="unreachable",
            error="nothing answers",
            quantized=None,
            loadings=(),
            shipments=(),
            blocks=(),
            description=None,
            source=Source.MEASURED,
        )
        for target in run_record.targets
    )
    page = Page(report_html(dataclasses.replace(run_record, targets=bare, figures=(), finished=None, host={}, job={})))
    assert "No target left anything to plot" in page.text()
    assert "not finished" in page.text()


def test_refused_blocks_are_not_plotted(run_record: RunRecord) -> None:
    block = dataclasses.replace(run_record.targets[0].blocks[0], latency_ns=(-5, 10**30))
    bad = dataclasses.replace(run_record.targets[0], status="bad-result", error="no", blocks=(block,))
    assert "latency-1" not in report_html(dataclasses.replace(run_record, targets=(bad,)))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_that_of_wcag_aa_in_light_and_dark() -> None:
    style = files("harness.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 3
    for theme in themes[:2]:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        for ink in ("ink", "quiet", "float", "quantized", "bad"):
            for ground in ("page", "raised"):
                light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_flatten() -> None:
    values = {"a": {"b": 1, "c": None}, "list": ["x", 2], "rows": [{"k": "v"}, 3], "none": [], "flag": True, "text": ""}
    assert list(flatten(values)) == [
        ("a.b", "1"),
        ("a.c", "–"),  # noqa: RUF001
        ("list", "x, 2"),
        ("rows.1.k", "v"),
        ("rows.2.value", "3"),
        ("flag", "yes"),
    ]
