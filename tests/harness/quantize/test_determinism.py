from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from harness.demo import digits
from harness.quantize import calibrate, quantize
inputs, _ = digits.held_out()
model = Path(digits.__file__).with_name("digits.onnx")
batches = [{"image": inputs["image"][i : i + 8]} for i in range(0, 64, 8)]
for environment in ("gpu", "cpu", "fpga", "host"):
    ranges = calibrate(model, batches, environment=environment, histograms=True)
    made = quantize(model, ranges, environment=environment, method="auto", out=Path(sys.argv[1]), held_back=batches[:2])
    print(environment, made.digest)
"""


def test_the_same_input_gives_the_same_files_in_every_process(tmp_path: Path) -> None:
    """An artifact is named by its digest: a network made twice must not be sent twice."""
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "q.onnx")],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert [line.split()[0] for line in said[0]] == ["gpu", "cpu", "fpga", "host"]
    assert said[0] == said[1]
