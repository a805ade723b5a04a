"""The machine-readable files, read back by somebody else's reader."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import resource
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest

from harness.errors import UserError
from harness.record.run import RunRecord
from harness.report.csvfile import comparison_csv, number_cell, text_cell
from harness.report.junit import junit_xml
from harness.report.publish import publish
from harness.report.runjson import dump, load

CONTRACT_HEADER = "run_id,job,target,board,environment,network,device,metric,value,ci_low,ci_high,unit,source,n,note"
NUMBERS = ("value", "ci_low", "ci_high", "n")


def test_csv_reads_back_in_pandas(run_record: RunRecord) -> None:
    text = comparison_csv(run_record)
    assert text.splitlines()[0] == CONTRACT_HEADER
    table = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={c: [""] for c in NUMBERS})
    assert len(table) == len(run_record.figures)
    for figure, (_, row) in zip(run_record.figures, table.iterrows(), strict=True):
        for column in NUMBERS:
            wanted, got = getattr(figure, column), row[column]
            assert (wanted is None and math.isnan(got)) or wanted == got
        texts = (row["target"], row["network"], row["metric"], row["source"], row["note"])
        assert texts == (figure.target, figure.network, figure.metric, figure.source, figure.note)


def test_unknown_is_empty_and_never_zero(run_record: RunRecord) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(run_record))))
    fps = {(row["target"], row["network"]): row["value"] for row in rows if row["metric"] == "fps"}
    assert fps["jetson-emulated", "Quantized"] == ""
    assert fps["rpi-emulated", "Floating-Point"] == ""
    assert float(fps["this-machine", "Quantized"]) > 0


def test_no_cell_of_a_hostile_run_is_a_formula(hostile_record: RunRecord) -> None:
    text = comparison_csv(hostile_record)
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == len(hostile_record.figures) + 1  # no cell breaks its row
    numeric = [rows[0].index(name) for name in NUMBERS]
    for row in rows[1:]:
        assert len(row) == 15
        for column, cell in enumerate(row):
            if column in numeric:
                assert cell == "" or math.isfinite(float(cell))
            else:
                assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
                assert cell.isprintable() or cell == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", " =1", "＝1+1"])  # noqa: RUF001
def test_formulas_get_an_apostrophe(text: str) -> None:
    assert text_cell(text).startswith("'")


def test_ordinary_text_and_negative_numbers_are_left_alone() -> None:
    assert text_cell("raspberry-pi-4, 2 threads") == "raspberry-pi-4, 2 threads"
    assert number_cell(-0.25) == "-0.25"
    assert number_cell(2900244.0) == "2900244"
    assert float(number_cell(0.1 + 0.2)) == 0.1 + 0.2
    assert number_cell(None) == ""


def test_run_json_is_lossless(run_record: RunRecord, hostile_record: RunRecord) -> None:
    for record in (run_record, hostile_record):
        text = dump(record)
        text.encode("ascii")
        assert load(text) == record
        assert dump(load(text)) == text


def test_run_json_is_strict_json_whatever_a_board_sent(run_record: RunRecord) -> None:
    block = dataclasses.replace(run_record.targets[0].blocks[0], duration_s=math.inf, cpu_time_s=math.nan)
    bad = dataclasses.replace(run_record.targets[0], blocks=(block,), description={"timeout_s": -math.inf})
    text = dump(dataclasses.replace(run_record, targets=(bad,)))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)
    back = load(text).targets[0]
    assert back.blocks[0].duration_s == math.inf
    assert math.isnan(back.blocks[0].cpu_time_s)
    assert back.description == {"timeout_s": "-Infinity"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "update quantrig"),
        ({"schema_version": None}, "is it a run.json"),
        ({"samples": "many"}, "samples: "),
        ({"targets": [{}]}, r"targets\.0"),
    ],
)
def test_a_run_json_that_does_not_fit_is_named_in_one_line(
    run_record: RunRecord, change: dict[str, object], message: str
) -> None:
    data = {**json.loads(dump(run_record)), **change}
    with pytest.raises(UserError, match=message) as caught:
        load(json.dumps(data), "reports/x/run.json")
    assert str(caught.value).startswith("reports/x/run.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_no_run_json_at_all(text: str) -> None:
    with pytest.raises(UserError, match=r"run\.json"):
        load(text)


def test_junit_reads_back(run_record: RunRecord) -> None:
    suite = ET.fromstring(junit_xml(run_record)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("4", "1", "0")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == [target.name for target in run_record.targets]
    error = cases["rpi-emulated"].find("error")
    assert error is not None
    assert error.get("type") == "crashed"
    assert "quantrig resume" in str(error.get("message"))
    properties = {p.get("name"): p.get("value") for p in cases["this-machine"].iter("property")}
    expected = next(f.value for f in run_record.figures if f.target == "this-machine" and f.metric == "speedup")
    assert float(str(properties["Ratio.speedup"])) == expected
    emulated = {str(p.get("name")): str(p.get("value")) for p in cases["zcu102-emulated"].iter("property")}
    assert "Quantized.fps" not in emulated  # no number of another kind without saying so
    assert float(emulated["Quantized.fps (modelled)"]) == 18.9
    assert float(emulated["Quantized.lut_percent (published)"]) == 62.31
    assert not any(str(p.get("name")).startswith("Quantized.fps") for p in cases["jetson-emulated"].iter("property"))
    seconds = sum(block.duration_s for block in run_record.targets[0].blocks)
    assert float(str(cases["this-machine"].get("time"))) == pytest.approx(seconds + 0.4479, abs=0.001)


def test_junit_of_a_pending_target_is_skipped(run_record: RunRecord) -> None:
    pending = dataclasses.replace(run_record.targets[0], status="pending", blocks=(), loadings=())
    root = ET.fromstring(junit_xml(dataclasses.replace(run_record, targets=(pending,))))
    assert root.find("testsuite/testcase/skipped") is not None


def test_junit_of_a_hostile_run_is_still_xml(hostile_record: RunRecord) -> None:
    root = ET.fromstring(junit_xml(hostile_record))
    assert len(root.findall("testsuite/testcase")) == 4
    assert root.find(".//script") is None


def test_publish_writes_the_five_files_and_nothing_else(run_record: RunRecord, tmp_path: Path) -> None:
    out = tmp_path / "reports" / run_record.run_id
    published = publish(run_record, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.csv",
        "comparison.md",
        "junit.xml",
        "report.html",
        "run.json",
    ]
    first = {path: path.read_bytes() for path in published.paths}
    publish(run_record, out)  # a second time replaces them with the same
    assert {path: path.read_bytes() for path in published.paths} == first
    assert load(published.run_json.read_text(encoding="utf-8")) == run_record
    assert published.report_html.stat().st_mode & 0o400


def test_publish_where_nothing_can_be_written(run_record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="choose another --out"):
        publish(run_record, tmp_path / "file" / "run")


def test_a_failed_write_leaves_the_old_files_and_no_litter(run_record: RunRecord, tmp_path: Path) -> None:
    publish(run_record, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    largest = max(len(content) for content in before.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write past the limit fails as on a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
        with pytest.raises(UserError, match="choose another --out"):
            publish(dataclasses.replace(run_record, job_name="other"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
