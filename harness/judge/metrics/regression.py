"""`mse`, `sqnr` and `cosine` of outputs against targets; a row is a sample's sums of squares and products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import UserError
from harness.judge.metrics.metric import Labels, Metric, Outputs, PerSample, Weights, choose_output, divide
from harness.judge.metrics.rows import Rows

#: Names and units.
KINDS = {"mse": "", "sqnr": "dB", "cosine": ""}


@dataclass(frozen=True, slots=True)
class Closeness:
    """How close outputs x are to targets t, over all values of all samples.

    mse: sum (x - t)^2 / values; sqnr: 10 log10(sum t^2 / sum (x - t)^2), dB; cosine: sum x t / sqrt(sum x^2 sum t^2).
    """

    kind: str

    def value(self, rows: Rows) -> float:
        """See `Formula.value`."""
        return float(self.values(rows, np.ones((1, len(rows))))[0])

    def values(self, rows: Rows, weights: Weights) -> PerSample:
        """See `Formula.values`."""
        total = {name: weights @ np.asarray(column, np.float64) for name, column in rows.columns.items()}
        if self.kind == "mse":
            return divide(total["squared_error"], total["values"])
        if self.kind == "cosine":
            return divide(total["product"], np.sqrt(total["target_power"] * total["output_power"]))
        ratio = divide(total["target_power"], total["squared_error"])
        with np.errstate(divide="ignore"):
            decibel = 10 * np.log10(ratio)
        return np.where(np.isfinite(decibel), decibel, np.nan)

    def per_sample(self, rows: Rows) -> PerSample | None:
        """See `Formula.per_sample`: a mean squared error is one where all samples have the same size."""
        if self.kind != "mse" or len(np.unique(rows["values"])) != 1:
            return None
        return np.asarray(rows["squared_error"] / rows["values"], np.float64)


def closeness(kind: str) -> Metric:
    """One of `KINDS`."""

    def rows(outputs: Outputs, labels: Labels) -> Rows:
        found = choose_output(kind, outputs)
        x = np.asarray(found, np.float64).reshape(len(found), -1)
        t = np.asarray(labels, np.float64)
        t = t.reshape(len(t), -1) if t.ndim else t
        if x.shape != t.shape:
            msg = f"{kind}: outputs of shape {list(found.shape)} for targets of shape {list(np.shape(labels))}"
            raise UserError(f"{msg}; give one target value for each output value")
        sums = {
            "squared_error": np.sum((x - t) ** 2, axis=1),
            "target_power": np.sum(t * t, axis=1),
            "output_power": np.sum(x * x, axis=1),
            "product": np.sum(x * t, axis=1),
            "values": np.full(len(x), x.shape[1], np.int64),
        }
        return Rows(sums)

    return Metric(kind, KINDS[kind], rows, Closeness(kind), takes="targets", higher_is_better=kind != "mse")
