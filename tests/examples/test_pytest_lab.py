"""The example suite, run by pytest as a user runs it, on a really measured target and on a stand-in."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_the_example_suite_passes_and_its_figures_reach_junit(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        str(REPOSITORY / "examples/pytest-lab"),
        "--lab",
        str(REPOSITORY / "targets.yaml"),
        "--targets",
        "this-machine,rpi-emulated",
        "--quantrig-out",
        str(pytester.path / "out"),
        "--junitxml",
        str(pytester.path / "lab.xml"),
    )

    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*rpi-emulated is emulated: a stand-in never reports a time*"])
    cases = ElementTree.parse(pytester.path / "lab.xml").getroot().findall(".//testcase")
    properties = {
        case.attrib["name"]: {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        for case in cases
    }
    measured = properties["test_int8_is_not_slower_where_time_is_measured[this-machine]"]
    emulated = properties["test_int8_stays_within_a_point_of_float[rpi-emulated]"]
    assert float(measured["Quantized.latency_p50_ms"]) > 0
    assert float(emulated["Floating-Point.accuracy_top1"]) > 0.98
    assert emulated["Floating-Point.accuracy_top1.source"] == "emulated"
    assert "Quantized.latency_p50_ms" not in emulated
