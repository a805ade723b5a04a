"""How closely the quantized network's outputs follow the float network's, sample by sample, labels aside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.metrics import class_scores

#: How far a row of float32 probabilities may sum from 1.
_SUM_TOLERANCE = 1e-3

LOGITS_NOTE = "on logits recovered from probabilities (log, centred per sample)"
PROBABILITIES_NOTE = (
    "on probabilities: one network returns exact zeros, logits cannot be recovered; reads lower than on logits"
)
IDENTICAL_NOTE = "the outputs are identical: infinite"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two networks on the same samples.

    Args:
        n: samples.
        top1_same: samples on which both name the same class; None where the output holds no class scores.
        sqnr_db: 10 log10(sum f^2 / sum (f - q)^2) over all values; None when infinite or when f is all 0.
        cosine: sum f q / sqrt(sum f^2 sum q^2) over all values of the raw outputs; None when one is all 0.
        max_abs_diff: largest |f - q| of the raw outputs, in their unit.
        note: what sqnr_db was computed on, where that needs saying.
    """

    n: int
    top1_same: int | None
    sqnr_db: float | None
    cosine: float | None
    max_abs_diff: float
    note: str


@dataclass(slots=True)
class _Sums:
    """Running sums of one view of the outputs, in float64."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        self.signal += float(np.sum(reference * reference))
        self.noise += float(np.sum((reference - other) ** 2))

    def decibel(self) -> float | None:
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 and self.noise > 0 else None


@dataclass(slots=True)
class AgreementCounter:
    """Accumulates an `Agreement` over chunks of any size; the result does not depend on how they were cut.

    A network that ends in softmax hides its error: SQNR is wanted on logits (the same network reads 18 dB after
    softmax and 31 dB before). So where the float network's rows are probabilities (each in 0…1, summing to 1), the
    logarithm is taken and each sample's mean removed, which gives back the logits up to the constant that softmax
    ignores. Where a network returns exact zeros (a quantized softmax does), the logarithm does not exist and SQNR is
    that of the probabilities; the note says so.
    """

    _n: int = 0
    _same: int = 0
    _classes: bool = True
    _probabilities: bool = True
    _positive: bool = True
    _raw: _Sums = field(default_factory=_Sums)
    _logits: _Sums = field(default_factory=_Sums)
    _cross: float = 0.0
    _other: float = 0.0
    _max: float = 0.0

    def update(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Add one chunk: float outputs and quantized outputs of the same samples, samples on the first axis.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != other.shape:
            msg = f"outputs of different shape cannot be compared: {reference.shape} and {other.shape}"
            raise ValueError(msg)
        f = np.asarray(reference, dtype=np.float64)
        q = np.asarray(other, dtype=np.float64)
        self._n += f.shape[0]
        self._raw.add(f, q)
        self._cross += float(np.sum(f * q))
        self._other += float(np.sum(q * q))
        self._max = max(self._max, float(np.max(np.abs(f - q), initial=0.0)))
        f_classes, q_classes = class_scores(f), class_scores(q)
        if f_classes is None or q_classes is None:
            self._classes = self._probabilities = False
            return
        self._same += int(np.sum(f_classes.argmax(axis=1) == q_classes.argmax(axis=1)))
        if self._probabilities:
            self._probabilities = looks_like_probabilities(f_classes)
        if self._probabilities and self._positive:
            self._positive = bool((f_classes > 0).all() and (q_classes > 0).all())
            if self._positive:
                self._logits.add(_centred_log(f_classes), _centred_log(q_classes))

    def result(self) -> Agreement:
        """What was accumulated so far.

        Raises:
            ValueError: nothing was.
        """
        if self._n == 0:
            msg = "no sample to compare"
            raise ValueError(msg)
        recovered = self._classes and self._probabilities and self._positive
        sums = self._logits if recovered else self._raw
        if self._raw.noise == 0:
            note = IDENTICAL_NOTE
        elif recovered:
            note = LOGITS_NOTE
        else:
            note = PROBABILITIES_NOTE if self._classes and self._probabilities else ""
        norm = math.sqrt(self._raw.signal) * math.sqrt(self._other)
        return Agreement(
            n=self._n,
            top1_same=self._same if self._classes else None,
            sqnr_db=sums.decibel(),
            cosine=self._cross / norm if norm > 0 else None,
            max_abs_diff=self._max,
            note=note,
        )


def agreement(reference: NDArray[Any], other: NDArray[Any]) -> Agreement:
    """`Agreement` of two whole arrays, samples on the first axis: float outputs first, quantized second."""
    counter = AgreementCounter()
    counter.update(reference, other)
    return counter.result()


def looks_like_probabilities(scores: NDArray[Any]) -> bool:
    """Whether every row of [N, C] lies in 0…1 and sums to 1 within 0.001, as a softmax leaves it."""
    inside = bool(np.all((scores >= 0) & (scores <= 1 + _SUM_TOLERANCE)))
    return inside and bool(np.all(np.abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE))


def _centred_log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(probabilities)
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
