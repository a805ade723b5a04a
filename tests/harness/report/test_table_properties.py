"""Whatever a run holds: the four printers say the same, nothing is cut, no row breaks, every page stands."""

from __future__ import annotations

import csv
import html
import io
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

from harness.record.figure import Figure, Network, Source
from harness.record.gates import Outcome
from harness.record.networks import Loading
from harness.record.run import Revision, RunRecord
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord
from harness.report.csvfile import comparison_csv
from harness.report.markdown import comparison_md
from harness.report.page import report_html
from harness.report.runjson import dump, load
from harness.report.table import build_table
from harness.report.terminal import render_terminal
from harness.report.text import MISSING, plain
from tests.harness.report.conftest import HOSTILE
from tests.harness.report.made_runs import T0, empty_run, failed_run, full_run, gate, many_run, swept_run, telemetry
from tests.harness.report.test_page import Page

F, Q, R = Network.FLOAT, Network.QUANTIZED, Network.RATIO
METRICS = (
    ("accuracy_top1", "fraction"), ("latency_p50_ms", "ms"), ("fps", "1/s"), ("energy_net_mj", "mJ"),
    ("learnable_memory_bytes", "bytes"),
)  # fmt: skip
RATIOS = (
    ("accuracy_top1_delta", "fraction"), ("top1_agreement", "fraction"), ("speedup", "x"), ("energy_net_ratio", "x"),
    ("learnable_memory_ratio", "x"),
)  # fmt: skip
STATUSES = ("done", "done", "throttled", "crashed", "unreachable", "pending", "bad-result")

names = st.one_of(
    st.text("abc-19", min_size=1, max_size=12), st.text(min_size=1, max_size=60), st.sampled_from(HOSTILE)
)
values = st.one_of(st.none(), st.floats(1e-9, 1e12), st.sampled_from([0.0, 0.5, 1.0]))


@st.composite
def figures(draw: st.DrawFn, target: TargetRecord) -> list[Figure]:
    made = []
    for networks, rows in (((F, Q), METRICS), ((R,), RATIOS)):
        for network in networks:
            for metric, unit in rows:
                value = draw(values)
                if unit == "fraction" and value is not None:
                    value = min(value, 1.0)
                ends = (0.9 * value, 1.1 * value) if value is not None and draw(st.booleans()) else (None, None)
                source = draw(st.sampled_from([target.source, Source.MODELLED]))
                told = draw(st.sampled_from([None, 8])), draw(st.sampled_from(["", *HOSTILE]))
                figure = Figure(
                    target.name, target.board, target.environment, network, "cpu", metric, value, unit, source,
                    ends[0], ends[1], *told,
                )  # fmt: skip
                made.append(figure)
    return made


@st.composite
def targets(draw: st.DrawFn, name: str) -> TargetRecord:
    measured = draw(st.booleans())
    status = draw(st.sampled_from(STATUSES))
    pairs = draw(st.integers(0, 3)) if measured else 0
    blocks = tuple(
        BlockRecord(
            network, pair, tuple(draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=4))), T0 + pair, 0.4, 1, 0.1,
            1000, disturbed=draw(st.sampled_from([(), ("hot",)])),
        )
        for pair in range(pairs)
        for network in (F, Q)
    )  # fmt: skip
    return TargetRecord(
        name=name, board=draw(names), environment="cpu", via="local",
        source=Source.MEASURED if measured else Source.EMULATED, status=status,
        error=draw(st.one_of(st.none(), names)) if status != "done" else None, blocks=blocks,
        telemetry=telemetry(2) if pairs and draw(st.booleans()) else (),
        loadings=(Loading(F, 1.0, 1.0, 1.0, None, False, "ort", "1", ("CPU",), 30, 1.0, steady=False),),
        notes=tuple(draw(st.lists(names, max_size=2))), entry=draw(st.sampled_from(["", name[: len(name) // 2]])),
    )  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> RunRecord:
    named = draw(st.lists(names, max_size=5, unique=True))
    made = tuple(draw(targets(name)) for name in named)
    gates = [
        gate(draw(st.sampled_from(named)), draw(names), draw(st.sampled_from(list(Outcome))), draw(names))
        for _ in range(draw(st.integers(0, 4)) if named else 0)
    ]
    return RunRecord(
        "run-1", draw(names), {"name": "x"}, "3f" * 32, "quick", "validation", 360, 100, "2026-07-14T10:15:00+00:00",
        None, {"cpu": draw(names)}, made, tuple(f for one in made for f in draw(figures(one))), (), tuple(gates),
    )  # fmt: skip


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text, as an independent parser reads it."""
    tables: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for position, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            inline = tokens[position + 1]
            tables[-1][-1].append("".join(child.content for child in inline.children or []))
    return tables


def words(text: str) -> str:
    return " ".join(text.split())


def page_rows(text: str) -> list[list[str]]:
    """Cells of the headline table's rows on the page; the settings of a sweep by their short name."""
    body = text.partition('<table class="headline')[2].partition("</table>")[0].partition("<tbody")[2]
    rows = re.findall(r'<tr role="row">(.*?)</tr>', body, re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[words(html.unescape(re.sub(r"<[^>]+>", " ", cell))) for cell in row] for row in cells]


def check(record: RunRecord) -> None:
    table = build_table(record)
    assert [row.target for row in table.rows] == [plain(target.name) for target in record.targets]
    # Markdown
    found = markdown_tables(comparison_md(record))
    assert len(found) == (2 if record.gates else 1)
    headline = found[-1]
    assert len(headline) == len(record.targets) + 1
    assert {len(row) for row in headline} == {len(headline[0])}
    first = headline[0].index(table.columns[0].full)
    for printed, row in zip(headline[1:], table.rows, strict=True):
        wanted = [words(row.cells[column.key].line) for column in table.columns]
        assert printed[first : first + len(wanted)] == wanted
    # the page: the same cells in the same order
    text = report_html(record)
    Page(text)  # well-formed
    assert not re.findall(r'="-?(?:nan|inf)', text)  # no mark without a place
    rows = page_rows(text)
    assert len(rows) == len(record.targets)
    for printed, row in zip(rows, table.rows, strict=True):
        skipped = 2 if record.gates else 1
        for cell, column in zip(printed[skipped:], table.columns, strict=False):
            own = row.cells[column.key]
            assert cell == words(" ".join((own.text, *own.below)))
    # CSV: every figure, and the value that the tables round
    written = list(csv.DictReader(io.StringIO(comparison_csv(record))))
    assert len(written) == len(record.figures)
    for line, figure in zip(written, record.figures, strict=True):
        assert (float(line["value"]) if line["value"] else None) == figure.value
    # the terminal: within its width, and every target is there
    for width in (80, 200):
        console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
        render_terminal(record, console)
        assert isinstance(console.file, io.StringIO)
        assert max((cell_len(line) for line in console.file.getvalue().splitlines()), default=0) <= width
    # the verdict is everywhere, or nowhere
    if record.gates:
        assert f"Verdict: {table.verdict.text}" in comparison_md(record)
        assert table.verdict.outcome is not None
        assert f">{table.verdict.outcome.upper()}</h2>" in text
        assert text.index(">Gates, worst first") < text.index('<table class="headline')
    else:
        assert ">No verdict</h2>" in text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(runs())
def test_any_run_reads_the_same_everywhere(record: RunRecord) -> None:
    check(record)


@pytest.mark.parametrize("make", [full_run, swept_run, many_run, failed_run, empty_run])
def test_runs_as_labs_leave_them(run_record: RunRecord, make: object) -> None:
    assert callable(make)
    check(make(run_record))


def test_a_sweep_is_one_group(run_record: RunRecord) -> None:
    record = swept_run(run_record)
    table = build_table(record)
    assert [(entry, len(rows)) for entry, rows in table.groups] == [("this-machine", 6), ("", 3)]
    assert [row.setting for row in table.rows[:2]] == ["batch 1, 1 thread", "batch 1, 4 threads"]
    assert "throughput" in {column.key for column in table.columns}
    assert "throughput" not in {column.key for column in build_table(run_record).columns}
    page = report_html(record)
    assert "this-machine, 6 settings" in page
    assert page.count("<figcaption><strong>Latency on this-machine") == 1  # one drawing for the board
    assert page.count("<figcaption><strong>Samples a second on this-machine, by setting") == 1


def test_what_is_not_warm_or_throttled_says_so_in_its_row(run_record: RunRecord) -> None:
    board = run_record.targets[0]
    cold = tuple(replace(one, steady=one.network is not F) for one in board.loadings)
    board = replace(board, status="throttled", error="6 of 12 pairs rejected", loadings=cold)
    record = replace(run_record, targets=(board,))
    (row,) = build_table(record).rows
    assert not row.done
    assert row.ended == "throttled, not-warm"
    assert row.cells["speedup"].text != MISSING  # throttled figures are published
    assert markdown_tables(comparison_md(record))[-1][1][-1] == row.ended
    (printed,) = page_rows(report_html(record))
    assert printed[-1] == "measured not-warm throttled"
    assert build_table(run_record).rows[0].ended == "done"
    assert {one.caution for one in build_table(run_record).rows[1:]} == {""}  # a stand-in's times are not published


def test_rejected_pairs_are_shaded_where_they_were(run_record: RunRecord) -> None:
    record = load(dump(full_run(run_record)))
    page = report_html(record)
    (bands,) = (re.findall(r'<rect x="([\d.]+)%"[^>]*width="([\d.]+)%"[^>]*class="rejected"', page),)
    # pairs 6 and 7 ran from 12 to 13.9 s and from 14 to 15.9 s; telemetry from 0 to 25.8 s is the whole axis
    whole = 25.8
    wanted = [(4 + 92 * begin / whole, 92 * 1.9 / whole) for begin in (12.0, 14.0)]
    assert [tuple(map(float, band)) for band in bands] == [pytest.approx(band, abs=0.02) for band in wanted]
    assert "Shaded: 2 of 12 pairs, rejected: gpu throttled: HW slowdown (2)." in page
    assert "4 blocks of rejected pairs are left out" in page


def test_provenance_stands_last_and_is_whole(run_record: RunRecord) -> None:
    record = full_run(run_record)
    told = replace(
        record,
        host={"quantrig": "0.1.0", "commit": "0123456789ab-dirty"},
        revision=Revision("fedcba98" * 5, "release/2.1", dirty=True),
    )
    text = Page(report_html(told)).text()
    end = text[text.index("Environment and provenance") :]
    assert "perf_counter: CLOCK_MONOTONIC 1.00 ns 32.0 ns" in end
    assert "governor performance schedutil performance not known the board was lost" in end
    assert "power cycle" in end
    assert "quantrig, commit 0123456789ab-dirty" in end
    assert f"{'fedcba98' * 5} on release/2.1, with uncommitted changes" in end
    order = [text.index(word) for word in ("FAIL", "Comparison", "Plots", "SQNR of each layer", "over the run")]
    assert order == sorted(order)


def test_an_older_record_reads_and_prints(run_record: RunRecord) -> None:
    text = dump(full_run(run_record))
    for key in ("layers", "layers_samples", "settings", "recovery", "disturbed", "gates"):
        text = re.sub(rf',?\s*"{key}": (\[\]|\d+)(?=[,\s])', "", text)
    check(load(text))
