"""junit.xml: one test case a target and one a gate, so that any CI shows which board failed and keeps its figures."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from harness.record.gates import GateResult, Outcome
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report.csvfile import number_cell
from harness.report.gates import gate_rows
from harness.report.text import plain


def junit_xml(record: RunRecord) -> str:
    """The file's content.

    A target that failed is an `error` (the board's fault, not a failed expectation); one that was never reached is
    `skipped`. Figures with a value are properties named `<network>.<metric>`. Each gate is a case of its own, named
    `<target>: <gate>`: a failed one is a `failure`, an inconclusive one `skipped` with what would settle it.
    """
    cases = [_case(record, target) for target in record.targets]
    cases += [_gate_case(record, result) for result in record.gates]
    suite = ET.Element(
        "testsuite",
        name=f"quantrig.{plain(record.job_name)}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{sum(float(case.get('time', '0')) for case in cases):.3f}",
        timestamp=plain(record.started),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("run_id", record.run_id), ("model_digest", record.model_digest), ("profile", record.profile)):
        ET.SubElement(properties, "property", name=name, value=plain(value))
    suite.extend(cases)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(record: RunRecord, target: TargetRecord) -> ET.Element:
    case = ET.Element(
        "testcase",
        classname=f"quantrig.{plain(record.job_name)}",
        name=plain(target.name),
        time=f"{_board_seconds(target):.3f}",
    )
    properties = ET.SubElement(case, "properties")
    about = (("board", target.board), ("environment", target.environment), ("source", target.source.value))
    for name, value in about:
        ET.SubElement(properties, "property", name=name, value=plain(value))
    for figure in record.figures:
        if figure.target == target.name and figure.value is not None:
            other = "" if figure.source is target.source else f" ({figure.source.value})"
            name = plain(f"{figure.network.value}.{figure.metric}{other}")
            ET.SubElement(properties, "property", name=name, value=number_cell(figure.value))
    message = plain(target.error or target.status)
    if target.status == "pending":
        ET.SubElement(case, "skipped", message="not reached")
    elif target.status != "done":
        ET.SubElement(case, "error", type=plain(target.status), message=message).text = message
    return case


def _gate_case(record: RunRecord, result: GateResult) -> ET.Element:
    (row,) = gate_rows([result])
    name = f"{row.target}: {row.gate}"
    case = ET.Element("testcase", classname=f"quantrig.{plain(record.job_name)}.gates", name=name, time="0.000")
    properties = ET.SubElement(case, "properties")
    about = (
        ("outcome", result.outcome.value),
        ("claim", row.claim),
        ("value", number_cell(result.value)),
        ("ci_low", number_cell(result.ci_low)),
        ("ci_high", number_cell(result.ci_high)),
        ("threshold", number_cell(result.threshold)),
        ("unit", plain(result.unit)),
        ("n", "" if result.n is None else str(result.n)),
        ("source", "" if result.source is None else result.source.value),
    )
    for key, value in about:
        ET.SubElement(properties, "property", name=key, value=value)
    if result.outcome is Outcome.FAIL:
        message = f"{row.claim}: {row.evidence}"
        ET.SubElement(case, "failure", type="gate", message=message).text = message
    elif result.outcome is Outcome.INCONCLUSIVE:
        ET.SubElement(case, "skipped", message=f"inconclusive: {row.detail}")
    return case


def _board_seconds(target: TargetRecord) -> float:
    """Time the board spent on loading and on timed blocks, s."""
    loading_ms = sum(load.start_ms + load.check_ms + load.load_ms + (load.compile_ms or 0) for load in target.loadings)
    return loading_ms / 1e3 + sum(block.duration_s for block in target.blocks)
