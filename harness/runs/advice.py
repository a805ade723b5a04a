"""What the number of samples can say about the margins that a job names, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.gates_values import Gate, Rule


def sample_notes(gates: Sequence[Gate], samples: int) -> tuple[str, ...]:
    """One line for each non-inferiority gate that this many samples can hardly settle.

    Only of a metric that is right or wrong sample by sample: what another one takes is not known before its spread is.

    Args:
        gates: of the job.
        samples: that accuracy rests on.
    """
    asked = [g for g in gates if g.rule is Rule.NON_INFERIOR and g.metric.startswith("accuracy_top")]
    if not asked:
        return ()
    from harness.judge.noninferiority import sample_size_advice  # scipy is heavy, and most jobs do not need it

    found = [(gate.name, sample_size_advice(gate.threshold, samples)) for gate in asked if gate.threshold > 0]
    return tuple(f"gate {name}: {advice}" for name, advice in found if advice is not None)
