"""A metric of one's own: module:function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.errors import UserError
from harness.judge.metrics.metric import Labels, Mean, Metric, Outputs, PerSample


def own_metric(name: str, function: Callable[..., object]) -> Metric:
    """A user's function of (outputs: dict[str, ndarray], labels) → float or one value per sample [N].

    Its result is checked: a number that is not finite, or an array of another length, is a UserError that names it.
    One value per sample makes rows; one number over the whole set cannot be taken apart, and has no interval.
    """

    def whole(outputs: Outputs, labels: Labels) -> float | PerSample:
        samples = len(next(iter(outputs.values()), np.empty(0)))
        try:
            result = np.asarray(function(dict(outputs), labels), dtype=np.float64)
        except UserError:
            raise
        except Exception as error:  # the user's own code may raise anything; it becomes a UserError
            msg = f"metric {name}: it raised {type(error).__name__}: {_first_line(error)}"
            raise UserError(msg) from error
        if result.ndim > 1 or (result.ndim == 1 and result.shape[0] != samples):
            msg = (
                f"metric {name}: it returned shape {result.shape}; a number or one value for each of {samples} samples"
            )
            raise UserError(msg)
        if not np.all(np.isfinite(result)):
            msg = f"metric {name}: it returned NaN or an infinite value"
            raise UserError(msg)
        return float(result) if result.ndim == 0 else result

    return Metric(name.partition(":")[2] or name, "", None, Mean(), whole=whole)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
