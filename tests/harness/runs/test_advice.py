"""What a job's margin takes is said before the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.job import load_job
from harness.judge.gates_values import Gate
from harness.record.figure import Network
from harness.record.gates import GateResult, Outcome, Rule
from harness.runs.advice import plan_notes, sample_notes, unforeseen_notes, worth_of
from harness.runs.plan import make_plan
from harness.runs.profile import QUICK
from harness.runs.trial import Trial
from harness.targets.lab import load_lab

ROOT = Path(__file__).parents[3]


def gate(metric: str, rule: Rule, threshold: float) -> Gate:
    return Gate("accuracy", metric, rule, threshold, "fraction", Network.RATIO)


def test_a_margin_that_the_samples_cannot_carry_is_said() -> None:
    (note,) = sample_notes([gate("accuracy_top1", Rule.NON_INFERIOR, 0.01)], 400)
    assert note.startswith("gate accuracy: a margin of 1 point needs 1,570 samples")
    assert sample_notes([gate("accuracy_top1", Rule.NON_INFERIOR, 0.01)], 5000) == ()


def test_other_gates_and_other_metrics_say_nothing() -> None:
    assert sample_notes([gate("speedup", Rule.AT_LEAST, 1.2)], 4) == ()
    assert sample_notes([gate("miou", Rule.NON_INFERIOR, 0.01)], 4) == ()


def test_a_function_that_is_right_or_wrong_is_advised_like_accuracy() -> None:
    asked = [gate("speech", Rule.NON_INFERIOR, 0.01)]
    assert sample_notes(asked, 400) == ()
    (note,) = sample_notes(asked, 400, {"speech"})
    assert "needs 1,570 samples" in note


def test_a_mean_over_classes_counts_their_sizes() -> None:
    labels = np.repeat([0, 1, 2, 3], [970, 10, 10, 10])
    (note,) = sample_notes([gate("mean_accuracy", Rule.NON_INFERIOR, 0.03)], 1000, labels=labels)
    assert "needs 175 samples, spread evenly over the classes" in note
    assert f"you have 1,000, which count as {worth_of(labels)}" in note
    assert sample_notes([gate("mean_accuracy", Rule.NON_INFERIOR, 0.03)], 400, labels=np.arange(400) % 4) == ()


@pytest.mark.parametrize("sizes", [(50, 50, 50), (300, 20, 5), (1, 1000)])
def test_what_samples_are_worth_is_what_simulation_gives(sizes: tuple[int, ...]) -> None:
    """The variance of a mean over classes, drawn, against psi / n."""
    psi, draws = 0.1, 20_000
    rng = np.random.default_rng(7)
    # differences of the two networks: -1, 0 or 1, not 0 with probability psi
    lost_won = [rng.multinomial(n, [psi / 2, psi / 2, 1 - psi], draws) for n in sizes]
    of_class = [(drawn[:, 1] - drawn[:, 0]) / n for drawn, n in zip(lost_won, sizes, strict=True)]
    variance = float(np.var(np.mean(of_class, axis=0)))
    worth = worth_of(np.repeat(np.arange(len(sizes)), sizes))
    assert psi / variance == pytest.approx(worth, rel=0.06, abs=1)


def test_what_only_the_run_can_tell_is_said_to_be_so() -> None:
    asked = [gate("map50", Rule.NON_INFERIOR, 0.01), gate("accuracy_top1", Rule.NON_INFERIOR, 0.01)]
    (note,) = unforeseen_notes(asked)
    assert "map50" in note
    assert "cannot be known before the run" in note


def test_what_came_of_a_gate_outranks_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"name: a\nmodel: {ROOT / 'harness' / 'demo' / 'digits.onnx'}\n"
        "data: {source: 'harness.demo.digits:held_out', calibration: 100}\n"
        "gates: {accuracy: {non_inferior_by: 1 pt}}\n"
    )
    plan = make_plan(load_job(tmp_path / "job.yaml"), load_lab(ROOT / "targets.yaml"), ["this-machine"], profile=QUICK)
    (before,) = plan_notes(plan, Trial())
    assert before.startswith("gate accuracy: ")
    assert before.endswith("expect inconclusive")

    def decided(*outcomes: Outcome) -> list[GateResult]:
        return [
            GateResult("t", "accuracy", "", one, "accuracy_top1_delta", Network.RATIO, Rule.NON_INFERIOR, 0.01, "")
            for one in outcomes
        ]

    assert plan_notes(plan, Trial(), decided(Outcome.PASS, Outcome.FAIL)) == ()
    assert plan_notes(plan, Trial(), decided(Outcome.PASS, Outcome.INCONCLUSIVE)) == (before,)
