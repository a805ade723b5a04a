from __future__ import annotations

from pathlib import Path

from harness.record.figure import Figure, Network, Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report.headline import headline_metric, metric_title, rows
from harness.report.text import MISSING


def test_without_labels_the_headline_is_how_close_the_outputs_are() -> None:
    target = TargetRecord("a", "zcu102", "fpga", "emulated", Source.EMULATED, "done")
    figure = Figure("a", "zcu102", "fpga", Network.RATIO, "", "sqnr_db", 24.04, "dB", Source.EMULATED)
    record = RunRecord(
        "run", "job", {"metrics": [], "model": str(Path("x.onnx"))}, "0" * 64, "quick", "validation", 10, 5,
        "2026-01-01T00:00:00+00:00", None, {}, (target,), (figure,),
    )  # fmt: skip
    assert metric_title(headline_metric(record)) == "output SQNR"
    (row,) = rows(record)
    assert row.cells["delta"].line == "24.0 dB"
    assert row.cells["accuracy_float"].line == row.cells["accuracy_quantized"].line == MISSING
