"""Gates on the terminal, in comparison.md and in junit.xml."""

from __future__ import annotations

import io
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from harness.judge.verdict import exit_code, run_verdict
from harness.record.figure import Network, Source
from harness.record.gates import GateResult, Outcome, Rule
from harness.record.run import RunRecord
from harness.report.gates import gate_rows
from harness.report.junit import junit_xml
from harness.report.markdown import comparison_md
from harness.report.runjson import dump, load
from harness.report.terminal import render_terminal

EVIL = "a|b\n<script>\x1b[31m=1"


def result(name: str, outcome: Outcome, detail: str = "", target: str = "this-machine") -> GateResult:
    return GateResult(
        target, name, f"{name} at least 1.2x", outcome, name, Network.RATIO, Rule.AT_LEAST, 1.2, "x",
        1.314, 1.29, 1.34, 23, Source.MEASURED, detail,
    )  # fmt: skip


@pytest.fixture
def judged(run_record: RunRecord) -> RunRecord:
    gates = (
        result("speedup", Outcome.PASS),
        result("latency_p95_speedup", Outcome.INCONCLUSIVE, "about 35 more pairs (power 80 %), 23 given"),
        result("latency_p99_speedup", Outcome.FAIL),
        replace(result(EVIL, Outcome.INCONCLUSIVE, EVIL), claim=EVIL, value=None, ci_low=None, ci_high=None, n=None),
    )
    return replace(run_record, gates=gates)


def test_a_case_each_and_what_ci_counts(judged: RunRecord) -> None:
    suite = ET.fromstring(junit_xml(judged)).find("testsuite")
    assert suite is not None
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert len(cases) == len(judged.targets) + 4
    assert suite.get("failures") == "1"
    assert int(suite.get("skipped", "0")) >= 2
    failed = cases["this-machine: latency_p99_speedup"]
    failure = failed.find("failure")
    assert failure is not None
    assert "[1.29, 1.34]" in str(failure.get("message"))
    open_one = cases["this-machine: latency_p95_speedup"].find("skipped")
    assert open_one is not None
    assert "about 35 more pairs" in str(open_one.get("message"))
    passed = cases["this-machine: speedup"]
    assert [child.tag for child in passed] == ["properties"]
    properties = {one.get("name"): one.get("value") for one in passed.iter("property")}
    assert properties["ci_low"] == "1.29"
    assert properties["threshold"] == "1.2"


def test_the_worst_stands_first_and_nothing_breaks_a_row(judged: RunRecord) -> None:
    page = comparison_md(judged)
    lines = page.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("| outcome |")]
    rows = lines[start + 2 : start + 6]
    assert [row.split("|")[1].strip() for row in rows] == ["fail", "inconclusive", "inconclusive", "pass"]
    assert all(row.replace("\\|", "").count("|") == 9 for row in rows)
    assert "<script>" not in page
    assert "**Verdict: fail: 4 gates, 1 failed, 2 inconclusive**" in page


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_says_what_would_settle_it(judged: RunRecord, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    render_terminal(judged, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "\x1b" not in said
    assert "about 35 more pairs" in " ".join(said.split())
    assert said.index("fail ") < said.index("pass ")


def test_without_gates_nothing_is_said(run_record: RunRecord) -> None:
    assert "erdict" not in comparison_md(run_record)
    assert run_verdict(run_record).text == "no gates: nothing was asked"


def test_gates_read_back_and_older_records_have_none(judged: RunRecord) -> None:
    assert load(dump(judged)).gates == judged.gates
    older = dump(replace(judged, gates=())).replace('"gates": [],', "")
    assert '"gates"' not in older
    assert load(older).gates == ()


def test_exit_codes(judged: RunRecord) -> None:
    done = replace(judged, targets=tuple(one for one in judged.targets if one.status == "done"))
    assert exit_code(done) == 1
    assert exit_code(replace(done, gates=judged.gates[:2])) == 4
    assert exit_code(replace(done, gates=judged.gates[:1])) == 0
    assert exit_code(replace(judged, gates=judged.gates[:1])) == 3  # a board of it died


def test_an_end_alone_is_shown_as_such() -> None:
    bound = replace(result("latency_p99_ms", Outcome.PASS), unit="ms", value=4.0, ci_low=None, ci_high=5.0)
    (row,) = gate_rows([bound])
    assert row.evidence == "4.00 ms at most 5.00 ms, n 23"


def test_bytes_are_counted_as_the_claim_counts_them() -> None:
    memory = replace(
        result("memory", Outcome.PASS), claim="peak memory at most 200 MB", unit="bytes",
        metric="peak_memory_bytes", value=72_892_416, ci_low=72_892_416, ci_high=72_892_416, n=None,
    )  # fmt: skip
    (row,) = gate_rows([memory])
    assert row.evidence == "72.8924 MB"
    (unknown,) = gate_rows([replace(memory, value=None, ci_low=None, ci_high=None)])
    assert unknown.figure == "–"  # noqa: RUF001
