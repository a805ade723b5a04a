"""The headline table on the terminal and in Markdown, parsed by an independent Markdown parser."""

from __future__ import annotations

import dataclasses
import io
import unicodedata

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from statsmodels.stats.proportion import proportion_confint

from harness.record.figure import Network
from harness.record.run import RunRecord
from harness.report.headline import figure_index, headline_metric, metric_title
from harness.report.markdown import comparison_md, escape
from harness.report.notes import notes_under_table, outcome
from harness.report.publish import render_terminal
from harness.report.table import build_table
from harness.report.text import MINUS, TIMES
from tests.harness.report import made_runs


def shown(record: RunRecord, width: int) -> str:
    buffer = io.StringIO()
    render_terminal(record, Console(file=buffer, width=width, force_terminal=False, color_system=None))
    return buffer.getvalue()


def test_rows_show_the_figures(run_record: RunRecord) -> None:
    rows = {row.target: row for row in build_table(run_record).rows}
    index = figure_index(run_record.figures)
    speedup = index["this-machine", Network.RATIO, "speedup"].value
    assert speedup is not None
    machine = rows["this-machine"]
    assert machine.cells["speedup"].text == f"{speedup:.2f}×"  # noqa: RUF001
    assert machine.cells["accuracy_float"].text == "98.06 %"  # 353 of 360
    # Wilson's interval of 353 of 360, from statsmodels.stats.proportion.proportion_confint
    low, high = proportion_confint(353, 360, method="wilson")
    assert machine.cells["accuracy_float"].interval == f"[{100 * low:.2f}, {100 * high:.2f}]"
    assert machine.cells["memory"].line == "134 kB → 34.4 kB 0.256×"  # noqa: RUF001
    assert machine.full_source == "measured"
    assert machine.done
    jetson = rows["jetson-emulated"]
    times = ("latency_float", "latency_quantized", "speedup")
    assert {jetson.cells[key].line for key in times} == {"–"}  # noqa: RUF001
    assert jetson.source == "emulated"
    fpga = rows["zcu102-emulated"]
    assert (fpga.cells["latency_quantized"].text, fpga.cells["latency_quantized"].mark) == ("52.9", "modelled")
    assert fpga.cells["speedup"].line == "3.36× (modelled)"  # noqa: RUF001
    assert fpga.full_source == "emulated, time modelled"
    assert not machine.time_source
    crashed = rows["rpi-emulated"]
    assert crashed.status == "crashed"
    assert {cell.line for cell in crashed.cells.values()} == {"–"}  # noqa: RUF001


def test_notes_come_once_failures_first(run_record: RunRecord) -> None:
    lines = [note.line for note in notes_under_table(run_record)]
    assert len(set(lines)) == len(lines)
    assert lines[0].startswith("rpi-emulated: crashed: ")
    assert "jetson-emulated: QDQ arithmetic, not bit-exact" in lines
    assert "zcu102-emulated: bit-exact to the published semantics of MathWorks' processor, not to silicon" in lines
    assert "zcu102-emulated: Quantized already loaded into the logic, programming skipped" in lines
    errors = [
        line for line in lines if line.startswith("zcu102-emulated: modelled times of zcu102_single, zcu102_int8")
    ]
    assert len(errors) == 1  # both models have the same error: said once
    assert "error of the model 5.0 %" in errors[0]
    assert any(line.startswith("modelled: computed by a performance model") for line in lines)
    assert any(line.startswith("published: quoted") for line in lines)
    assert "all targets: Floating-Point already on the board, skipped" in lines
    assert any("emulated network is not smaller" in line for line in lines)
    assert any(line.startswith("emulated: no board was there") for line in lines)


def test_a_goal_that_timing_missed_is_said_in_other_words_than_a_gates(run_record: RunRecord) -> None:
    missed = (
        "n: float/int8 pairs of blocks; inconclusive: cap of 16 pairs reached: ±14 %, asked for ±3 %; BCa bootstrap"
    )
    figures = tuple(
        dataclasses.replace(one, note=missed) if one.metric == "speedup" and one.target == "this-machine" else one
        for one in run_record.figures
    )
    lines = [note.line for note in notes_under_table(dataclasses.replace(run_record, figures=figures))]
    wanted = "this-machine: speed-up less exact than asked: cap of 16 pairs reached: ±14 %, asked for ±3 %"
    assert [line for line in lines if "speed-up" in line] == [wanted]


def test_outcome(run_record: RunRecord) -> None:
    assert outcome(run_record) == "3 of 4 targets finished; rpi-emulated crashed."
    done = dataclasses.replace(run_record, targets=run_record.targets[:2])
    assert outcome(done) == "All 2 targets finished."
    pending = dataclasses.replace(run_record.targets[0], status="pending")
    assert "not reached: this-machine" in outcome(dataclasses.replace(run_record, targets=(pending,)))


def test_the_headline_is_the_jobs_first_metric(run_record: RunRecord) -> None:
    assert metric_title(headline_metric(run_record)) == "top-1 accuracy"
    renamed = tuple(
        dataclasses.replace(f, metric=f.metric.replace("accuracy_top1", "mean_iou")) for f in run_record.figures
    )
    record = dataclasses.replace(run_record, figures=renamed)
    assert headline_metric(record) == "mean_iou"
    assert build_table(record).rows[0].cells["accuracy_float"].text == "98.06 %"
    assert headline_metric(dataclasses.replace(run_record, figures=())) == "accuracy_top1"


@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
def test_the_terminal_table_fits_and_nothing_is_cut(run_record: RunRecord, width: int) -> None:
    text = shown(run_record, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "modelled" in text.partition("jetson-emulated: QDQ")[0]  # in the table itself, not only in a note
    for wanted in ("98.06 %", "−0.56 pt", "0.432", "0.247", "1.75×", "[1.74, 1.76]", "measured", "crashed"):  # noqa: RUF001
        assert wanted in text
    for target in run_record.targets:
        assert target.name in text


def test_the_narrow_table_names_both_networks_and_the_ratio(run_record: RunRecord) -> None:
    text = shown(run_record, 80)
    assert text.count("Quantized  ") == 4
    assert text.count("Ratio  ") == 4


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_of_boards_are_never_folded(run_record: RunRecord, width: int) -> None:
    own = "agreement_with_the_reference_of_all_labels"
    figures = tuple(dataclasses.replace(f, metric=f.metric.replace("accuracy_top1", own)) for f in run_record.figures)
    wide_metric = dataclasses.replace(run_record, figures=figures)
    swept, many = made_runs.swept_run(run_record), made_runs.many_run(run_record, 4)
    for record in (wide_metric, swept, many):
        text = shown(record, width)
        assert max(cell_len(line) for line in text.splitlines()) <= width
        assert "…" not in text
        for target in record.targets:
            assert target.name in text
        for wanted in (
            "98.06 %",
            "97.50 %",
            "[95.32, 98.68]",
            f"{MINUS}0.56 pt",
            f"1.75{TIMES}",
            "[1.74, 1.76]",
            "134 kB",
        ):
            assert wanted in text


def test_a_hostile_run_cannot_move_the_cursor_or_style_the_terminal(hostile_record: RunRecord) -> None:
    buffer = io.StringIO()
    render_terminal(hostile_record, Console(file=buffer, width=120, force_terminal=False, color_system=None))
    text = buffer.getvalue()
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    assert "[bold red]x[/bold red]" in text  # shown as it is, not obeyed


def cells_of(markdown: str) -> list[list[str]]:
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    for position, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            inline = tokens[position + 1]
            assert {child.type for child in inline.children or []} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in inline.children or []))
    return rows


def test_markdown_table_reads_back(run_record: RunRecord) -> None:
    rows = cells_of(comparison_md(run_record))
    assert len(rows) == 5
    assert rows[0][:4] == ["target", "board", "environment", "top-1 accuracy, Floating-Point"]
    assert [cell.partition(" [")[0] for cell in rows[1][3:5]] == ["98.06 %", "97.50 %"]
    assert rows[1][9].startswith("1.75×")  # noqa: RUF001
    assert rows[3][-1] == "crashed"
    assert rows[4][7:10] == ["178 (modelled)", "52.9 (modelled)", "3.36× (modelled)"]  # noqa: RUF001
    assert rows[4][11] == "emulated, time modelled"


def test_markdown_of_a_hostile_run_is_only_text(hostile_record: RunRecord) -> None:
    text = comparison_md(hostile_record)
    rows = cells_of(text)
    assert len(rows) == 5
    assert {len(row) for row in rows} == {13}
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = {token.type for token in tokens} | {c.type for token in tokens for c in token.children or []}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_inline", "hr", "fence", "strong_open"}
    assert sum(token.type == "bullet_list_open" for token in tokens) == 1
    assert sum(token.type == "heading_open" for token in tokens) == 1
    assert "javascript:" in text


@pytest.mark.parametrize(
    "text", ["a|b", "<b>", "**x**", "[a](b)", "# h", "- x", "1. x", "`x`", "a_b_c", "~~x~~", "&amp;"]
)
def test_escaped_text_shows_as_written(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"- {escape(text)}")
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 1
    assert "".join(child.content for child in inline[0].children or []) == text
