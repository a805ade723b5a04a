"""What the number of samples can say about the margins that a job names, before anything is run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.judge.gates_values import Gate
from harness.record.gates import GateResult, Outcome, Rule
from harness.runs.plan import Plan
from harness.runs.trial import Trial

_MEAN_ACCURACY = "mean_accuracy"


def sample_notes(
    gates: Sequence[Gate],
    samples: int,
    right_or_wrong: Collection[str] = (),
    labels: NDArray[np.integer] | None = None,
) -> tuple[str, ...]:
    """One line for each non-inferiority gate that this many samples can hardly settle.

    Of metrics that are right or wrong sample by sample, and of their mean over the classes.

    Args:
        gates: of the job.
        samples: that accuracy rests on.
        right_or_wrong: names of such metrics beside `accuracy_top<K>`.
        labels: class numbers of the samples, int [N]: how evenly `mean_accuracy` can weigh them; None: not known.
    """
    asked = [gate for gate in gates if _foreseen(gate, right_or_wrong) and gate.threshold > 0]
    if not asked:
        return ()
    from harness.judge.noninferiority import sample_size_advice  # scipy is heavy, and most jobs do not need it

    found = []
    for gate in asked:
        worth = None
        if gate.metric == _MEAN_ACCURACY:
            worth = samples if labels is None else worth_of(labels)
        found.append((gate.name, sample_size_advice(gate.threshold, samples, worth=worth)))
    return tuple(f"gate {name}: {advice}" for name, advice in found if advice is not None)


def unforeseen_notes(gates: Sequence[Gate], right_or_wrong: Collection[str] = ()) -> tuple[str, ...]:
    """One line for each non-inferiority gate of which nobody can say before the run how many samples it takes.

    Args:
        gates: of the job.
        right_or_wrong: as `sample_notes` takes it.
    """
    return tuple(
        f"gate {gate.name}: how many samples it takes cannot be known before the run: {gate.metric} scatters from "
        "sample to sample as the two networks have it; an undecided gate says it afterwards"
        for gate in gates
        if gate.rule is Rule.NON_INFERIOR and not _foreseen(gate, right_or_wrong)
    )


def worth_of(labels: NDArray[np.integer]) -> int:
    """How many samples of evenly filled classes these are worth to a mean over classes, rounded down.

    A mean over C classes of n_c samples has the variance psi / C^2 x sum(1 / n_c) where the share psi of the samples
    that tell the networks apart is the same in every class; that of n samples alike is psi / n.

    Args:
        labels: class numbers, int [N], at least one.
    """
    _, counts = np.unique(labels, return_counts=True)
    return int(len(counts) ** 2 / float(np.sum(1.0 / counts)) + 1e-9)


def plan_notes(plan: Plan, trial: Trial, decided: Sequence[GateResult] | None = None) -> tuple[str, ...]:
    """What a plan's number of samples can say.

    Args:
        plan: of the run.
        trial: of its metrics.
        decided: after the run: what came of the gates; "expect inconclusive" is said of none that passed or failed.
            None: before it; what only the run can tell is then named too.
    """
    gates, known = plan.job.gates, trial.right_or_wrong
    if decided is not None:
        undecided = {result.gate for result in decided if result.outcome is Outcome.INCONCLUSIVE}
        gates = tuple(gate for gate in gates if gate.name in undecided)
    labels = None if plan.data.labels is None else plan.data.labels[list(plan.samples)]
    notes = sample_notes(gates, len(plan.samples), known, labels)
    return (*notes, *unforeseen_notes(gates, known), *trial.notes) if decided is None else notes


def _foreseen(gate: Gate, right_or_wrong: Collection[str]) -> bool:
    by_name = gate.metric.startswith("accuracy_top") or gate.metric == _MEAN_ACCURACY
    return gate.rule is Rule.NON_INFERIOR and (by_name or gate.metric in right_or_wrong)
