"""What a metric is: rows from outputs and labels, and a formula from rows to its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.metrics.rows import Rows

Outputs = Mapping[str, NDArray[Any]]
#: Class numbers int64 [N]; or one array a sample: a mask [H, W], boxes [M, 5 or 6], a target.
Labels = Any
PerSample = NDArray[np.float64]
#: How often each sample counts in each of R multisets: [R, N], none negative.
Weights = NDArray[np.float64]


class Formula(Protocol):
    """The step from rows to the value of a metric."""

    def value(self, rows: Rows) -> float:
        """Over every sample once; NaN where the metric does not exist (no labelled box, no error to divide by)."""

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """Over R multisets of the samples: float64 [R], NaN as above."""

    def per_sample(self, rows: Rows) -> PerSample | None:
        """float64 [N] whose mean is the metric; None where it is no mean of values of the samples."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score outputs.

    Args:
        name: as published: accuracy_top1, or the function's name.
        unit: "fraction" for an accuracy, "" where a function's unit is its own affair.
        rows: (outputs, labels) of some samples → their rows. None where only calling the function over the whole set
            tells what it returns.
        formula: from rows to the value.
        whole: (outputs, labels) of the whole set → the metric, or one value per sample [N] whose mean is the metric;
            only where there are no `rows`.
        takes: the kind of labels it needs: classes, masks, boxes or targets; "" is any.
        higher_is_better: direction of a gate.
    """

    name: str
    unit: str
    rows: Callable[[Outputs, Labels], Rows] | None
    formula: Formula
    whole: Callable[[Outputs, Labels], float | PerSample] | None = None
    takes: str = ""
    higher_is_better: bool = True

    def compute(self, outputs: Outputs, labels: Labels) -> float | PerSample:
        """The metric over these samples, or one value per sample whose mean it is.

        Raises:
            UserError: outputs or labels that do not fit.
        """
        if self.whole is not None:
            return self.whole(outputs, labels)
        if self.rows is None:
            msg = f"metric {self.name}: neither rows nor a function of the whole set"
            raise ValueError(msg)
        return self.formula.value(self.rows(outputs, labels))

    def per_sample(self, outputs: Outputs, labels: Labels) -> PerSample | None:
        """One value per sample whose mean is the metric; None where there is no such thing."""
        if self.rows is None:
            values = self.compute(outputs, labels)
            return None if isinstance(values, float) else values
        return self.formula.per_sample(self.rows(outputs, labels))


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a column `value`."""

    def value(self, rows: Rows) -> float:
        """See `Formula.value`."""
        return float(rows["value"].mean())

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`."""
        return divide(weights @ rows["value"], weights.sum(axis=1))

    def per_sample(self, rows: Rows) -> PerSample | None:
        """See `Formula.per_sample`."""
        return np.asarray(rows["value"], np.float64)


def divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """The quotient, NaN where the denominator is 0."""
    whole = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    result: NDArray[np.float64] = np.divide(numerator, denominator, out=whole, where=np.asarray(denominator) != 0)
    return result


def mean_of_known(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(table)
    return divide(np.where(known, table, 0.0).sum(axis=-1), known.sum(axis=-1))


def choose_output(metric: str, outputs: Outputs, named: str | None = None) -> NDArray[Any]:
    """The output that a metric reads: the one named, else the only one.

    Raises:
        UserError: several outputs and none named, or a name the network does not have.
    """
    names = list(outputs)
    if named is None and len(names) == 1:
        return outputs[names[0]]
    if named is not None and named in outputs:
        return outputs[named]
    have = ", ".join(names)
    if named is not None:
        msg = f"output {named!r}: the network has no such output; it has {have}"
        raise UserError(msg)
    msg = f"the network has {len(names)} outputs ({have}): let postprocess return the one that {metric} takes"
    raise UserError(msg)
