"""A metric of one's own: module:function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.errors import UserError
from harness.judge.metrics.metric import Labels, Mean, Metric, Outputs, PerSample


class NotFinite(UserError):
    """A function of one's own returned NaN or an infinite value.

    Args:
        name: of the metric, as the job has it.
        value: what it returned.
        index: of the sample it returned it for; None for one number over the whole set.
        samples: how many it was given.
        place: which sample of what that was, in words; "" where nobody knows yet.
    """

    def __init__(self, name: str, value: float, index: int | None, samples: int, place: str = "") -> None:
        counted = f"all {samples} samples" if index is None else f"sample number {index + 1} of {samples}"
        super().__init__(f"metric {name}: it returned {value} for {place or counted}; mend the function")
        self.name, self.value, self.index, self.samples = name, value, index, samples

    def at(self, place: str) -> NotFinite:
        """The same, said by someone who knows the sample: "sample 'a.png' of Quantized on pi4"."""
        return NotFinite(self.name, self.value, self.index, self.samples, place)


class Raised(UserError):
    """A function of one's own raised an exception."""


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
            raise Raised(msg) from error
        if result.ndim > 1 or (result.ndim == 1 and result.shape[0] != samples):
            msg = (
                f"metric {name}: it returned shape {result.shape}; a number or one value for each of {samples} samples"
            )
            raise UserError(msg)
        wrong = np.flatnonzero(~np.isfinite(result))
        if wrong.size:
            first = int(wrong[0])
            raise NotFinite(name, float(result.flat[first]), first if result.ndim else None, samples)
        return float(result) if result.ndim == 0 else result

    return Metric(name.partition(":")[2] or name, "", None, Mean(), whole=whole)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
