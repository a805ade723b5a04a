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
environment, out = sys.argv[1:]
batches = [{"image": inputs["image"][i : i + 8]} for i in range(0, 64, 8)]
ranges = calibrate(model, batches, environment=environment, histograms=True)
print(quantize(model, ranges, environment=environment, method="auto", out=Path(out), held_back=batches[:2]).digest)
"""


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_the_same_input_gives_the_same_file_in_every_process(environment: str, tmp_path: Path) -> None:
    """An artifact is named by its digest: a network made twice must not be sent twice."""
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, environment, str(tmp_path / "q.onnx")],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1
