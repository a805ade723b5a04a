"""What a job's margin takes is said before the run."""

from __future__ import annotations

from harness.judge.figure import Network
from harness.judge.gates_values import Gate, Rule
from harness.runs.advice import sample_notes


def gate(metric: str, rule: Rule, threshold: float) -> Gate:
    return Gate("accuracy", metric, rule, threshold, "fraction", Network.RATIO)


def test_a_margin_that_the_samples_cannot_carry_is_said() -> None:
    (note,) = sample_notes([gate("accuracy_top1", Rule.NON_INFERIOR, 0.01)], 400)
    assert note.startswith("gate accuracy: a margin of 1 point needs 1,570 samples")
    assert sample_notes([gate("accuracy_top1", Rule.NON_INFERIOR, 0.01)], 5000) == ()


def test_other_gates_and_other_metrics_say_nothing() -> None:
    assert sample_notes([gate("speedup", Rule.AT_LEAST, 1.2)], 4) == ()
    assert sample_notes([gate("miou", Rule.NON_INFERIOR, 0.01)], 4) == ()
