"""The example jobs, run as a user runs them: the float figure is that of the data's own README.

`../shared/data/README.md` took its figures with code of its own. A stand-in runs the networks here, by the same agent
and runtime as `this-machine` but untimed: outputs are what is compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness.job import QuantizeSpec, load_job
from harness.judge.samples import recompute_all

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared/data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the networks and data are not beside the repository"),
]

#: Example → metric, figure of the README, and half a unit of its last digit.
FIGURES = {
    "kws": ("accuracy_top1", 0.912, 0.0005),
    "vww": ("accuracy_top1", 0.867, 0.0005),
    "resnet8": ("accuracy_top1", 0.751, 0.0005),
    "mnist": ("accuracy_top1", 0.984, 0.0005),
    "silero": ("speech", 0.774, 0.0005),
    "fastestdet": ("map50_voc", 0.319, 0.0005),  # COCO's own map50 reads 0.320: the area is read at 101 recalls
    "deeplab": ("miou", 0.325, 0.0005),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_float_figure_is_that_of_the_datas_readme(name: str, tmp_path: Path) -> None:
    job = load_job(REPOSITORY / "examples" / name / "job.yaml")
    quickly = replace(job, quantize=QuantizeSpec(method="minmax", recover=()))  # the int8 arm is not what is asked
    lab = tmp_path / "targets.yaml"
    lab.write_text("targets:\n  here: {board: raspberry-pi-4, environment: cpu, via: emulated}\n")
    run = harness.run(quickly, lab=lab, out=tmp_path / "out", split="all", profile="quick")
    metric, figure, tolerance = FIGURES[name]
    comparison = run.comparison("here")
    value = comparison.value(metric, "Floating-Point")
    assert value == pytest.approx(figure, abs=tolerance)
    kept = comparison.target.samples[0]
    assert recompute_all(tmp_path / "out" / kept.path)[metric] == value
